"""Compile cases of kernels/low_rank_adam_triton.py."""

from benchmarks.compile import Case, InStep
from benchmarks.compile._paper import BASIS
from fmlfast.kernels.low_rank_adam_triton import SPLIT, low_rank_adam_kernel

TYPES = "*fp32 {0} {0} {1}*fp32 *fp32 *fp32 i32 i32 i32 i32 i32 fp32 fp32 fp32"

CASES = [
    Case(
        kernel=low_rank_adam_kernel,
        variant=f"{rows} rows{', codes too' if codes else ''}, {moments[1:]} moments",
        types=TYPES.format(moments, "*fp32 " if codes else ""),
        constexprs={"SPLIT": SPLIT, "BLOCK_N": rows, "BLOCK_K": terms, "BLOCK_D": 32}
        | ({} if codes else {"partial_ptr": None}),
        options={"num_warps": 4},
        bytes=size,
        element="element of the basis",
        multiples=("code_stride", "basis_stride"),
        step=InStep("optimiser", BASIS, terms * SPLIT, (SPLIT / 32,))
        if (rows, codes, moments) == (8, True, "*fp32")
        else None,
    )
    for rows, terms, codes, moments, size in (
        (8, 16, False, "*fp32", 24),
        (8, 16, False, "*bf16", 16),
        (8, 16, True, "*fp32", 24),
        (8, 16, True, "*bf16", 16),
        (16, 8, True, "*fp32", 24),
        (16, 8, True, "*bf16", 16),
    )
]
