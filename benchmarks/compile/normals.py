"""Kernels of `vertex_normals`; bytes with positions and gradients of a frame in cache."""

from benchmarks.compile import Case, InStep
from benchmarks.compile._paper import RING, VERTICES_OF_FRAMES
from fmlfast.kernels.normals import TINY
from fmlfast.kernels.normals_triton import (
    LANES,
    area_vectors_bwd_kernel,
    normalization_bwd_kernel,
    vertex_normals_fwd_kernel,
)

_BLOCK = {"BLOCK": LANES}
_ELEMENT = "vertex of a frame"
_STEP = InStep("shading, backward", VERTICES_OF_FRAMES, LANES, (RING,))

CASES = [
    Case(vertex_normals_fwd_kernel, "*fp32 *i32 *i32 *fp32 *fp32 i32", {"TINY": TINY} | _BLOCK, 12 + 16, _ELEMENT),
    Case(normalization_bwd_kernel, "*fp32 *fp32 *fp32 *fp32 i32", _BLOCK, 28 + 12, _ELEMENT),
    Case(area_vectors_bwd_kernel, "*fp32 *i32 *i32 *fp32 *fp32 i32", _BLOCK, 24 + 12, _ELEMENT, step=_STEP),
]
