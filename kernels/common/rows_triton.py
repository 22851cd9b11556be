"""Rows of four floats for kernels that gather vectors of three: one load of 128 bits a vector instead of three."""
# Pyright knows neither launch options nor that functions of a kernel return something.
# pyright: reportCallIssue=false, reportGeneralTypeIssues=false, reportArgumentType=false

import triton
import triton.language as tl
from torch import Tensor

from .backend import lanes, on_device
from .lanes_triton import load3, store_row

LANES = 128


@triton.jit
def pad_rows_kernel(
    vectors_ptr,  # [N, 3]
    rows_ptr,  # [N, 4] out
    count,
    BLOCK: tl.constexpr,
):
    """Adds a zero to each vector. Moves 28 bytes a vector."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = at < count
    x, y, z = load3(vectors_ptr + 3 * at, mask)
    store_row(rows_ptr, at, (x, y, z, tl.zeros_like(x)), mask)


def pad_rows(
    vectors: Tensor,  # [..., 3] float32, contiguous
) -> Tensor:  # [..., 4]
    """Copies vectors into rows of four floats, for kernels that gather them."""
    rows = vectors.new_empty(*vectors.shape[:-1], 4)
    block, count = lanes(LANES), vectors.numel() // 3
    with on_device(vectors):
        pad_rows_kernel[(triton.cdiv(count, block),)](vectors, rows, count, BLOCK=block, num_warps=4)
    return rows
