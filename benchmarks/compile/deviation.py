"""Deviation from the mean at 8 subjects."""

from benchmarks.compile import Case, InStep
from benchmarks.compile._paper import SUBJECTS, VERTICES_OF_SUBJECTS
from fmlfast.kernels.deviation_triton import deviation_bwd_kernel, deviation_fwd_kernel

_NUMBERS = 3 * VERTICES_OF_SUBJECTS / SUBJECTS

CASES = [
    Case(
        deviation_fwd_kernel,
        "*fp32 *fp32 *fp32 i32 i32",
        {"BLOCK": 512},
        4 * 9,
        "number of the mean",
        step=InStep("regularisers", _NUMBERS, 512, (SUBJECTS,)),
    ),
    Case(
        deviation_bwd_kernel,
        "*fp32 *fp32 *fp32 *fp32 *fp32 i32 i32",
        {"BLOCK": 512},
        4 * 18,
        "number of the mean",
        step=InStep("regularisers, backward", _NUMBERS, 512, (SUBJECTS,)),
    ),
]
