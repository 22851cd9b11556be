"""Compile cases of kernels/deform_triton.py and _deform_grad_triton.py."""

from benchmarks.compile import Case, InStep
from benchmarks.compile import _paper as paper
from fmlfast.kernels.deform_grad_triton import deform_bwd_kernel, skin_displacements_bwd_kernel
from fmlfast.kernels.deform_triton import COEFFICIENTS, deform_fwd_kernel

FORWARD = {"SLOTS": 8, "TERMS": COEFFICIENTS, "BLOCK_V": 64}
SIZES = " i32 i32 i32 i32"
UNPOSED = {"mean_ptr": None, "pose_ptr": None}

CASES = [
    *(
        Case(
            kernel=deform_fwd_kernel,
            variant=f"{subjects} x {frames} frames, {expressions[1:]}",
            types=f"*fp32 *fp32 *fp32 *i32 *fp32 {expressions} *fp32 *fp32" + SIZES,
            constexprs=FORWARD | {"BLOCK_B": subjects, "BLOCK_M": frames},
            options={"num_warps": 2},
            bytes=size,
            element="vertex of 32 frames",
            step=InStep("geometry", paper.VERTICES_OF_FRAMES / 32, 64 / 2, (8, 13)) if subjects == 4 else None,
        )
        for subjects, frames, expressions, size in (
            (4, 4, "*fp32", 51 * 12 + 32 * 12),
            (8, 1, "*fp32", 51 * 12 + 32 * 12),
            (8, 2, "*fp32", 51 * 12 + 32 * 12),
            (1, 16, "*bf16", 51 * 6 + 32 * 12),
        )
    ),
    Case(
        kernel=deform_fwd_kernel,
        variant="skinning alone",
        types="*fp32 *fp32 *i32 *fp32 *fp32 *fp32" + SIZES,
        constexprs=UNPOSED | FORWARD | {"BLOCK_B": 8, "BLOCK_M": 1},
        options={"num_warps": 2},
        bytes=64 + 8 * 12,
        element="vertex of 8 subjects",
    ),
    Case(
        kernel=deform_bwd_kernel,
        types="*fp32 *fp32 *fp32 *fp32 *fp32 *fp32 *fp32 i32 i32 i32",
        constexprs={"BLOCK": 256},
        options={"num_warps": 2},
        bytes=39,
        element="vertex of a frame",
        step=InStep("geometry, backward", paper.VERTICES_OF_FRAMES, 256 * paper.FRAMES, (paper.FRAMES,)),
    ),
    *(
        Case(
            kernel=skin_displacements_bwd_kernel,
            variant=variant,
            types="*fp32 *fp32 *fp32 *i32 *i32 i32 i32",
            constexprs={"SLOTS": 8, "BLOCK_E": entries, "BLOCK_C": columns},
            options={"num_warps": 8},
            bytes=12,
            element="vertex of a subject",
            step=InStep("geometry, backward", 8 * paper.VERTICES_OF_SUBJECTS, 8 * paper.ENTRIES, (paper.ENTRY_PASSES,))
            if columns == 32
            else None,
        )
        for variant, entries, columns in (("8 subjects", 256, 32), ("1 subject", 1024, 4))
    ),
]
