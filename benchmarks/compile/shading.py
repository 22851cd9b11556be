"""Kernels of `shade_sh`, with a reflectance for every frame, and of `shade_vertices`, with one for four frames."""

from typing import Any

from benchmarks.compile import Case, InStep
from benchmarks.compile._paper import FRAMES, RING, VERTICES_OF_FRAMES
from fmlfast.kernels.normals import TINY
from fmlfast.kernels.normals_triton import LANES
from fmlfast.kernels.shading_triton import shade_bwd_kernel, shade_sh_fwd_kernel, shade_vertices_fwd_kernel

_BLOCK = {"BLOCK": LANES}
_ELEMENT = "vertex of a frame"
_OPTIONAL = ("upstream_ptr", "inverse_ptr", "d_reflectance_ptr", "d_normals_ptr", "sums_ptr")


def _backward(variant: str, bytes: float, *left_out: str, step: InStep | None = None) -> Case:
    constexprs: dict[str, Any] = _BLOCK | dict.fromkeys(left_out)
    types = " ".join(["*fp32"] * (4 + len(_OPTIONAL) - len(left_out)) + ["i32", "i32"])
    return Case(shade_bwd_kernel, types, constexprs, bytes, _ELEMENT, variant, {"num_warps": 1}, step=step)


_STEP = InStep("shading, backward", VERTICES_OF_FRAMES, LANES * FRAMES, (FRAMES,))

CASES = [
    Case(shade_sh_fwd_kernel, "*fp32 *fp32 *fp32 *fp32 i32 i32", _BLOCK, 24 + 12, _ELEMENT),
    Case(
        shade_vertices_fwd_kernel,
        "*fp32 *i32 *i32 *fp32 *fp32 *fp32 *fp32 *fp32 i32 i32",
        {"TINY": TINY} | _BLOCK,
        15 + 28,
        _ELEMENT,
        step=InStep("shading", VERTICES_OF_FRAMES, LANES, (RING,)),
    ),
    _backward("shade_sh", 36 + 24, "upstream_ptr", "inverse_ptr"),
    _backward("shade_vertices", 40 + 6, "upstream_ptr", step=_STEP),
    _backward("normals used elsewhere", 52 + 6),
    _backward("light and reflectance only", 36 + 12, "upstream_ptr", "inverse_ptr", "d_normals_ptr"),
]
