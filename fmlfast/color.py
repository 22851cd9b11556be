"""Converts colours between display (sRGB) and linear RGB, IEC 61966-2-1."""

import torch
from torch import Tensor

LUMINANCE = (0.2126, 0.7152, 0.0722)  # of linear RGB
JOINT = 0.04045  # sRGB value up to which the transfer is linear


def srgb_to_linear(image: Tensor) -> Tensor:
    """Converts sRGB values to linear RGB, any shape, both floats in [0, 1]; raises ValueError for integers."""
    _check(image)
    # Both pieces meet at JOINT; torch.where and pow would take twice as long.
    curve = image.clamp(min=JOINT).add_(0.055).div_(1.055).log2().mul_(2.4).exp2_()
    return image.clamp(max=JOINT).sub_(JOINT).div_(12.92).add_(curve)


def linear_to_srgb(image: Tensor) -> Tensor:
    """Converts linear RGB to sRGB, any shape, floats clamped to [0, 1]; raises ValueError for integers."""
    _check(image)
    image = image.clamp(0.0, 1.0)
    return torch.where(image <= 0.0031308, image * 12.92, 1.055 * image.clamp(min=1e-8) ** (1 / 2.4) - 0.055)


def _check(image: Tensor) -> None:
    if not image.is_floating_point():
        raise ValueError(f"colours must be floats in [0, 1], got {image.dtype}; divide 8-bit values by 255 first")
