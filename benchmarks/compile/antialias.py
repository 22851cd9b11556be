"""How the kernels of `antialias` are launched at full size: pictures of 3 colours and a mask."""

from benchmarks.compile import Case
from fmlfast.kernels.antialias_find_triton import OPTIONS, PIXELS, antialias_find_kernel
from fmlfast.kernels.antialias_grad_triton import antialias_bwd_kernel
from fmlfast.kernels.antialias_triton import BLEND_OPTIONS, antialias_blend_kernel
from fmlfast.kernels.common.outlines import MAX_STEPS

_MESH = "*fp32 *i32 *fp32 *i32"  # vertices, triangles, Ks, codes
_SIZES = "i32 i32 i32 i32"

CASES = [
    Case(
        antialias_find_kernel,
        "*i32 *fp32 *fp32 *i32 *i32 *fp32 *i32 i32 i32 i32 i32",
        {"MAX_STEPS": MAX_STEPS, "BLOCK": PIXELS},
        16,
        "pixel",
        options=OPTIONS,
    ),
    *(
        Case(
            antialias_blend_kernel,
            f"*fp32 {_MESH} *fp32 {_SIZES}",
            {"TRANSPOSED": transposed, "CHANNELS": channels, "BLOCK": PIXELS},
            8 * channels + 8,
            "pixel",
            f"{'backward' if transposed else 'forward'}, {channels} channels",
            BLEND_OPTIONS,
        )
        for transposed in (False, True)
        for channels in (1, 4)
    ),
    *(
        Case(
            antialias_bwd_kernel,
            f"*fp32 *fp32 {_MESH} *fp32 *fp32 *i64 {_SIZES}",
            {"MAX_ONLY": max_only, "BLOCK": PIXELS},
            8,
            "pixel",
            "largest" if max_only else "sums",
            OPTIONS,
        )
        for max_only in (True, False)
    ),
]
