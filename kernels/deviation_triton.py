"""Triton kernels of `deviation`: a lane per number of the mean, which goes through the subjects.

Floor for 8 subjects and 55,525 vertices: 6 MB read, 2 us at 3.0 TB/s; backward 6 MB read and 6 written, 4 us.
"""

# pyright: reportCallIssue=false
# (launch options are no parameters of the kernels)

import torch
import triton
import triton.language as tl
from torch import Tensor

from .common.backend import lanes, on_device
from .common.custom_op import register


@triton.jit
def deviation_fwd_kernel(
    values_ptr,  # [B, N]
    mean_ptr,  # [N]
    sums_ptr,  # [B, blocks]
    subjects,
    count,
    BLOCK: tl.constexpr,
):
    block = tl.program_id(0).to(tl.int64)
    i = block * BLOCK + tl.arange(0, BLOCK)
    inside = i < count
    mean = tl.load(mean_ptr + i, mask=inside, other=0.0)
    at = i
    for b in range(subjects):
        difference = tl.load(values_ptr + at, mask=inside, other=0.0) - mean
        at += count
        tl.store(sums_ptr + b * tl.num_programs(0) + block, tl.sum(difference * difference))


@triton.jit
def deviation_bwd_kernel(
    values_ptr,  # [B, N]
    mean_ptr,  # [N]
    upstream_ptr,  # [B], gradient of the sum of squares
    d_values_ptr,  # [B, N]
    d_mean_ptr,  # [N]
    subjects,
    count,
    BLOCK: tl.constexpr,
):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = i < count
    mean = tl.load(mean_ptr + i, mask=inside, other=0.0)
    total = tl.zeros((BLOCK,), tl.float32)
    at = i
    for b in range(subjects):
        difference = tl.load(values_ptr + at, mask=inside, other=0.0) - mean
        gradient = 2.0 * tl.load(upstream_ptr + b) * difference
        tl.store(d_values_ptr + at, gradient, mask=inside)
        total += gradient
        at += count
    tl.store(d_mean_ptr + i, -total, mask=inside)


def _forward(
    values: Tensor,  # [B, V, 3]
    mean: Tensor,  # [V, 3]
) -> Tensor:  # [B]
    block = lanes(512)
    blocks = -(-mean.numel() // block)
    sums = values.new_empty(len(values), blocks)
    with on_device(values):
        deviation_fwd_kernel[(blocks,)](values, mean, sums, len(values), mean.numel(), BLOCK=block, num_warps=4)
    return sums.sum(1) / mean.numel()


def _backward(
    wanted: list[bool],
    grad_out: Tensor,  # [B]
    values: Tensor,  # [B, V, 3]
    mean: Tensor,  # [V, 3]
) -> list[Tensor]:  # as values, as mean
    d_values, d_mean = torch.empty_like(values), torch.empty_like(mean)
    block = lanes(512)
    with on_device(values):
        deviation_bwd_kernel[(triton.cdiv(mean.numel(), block),)](
            values, mean, grad_out / mean.numel(), d_values, d_mean, len(values), mean.numel(), BLOCK=block, num_warps=4
        )
    return [d for d, needed in zip((d_values, d_mean), wanted, strict=True) if needed]


def _fake(values: Tensor, mean: Tensor) -> Tensor:
    return values.new_empty(len(values))


deviation_triton = register("deviation", _forward, _backward, _fake, outputs=("out",), gradients_to=("values", "mean"))
