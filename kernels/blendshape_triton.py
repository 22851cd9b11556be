"""Triton kernels of `blendshape`: skinny matrix products, bound by reading or writing the large basis once.

Products are outer products summed in float32 registers: no tensor core rounds them to tf32, and the lanes run along
the basis' rows, so that every access is coalesced. Few rows leave too little arithmetic for tensor cores to matter.
"""
# num_warps is an option of the launch and no argument of the kernel, and static_range is no iterator to pyright:
# pyright: reportCallIssue=false, reportGeneralTypeIssues=false

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from .common.backend import lanes, on_device
from .common.custom_op import register

ROWS = 16
"""Codes that a program of the forward kernel handles at most: as many accumulators a column stay in registers."""
TERMS = 4
"""Rows of the basis that it reads ahead: so many wide loads are in flight a thread. 8 spill scalars on gfx942."""
STRIPS = 2
"""Loads of each row of the basis that a thread of the backward kernel has in flight."""
SPLIT = 2048
"""Columns that a program of the backward kernel sums; its value decides the order of the sum."""


@triton.jit
def _rows_of_basis(basis_ptr, column, basis_stride, left, TERMS: tl.constexpr):
    """The next TERMS rows, zeros where fewer are left; padding is read too, so that aligned rows take wide loads."""
    values = ()
    for k in tl.static_range(TERMS):
        values += (
            tl.load(basis_ptr + k * basis_stride + column, mask=(column < basis_stride) & (k < left), other=0.0),
        )
    return values


