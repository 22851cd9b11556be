"""Triton kernel of `low_rank_adam`: the basis and its moments stream by once, their gradient is made in registers.

Floor for K=500, D=166,575, whatever N: 2.0 GB with float32 moments, 667 us at 3.0 TB/s; 1.33 GB, 444 us, in bfloat16.
"""
# num_warps is an option of the launch and no argument of the kernel, and static_range is no iterator to pyright:
# pyright: reportCallIssue=false, reportGeneralTypeIssues=false

import math

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from .blendshape_triton import codes_gradient
from .common.backend import lanes, on_device

ROWS = 16
"""Rows of codes whose gradient is summed in the pass; with more of them it would not fit into registers."""
SPLIT = 2048
"""Columns that a program updates; its value decides the order of the sum for the codes."""


@triton.jit
def _mix(x):
    """`low_rank_adam._mix` on uint32."""
    x = (x ^ (x >> 16)) * 0x7FEB352D
    x = (x ^ (x >> 15)) * 0x846CA68B
    return x ^ (x >> 16)


@triton.jit
def _stored(x, noise, TYPE: tl.constexpr):
    """x as it is stored: in bfloat16 one of its two neighbours, in the mean x."""
    if TYPE == tl.bfloat16:
        rounded = ((x.to(tl.uint32, bitcast=True) + noise) & 0xFFFF0000).to(tl.float32, bitcast=True)
        x = tl.where(tl.abs(x) < float("inf"), rounded, x)  # noise would turn a NaN into a number
    return x.to(TYPE)


