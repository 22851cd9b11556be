"""The kernel of `vertex_visibility`."""

from benchmarks.compile import Case
from fmlfast.kernels.visibility_triton import LANES, vertex_visibility_fwd_kernel

CASES = [
    Case(
        vertex_visibility_fwd_kernel,
        "*fp32 *fp32 *fp32 *fp32 *i1 i32 i32 i32",
        {"BLOCK": LANES},
        24 + 1 + 4,
        "vertex of a frame",
        "a pixel a vertex",
        options={"enable_fp_fusion": False},
    )
]
