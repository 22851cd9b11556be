# SPDX-License-Identifier: Apache-2.0
"""Kernels whose results are known, and kernels that do wrong, for the emulator's tests."""
# Launch options and constexprs are unknown to it.
# pyright: reportCallIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false, reportIndexIssue=false

import triton
import triton.language as tl


@triton.jit
def add_kernel(x, y, out, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(x + i, mask=i < n) + tl.load(y + i, mask=i < n), mask=i < n)


@triton.jit
def sum_kernel(x, out, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + tl.program_id(0), tl.sum(tl.load(x + i, mask=i < n, other=0), 0))


@triton.jit
def cumsum_kernel(x, out, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(out + i, tl.cumsum(tl.load(x + i), 0))


@triton.jit
def histogram_kernel(x, out, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.atomic_add(out + tl.load(x + i, mask=i < n, other=0), 1, mask=i < n)


@triton.jit
def reserve_kernel(x, counter, out, n, BLOCK: tl.constexpr):
    """A scalar atomic addition within an `if`, as the rasterizer's queue has it."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    chosen = (i < n) & (tl.load(x + i, mask=i < n, other=0) > 5)
    count = tl.sum(chosen.to(tl.int64), 0)
    if count > 0:
        place = tl.atomic_add(counter, count, sem="relaxed") + tl.cumsum(chosen.to(tl.int64), 0) - 1
        tl.store(out + place, i, mask=chosen)


@triton.jit
def collatz_kernel(x, out, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    value, steps = tl.load(x + i), tl.zeros([BLOCK], tl.int32)
    while tl.max(value, 0) > 1:
        steps += (value > 1).to(tl.int32)
        value = tl.where(value > 1, tl.where(value % 2 == 1, 3 * value + 1, value // 2), value)
    tl.store(out + i, steps)


@triton.jit
def rows_kernel(x, out, rows, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    r, c = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None], tl.arange(0, COLUMNS)[None, :]
    value = tl.load(x + r * columns + c, mask=(r < rows) & (c < columns), other=-float("inf"))
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    tl.store(out + row, tl.max(value, 1), mask=row < rows)


@triton.jit
def transpose_kernel(x, out, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    tl.store(out + at, tl.trans(tl.load(x + at)))


@triton.jit
def math_kernel(x, out, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    v = tl.load(x + i)
    tl.store(out + i, tl.exp(v))
    tl.store(out + BLOCK + i, tl.log(tl.abs(v) + 0.1))
    tl.store(out + 2 * BLOCK + i, tl.sqrt(tl.abs(v)))
    tl.store(out + 3 * BLOCK + i, 1.0 / v)
    tl.store(out + 4 * BLOCK + i, tl.div_rn(v, v + 1.0))
    tl.store(out + 5 * BLOCK + i, tl.floor(v))
    tl.store(out + 6 * BLOCK + i, tl.minimum(v, 0.5))
    tl.store(out + 7 * BLOCK + i, tl.rsqrt(tl.abs(v)))


@triton.jit
def cast_kernel(x, out, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    v = tl.load(x + i)
    tl.store(out + i, v.to(tl.int32))
    tl.store(out + BLOCK + i, v.to(tl.bfloat16).to(tl.float32).to(tl.int32, bitcast=True))


@triton.jit
def whole_kernel(a, b, out, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    x, y = tl.load(a + i), tl.load(b + i)
    tl.store(out + i, x // y)
    tl.store(out + BLOCK + i, x % y)
    tl.store(out + 2 * BLOCK + i, (x * y) >> 3)


@triton.jit
def beyond_kernel(x, out, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(x + i + 1, mask=i < n), mask=i < n)


@triton.jit
def before_kernel(x, out, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(x + i - 1))


@triton.jit
def collide_kernel(out, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(out + i // 2, tl.program_id(0).to(tl.float32) * 1000 + i)


@triton.jit
def neighbour_kernel(out, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(out + (i + BLOCK) % (4 * BLOCK)) + 1)


@triton.jit
def in_place_kernel(out, BLOCK: tl.constexpr):
    """Few elements: several warps read what one of them overwrites."""
    i = tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(out + i) + 1)


@triton.jit
def frames_kernel(x, out, WIDE: tl.constexpr, BLOCK: tl.constexpr):
    """Copies a row a program, by addresses that are right in 64 bits only."""
    row = tl.program_id(0)
    if WIDE:
        row = row.to(tl.int64)
    i = row * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(x + i))