@triton.jit
def low_rank_adam_kernel(
    basis_ptr,  # [K, basis_stride] float32
    exp_avg_ptr,  # [K, basis_stride] float32 or bfloat16
    exp_avg_sq_ptr,  # [K, basis_stride] float32 or bfloat16
    partial_ptr,  # [splits, N, K] float32, or None for no gradient of the codes
    codes_ptr,  # [N, code_stride] float32, zeros beyond K and in rows up to a multiple of BLOCK_N
    upstream_ptr,  # [N, basis_stride] float32, zeros beyond D and in rows up to a multiple of BLOCK_N
    scalars_ptr,  # [3] float32: learning rate over bias, one over the root of the second moment's bias, step
    rows,  # N, at most BLOCK_N with a gradient of the codes
    terms,  # K
    columns,  # D
    code_stride,
    basis_stride,
    decay,  # 1 - beta1
    decay_sq,  # 1 - beta2
    eps,
    SPLIT: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """A program updates SPLIT columns of a block of rows; neighbours in the grid share those columns of `upstream`.

    Padding is read and written too, so that aligned rows take wide loads; its gradient of zero leaves it as it was.
    """
    term_blocks = tl.cdiv(terms, BLOCK_K)
    program = tl.program_id(0)
    term = (program % term_blocks).to(tl.int64) * BLOCK_K + tl.arange(0, BLOCK_K)
    split = (program // term_blocks).to(tl.int64)
    known = term < terms
    lane = tl.arange(0, BLOCK_D)[None, :]
    rate = tl.load(scalars_ptr)
    scale = tl.load(scalars_ptr + 1)
    step = tl.load(scalars_ptr + 2)
    row_hash = _mix(term.to(tl.uint32) ^ _mix(step.to(tl.uint32)))[:, None]
    codes = ()
    for n in tl.static_range(BLOCK_N):
        codes += (tl.load(codes_ptr + n * code_stride + term)[:, None],)
    total = (tl.zeros((BLOCK_K, BLOCK_D), tl.float32),) * BLOCK_N
    for strip in range(0, SPLIT, BLOCK_D):
        column = split * SPLIT + strip + lane
        readable = (column < basis_stride) & known[:, None]
        at = term[:, None] * basis_stride + column
        value = tl.load(basis_ptr + at, mask=readable, other=0.0)
        old = tl.load(exp_avg_ptr + at, mask=readable, other=0.0)
        old_sq = tl.load(exp_avg_sq_ptr + at, mask=readable, other=0.0)
        gradient = tl.zeros((BLOCK_K, BLOCK_D), tl.float32)
        # As wide as the tile although its rows are one: narrower, its lanes would have to be rearranged for each use.
        row = upstream_ptr + tl.zeros((BLOCK_K, 1), tl.int64) + column
        updated = ()
        for n in tl.static_range(BLOCK_N):
            up = tl.load(row + n * basis_stride, mask=readable, other=0.0)
            gradient += codes[n] * up
            if partial_ptr is not None:
                updated += (total[n] + tl.where(column < columns, value, 0.0) * up,)
        if partial_ptr is not None:
            total = updated
        else:
            for first in range(BLOCK_N, rows, BLOCK_N):
                row += BLOCK_N * basis_stride
                for n in tl.static_range(BLOCK_N):
                    code = tl.load(codes_ptr + (first + n) * code_stride + term)[:, None]
                    gradient += code * tl.load(row + n * basis_stride, mask=readable, other=0.0)
        mean = old.to(tl.float32)
        mean += (gradient - mean) * decay
        square = old_sq.to(tl.float32)
        square += (gradient * gradient - square) * decay_sq
        moved = value - rate * mean / (tl.sqrt(square) * scale + eps)
        noise = _mix(row_hash ^ column.to(tl.uint32))
        mean = _stored(mean, noise & 0xFFFF, exp_avg_ptr.dtype.element_ty)
        square = _stored(square, noise >> 16, exp_avg_sq_ptr.dtype.element_ty)
        tl.store(basis_ptr + at, moved, mask=readable)
        tl.store(exp_avg_ptr + at, mean, mask=readable)
        tl.store(exp_avg_sq_ptr + at, square, mask=readable)
    if partial_ptr is not None:
        for n in tl.static_range(BLOCK_N):
            place = (split * rows + n) * terms + term
            tl.store(partial_ptr + place, tl.sum(total[n], axis=1), mask=known & (n < rows))


def _scalars(step: Tensor, lr: float | Tensor, betas: tuple[float, float]) -> Tensor:  # [3] float32
    """lr over the first moment's bias, one over the root of the second's, step: on the device, for CUDA graphs."""
    count = step.double()  # 1 - beta^step cancels in float32
    bias, bias_sq = (-torch.expm1(count * (math.log(beta) if beta else -math.inf)) for beta in betas)
    return torch.stack([lr / bias, bias_sq.rsqrt(), count]).float()


def low_rank_adam_triton(
    basis: Tensor,  # [K, S] float32
    moments: tuple[Tensor, Tensor],  # [K, S] each, float32 or bfloat16
    codes: Tensor,  # [N, K] float32, any strides
    upstream: Tensor,  # [N, D] float32
    step: Tensor,  # [] float32
    lr: float | Tensor,
    betas: tuple[float, float],
    eps: float,
    wants_codes_gradient: bool,
) -> Tensor | None:  # [N, K]
    """`low_rank_adam.low_rank_adam_` through the kernel."""
    (rows, columns), (terms, stride) = upstream.shape, basis.shape
    fused = wants_codes_gradient and 0 < rows <= ROWS
    codes_grad = codes_gradient(upstream, basis) if wants_codes_gradient and not fused else None
    if terms * columns == 0:
        return codes.new_zeros(rows, terms) if fused else codes_grad
    block_n = int(min(ROWS, triton.next_power_of_2(max(rows, 1))))
    block_d, warps = lanes(32), 4
    # At least as large as the program: of a smaller tile several warps hold copies, and load what others have stored.
    fewest = max(1, 32 * warps // block_d)
    block_k = int(max(fewest, min(16, 128 // block_n, triton.next_power_of_2(terms))))
    missing = -rows % block_n if rows else block_n
    codes = F.pad(codes, (0, -terms % block_k, 0, missing)).contiguous()
    if columns < stride or missing:  # a copy of few rows, for which they are read as wide as the basis
        upstream = F.pad(upstream, (0, stride - columns, 0, missing))
    split = max(SPLIT, block_d)
    splits = -(-columns // split)
    partial = torch.empty(splits, rows, terms, device=basis.device) if fused else None
    with on_device(basis):
        low_rank_adam_kernel[(splits * triton.cdiv(terms, block_k),)](
            basis,
            *moments,
            partial,
            codes,
            upstream,
            _scalars(step, lr, betas),
            rows,
            terms,
            columns,
            codes.shape[1],
            stride,
            1 - betas[0],
            1 - betas[1],
            eps,
            SPLIT=split,
            BLOCK_N=block_n,
            BLOCK_K=block_k,
            BLOCK_D=block_d,
            num_warps=warps,
        )
    return codes_grad if partial is None else partial.sum(0)
