"""Reflectance sparsity at 8 subjects of 4 frames."""

from fmlfast.kernels.sparsity import TINY
from fmlfast.kernels.sparsity_triton import chromaticity_fwd_kernel, sparsity_fwd_kernel

from . import Case, InStep
from . import _paper as paper

FOUR_WARPS = {"num_warps": 4}

CASES = [
    Case(
        chromaticity_fwd_kernel,
        "*fp32 *fp32 *fp32 *i1 i32 i32",
        {"BLOCK": 256},
        bytes=4 * 16 + 9,
        element="vertex of a subject",
        options=FOUR_WARPS,
        step=InStep("regularisers", paper.VERTICES_OF_SUBJECTS, 256, (paper.FRAMES,)),
    ),
    Case(
        sparsity_fwd_kernel,
        "*fp32 *fp32 *i1 *i32 *i32 *fp32 *fp32 i32 fp32 fp32",
        {"TINY": TINY, "BLOCK": 128},
        bytes=21 + 12 + 28 / 8,  # a vertex's lists of edges are read from memory once for 8 subjects
        element="vertex of a subject",
        options=FOUR_WARPS,
        step=InStep("regularisers", paper.VERTICES_OF_SUBJECTS, 128, (paper.RING,)),
    ),
]
