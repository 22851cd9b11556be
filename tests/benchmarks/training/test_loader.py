"""The rows of the clip loader."""

from pathlib import Path

from benchmarks.training.loader import measure


def test_the_benchmark_has_a_row_for_every_way(synthetic_folder: Path) -> None:
    rows = list(measure("cpu", synthetic_folder, seconds=0.0))
    ways = [row.provider for row in rows]
    assert ways[0] == "JPEG" and ways[1] == "JPEG, 1 worker"
    assert ways[-3:] == ["memory map", "memory map, on cpu", "memory map, augmented on cpu"]
    assert all(row.shape == "8 x 4 frames of 64 px" and (row.median_ms or 0) > 0 for row in rows)
