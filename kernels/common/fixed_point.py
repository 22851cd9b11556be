"""Sums of floating-point numbers in any order with the same bits: added atomically as 64-bit integers.

A sum of n numbers no larger than m fits when they are counted in units of m n / 2^62, which for a picture of a million
pixels is m / 2^42: finer than float32 resolves m. Integer addition is associative, so order does not matter.
"""

import math

import torch
from torch import Tensor


def fixed_point_scale(
    largest: Tensor,  # [N] float32, >= 0
    terms: int,
) -> Tensor:  # [N] float32
    """Computes powers of two to scale numbers of magnitude up to `largest` with, so that sums of `terms` of them fit.

    NaN where `largest` is not finite, so that the sums, divided by the scale, become NaN too.
    """
    exponent = torch.frexp(largest).exponent
    bits = 62 - math.ceil(math.log2(max(terms, 1)))
    scale = ((bits - exponent).clamp(max=126) + 127 << 23).view(torch.float32)  # 2 ** (bits - exponent), exactly
    return torch.where(largest.isfinite(), scale, torch.nan)


def from_fixed_point(
    total: Tensor,  # [N, ...] int64
    scale: Tensor,  # [N] float32
) -> Tensor:  # [N, ...] float32
    """Converts the sums to floating point."""
    return total / scale.view(-1, *(1,) * (total.ndim - 1))
