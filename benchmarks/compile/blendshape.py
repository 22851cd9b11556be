"""Compile cases of kernels/blendshape_triton.py."""

from benchmarks.compile import Case, InStep
from benchmarks.compile._paper import BASIS, EXPRESSION_BASIS
from fmlfast.kernels.blendshape_triton import SPLIT, STRIPS, TERMS, linear_decode_bwd_kernel, linear_decode_fwd_kernel

FORWARD = "*fp32 *fp32 {} *fp32 i32 i32 i32 i32 i32"
BACKWARD = "*fp32 *fp32 {} i32 i32 i32 i32"

CASES = [
    *(
        Case(
            kernel=linear_decode_fwd_kernel,
            variant=f"{rows} rows, {basis[1:]}",
            types=FORWARD.format(basis),
            constexprs={"BLOCK_N": rows, "TERMS": TERMS, "BLOCK_D": 256},
            options={"num_warps": 2},
            bytes=size,
            element="element of the basis",
            multiples=("basis_stride",),
            step=InStep("geometry", BASIS, 500 * 256, (500 / TERMS,)) if (rows, size) == (8, 4) else None,
        )
        for rows, basis, size in ((8, "*fp32", 4), (8, "*bf16", 2), (16, "*fp32", 4))
    ),
    Case(
        kernel=linear_decode_fwd_kernel,
        variant="basis gradient",
        types="*fp32 *fp32 *fp32 i32 i32 i32 i32 i32",
        constexprs={"mean_ptr": None, "BLOCK_N": 16, "TERMS": TERMS, "BLOCK_D": 256},
        options={"num_warps": 2},
        bytes=4,
        element="element of the basis",
    ),
    *(
        Case(
            kernel=linear_decode_bwd_kernel,
            variant=f"{rows} rows, {basis[1:]}",
            types=BACKWARD.format(basis),
            constexprs={"SPLIT": SPLIT, "BLOCK_N": rows, "BLOCK_K": terms, "STRIPS": STRIPS, "BLOCK_D": 32},
            options={"num_warps": 4},
            bytes=size,
            element="element of the basis",
            # Of 16 rows for the 32 frames' expressions, the basis twice.
            step=InStep("geometry, backward", EXPRESSION_BASIS, terms * SPLIT / 2, (SPLIT / 64,))
            if rows == 16
            else None,
        )
        for rows, terms, basis, size in ((8, 32, "*fp32", 4), (8, 32, "*bf16", 2), (16, 16, "*fp32", 4))
    ),
]
