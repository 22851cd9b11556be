"""Deviation from the mean at 8 subjects."""

from benchmarks.compile import Case
from fmlfast.kernels.deviation_triton import deviation_bwd_kernel, deviation_fwd_kernel

CASES = [
    Case(deviation_fwd_kernel, "*fp32 *fp32 *fp32 i32 i32", {"BLOCK": 512}, 4 * 9, "number of the mean"),
    Case(deviation_bwd_kernel, "*fp32 *fp32 *fp32 *fp32 *fp32 i32 i32", {"BLOCK": 512}, 4 * 18, "number of the mean"),
]
