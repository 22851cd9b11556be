"""Rows as a run leaves them: right, wrong, late, missing, of a sweep, and of a whole step."""

from benchmarks.harness.rows import OUT_OF_TIME, Row

ROWS = [
    Row("decode", "forward", "torch", "8 x 500", median_ms=1.5, bytes=1e9, copy_bandwidth_percent=40.0, max_error=1e-7),
    Row("decode", "forward", "compile", "8 x 500", median_ms=1.0, repeatable=False, note=""),
    Row("decode", "forward", "pytorch3d", "8 x 500", note="not installed"),
    Row("decode", "backward", "torch", "8 x 500", note="wrong: error 2e-1, 1e-3 is allowed", max_error=0.2),
    Row("decode", "backward", "compile", "8 x 500", note=OUT_OF_TIME),
    *(
        Row("raster", "forward", "torch", f"{x} px", "image", float(x), median_ms=x / 100, elements=float(x * x))
        for x in (240, 512)
    ),
    Row("training step", "step", "torch", "cpu preset", median_ms=100.0, frames=32.0, repeatable=True),
    Row("clip loader", "data", "JPEG, 2 workers", "8 x 4 frames", median_ms=10.0, frames=32.0),
]