@triton.jit
def linear_decode_fwd_kernel(
    out_ptr,  # [N, out_stride] float32 or bfloat16
    codes_ptr,  # [K, code_stride] float32, zeros beyond N and in rows up to a multiple of TERMS
    basis_ptr,  # [K, basis_stride] float32 or bfloat16
    mean_ptr,  # [out_stride] float32 or None
    rows,  # N
    terms,  # K
    code_stride,
    basis_stride,
    out_stride,
    BLOCK_N: tl.constexpr,
    TERMS: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """A program makes a block of rows and columns; neighbours in the grid share columns of the basis in the cache.

    Floor for K=500, D=166,575 in float32: 333 MB, 111 us at 3.0 TB/s; in bfloat16 half of that.
    """
    row_blocks = tl.cdiv(rows, BLOCK_N)
    program = tl.program_id(0)
    row = (program % row_blocks).to(tl.int64) * BLOCK_N
    column = (program // row_blocks).to(tl.int64) * BLOCK_D + tl.arange(0, BLOCK_D)
    codes_ptr += row
    total = (tl.zeros((BLOCK_D,), tl.float32),) * BLOCK_N
    values = _rows_of_basis(basis_ptr, column, basis_stride, terms, TERMS)
    for first in range(0, terms, TERMS):
        basis_ptr += TERMS * basis_stride
        # Read ahead, as one step of arithmetic is shorter than the way to memory.
        ahead = _rows_of_basis(basis_ptr, column, basis_stride, terms - first - TERMS, TERMS)
        for k in tl.static_range(TERMS):
            value = values[k].to(tl.float32)
            updated = ()
            for n in tl.static_range(BLOCK_N):
                updated += (total[n] + tl.load(codes_ptr + n) * value,)
            total = updated
            codes_ptr += code_stride
        values = ahead
    mean = tl.zeros((BLOCK_D,), tl.float32)
    if mean_ptr is not None:
        mean += tl.load(mean_ptr + column, mask=column < out_stride, other=0.0)
    for n in tl.static_range(BLOCK_N):
        inside = (column < out_stride) & (row + n < rows)
        tl.store(out_ptr + (row + n) * out_stride + column, total[n] + mean, mask=inside)


# Not specialised: wide loads of the basis alone would give it other lanes than the gradient.
@triton.jit(do_not_specialize=["basis_stride"])
def linear_decode_bwd_kernel(
    partial_ptr,  # [splits, N, K] float32
    grad_ptr,  # [N, D] float32
    basis_ptr,  # [K, basis_stride] float32 or bfloat16
    rows,  # N
    terms,  # K
    columns,  # D
    basis_stride,
    SPLIT: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    STRIPS: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Gradient of the codes, grad @ basis^T: a program sums SPLIT columns of a block of codes, in one fixed order.

    Floor for K=500, D=166,575 in float32: 333 MB, 111 us at 3.0 TB/s; in bfloat16 half of that.
    """
    row_blocks = tl.cdiv(rows, BLOCK_N)
    term_blocks = tl.cdiv(terms, BLOCK_K)
    program = tl.program_id(0)
    row = (program % row_blocks).to(tl.int64) * BLOCK_N
    term = (program // row_blocks % term_blocks).to(tl.int64) * BLOCK_K + tl.arange(0, BLOCK_K)
    split = (program // row_blocks // term_blocks).to(tl.int64)
    basis = term[:, None] * basis_stride
    lane = tl.arange(0, BLOCK_D)[None, :]
    total = (tl.zeros((BLOCK_K, BLOCK_D), tl.float32),) * BLOCK_N
    for first in range(0, SPLIT, STRIPS * BLOCK_D):
        values = ()
        for strip in tl.static_range(STRIPS):
            column = split * SPLIT + first + strip * BLOCK_D + lane
            inside = (column < columns) & (term[:, None] < terms)
            values += (tl.load(basis_ptr + (basis + column), mask=inside, other=0.0),)
        for strip in tl.static_range(STRIPS):
            column = split * SPLIT + first + strip * BLOCK_D + lane
            grads = ()
            for n in tl.static_range(BLOCK_N):
                inside = (column < columns) & (row + n < rows)
                grads += (tl.load(grad_ptr + (row + n) * columns + column, mask=inside, other=0.0),)
            value = values[strip].to(tl.float32)
            updated = ()
            for n in tl.static_range(BLOCK_N):
                updated += (total[n] + grads[n] * value,)
            total = updated
    for n in tl.static_range(BLOCK_N):
        place = (split * rows + row + n) * terms + term
        tl.store(partial_ptr + place, tl.sum(total[n], axis=1), mask=(term < terms) & (row + n < rows))


def skinny_product(
    codes: Tensor,  # [N, K] float32, any strides
    basis: Tensor,  # [K, S] float32 or bfloat16, contiguous
    out: Tensor,  # [N, D], contiguous
    mean: Tensor | None = None,  # [D] float32
) -> Tensor:  # [N, D]
    """Fills `out` with mean + codes @ basis; columns that the basis lacks count as zero, those beyond D are ignored."""
    if out.numel() == 0:
        return out
    rows, columns = out.shape
    block_n, block_d = int(min(ROWS, triton.next_power_of_2(rows))), lanes(256)
    padded = F.pad(codes.T, (0, -rows % block_n, 0, -len(basis) % TERMS)).contiguous()
    with on_device(out):
        linear_decode_fwd_kernel[(triton.cdiv(rows, block_n) * triton.cdiv(columns, block_d),)](
            out,
            padded,
            basis,
            mean,
            rows,
            len(basis),
            padded.shape[1],
            basis.shape[1],
            columns,
            BLOCK_N=block_n,
            TERMS=TERMS,
            BLOCK_D=block_d,
            num_warps=2,
        )
    return out


def codes_gradient(
    grad: Tensor,  # [N, D] float32, contiguous
    basis: Tensor,  # [K, S] float32 or bfloat16, contiguous, S >= D
) -> Tensor:  # [N, K] float32
    """grad @ basis[:, :D]^T in a fixed order: partial sums over blocks of columns, then over the blocks."""
    (rows, columns), terms = grad.shape, len(basis)
    if rows * terms * columns == 0:
        return grad.new_zeros(rows, terms)
    block_n = int(min(ROWS, triton.next_power_of_2(rows)))
    block_k = min(32, 256 // block_n, triton.next_power_of_2(terms))
    block_d = lanes(32)
    split = max(SPLIT, STRIPS * block_d)
    splits = -(-columns // split)
    partial = torch.empty(splits, rows, terms, dtype=torch.float32, device=grad.device)
    with on_device(grad):
        linear_decode_bwd_kernel[(triton.cdiv(rows, block_n) * triton.cdiv(terms, block_k) * splits,)](
            partial,
            grad,
            basis,
            rows,
            terms,
            columns,
            basis.shape[1],
            SPLIT=split,
            BLOCK_N=block_n,
            BLOCK_K=block_k,
            STRIPS=STRIPS,
            BLOCK_D=block_d,
            num_warps=4,
        )
    return partial.sum(0)


def _forward(
    codes: Tensor,  # [N, K] float32
    basis: Tensor,  # [K, S] float32 or bfloat16
    mean: Tensor,  # [D] float32
) -> Tensor:  # [N, D]
    return skinny_product(codes, basis, codes.new_empty(len(codes), len(mean)), mean)


def _backward(
    wanted: list[bool],
    grad_out: Tensor,  # [N, D]
    codes: Tensor,  # [N, K]
    basis: Tensor,  # [K, S]
) -> list[Tensor]:  # as codes, as basis, as mean
    grad, out = grad_out.contiguous(), []
    if wanted[0]:
        out.append(codes_gradient(grad, basis))
    if wanted[1]:
        out.append(skinny_product(codes.T, grad, torch.empty_like(basis)))
    if wanted[2]:
        out.append(grad.sum(0))
    return out


def _fake(codes: Tensor, basis: Tensor, mean: Tensor) -> Tensor:
    return codes.new_empty(len(codes), len(mean))


def _fake_backward(wanted: list[bool], grad_out: Tensor, codes: Tensor, basis: Tensor) -> list[Tensor]:
    like = codes.new_empty(codes.shape), torch.empty_like(basis), grad_out.new_empty(grad_out.shape[1])
    return [x for x, needed in zip(like, wanted, strict=True) if needed]


linear_decode_triton = register(
    "linear_decode",
    _forward,
    _backward,
    _fake,
    outputs=("out",),
    gradients_to=("codes", "basis", "mean"),
    fake_backward=_fake_backward,
)
