"""The kernel of `vertex_visibility`."""

from benchmarks.compile import Case, InStep
from benchmarks.compile._paper import VERTICES_OF_FRAMES
from fmlfast.kernels.visibility import LIMIT, SLACK
from fmlfast.kernels.visibility_triton import LANES, vertex_visibility_fwd_kernel

CASES = [
    Case(
        vertex_visibility_fwd_kernel,
        "*fp32 *fp32 *fp32 *fp32 *i1 i32 i32 i32",
        {"LIMIT": LIMIT, "SLACK": SLACK, "BLOCK": LANES},
        24 + 1 + 4,
        "vertex of a frame",
        "a pixel a vertex",
        options={"enable_fp_fusion": False},
        step=InStep("visibility", VERTICES_OF_FRAMES, LANES),
    )
]
