"""Fixed-point sums in kernels; see `fixed_point`."""

import triton
import triton.language as tl


@triton.jit
def add_fixed(ptr, row, channel, value, CHANNELS: tl.constexpr, one_row):
    """Adds `value` [BLOCK, CHANNEL_BLOCK] to the rows' channels in fixed point, at once where all rows are one.

    Thousands of additions to one address would wait for each other. They are of integers, so the bits stay the same.
    `row` counts numbers; where there is nothing to add it is 0, and so is `value`.
    """
    value = value.to(tl.int64)
    inside = channel < CHANNELS
    if one_row:
        tl.atomic_add(ptr + tl.max(row) + channel, tl.sum(value, 0), mask=inside, sem="relaxed")
    else:
        mask = (value != 0) & inside[None, :]
        tl.atomic_add(ptr + row[:, None] + channel[None, :], value, mask=mask, sem="relaxed")
