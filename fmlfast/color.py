"""Transfer between display (sRGB) and linear RGB, IEC 61966-2-1."""

import torch
from torch import Tensor


def srgb_to_linear(image: Tensor) -> Tensor:
    """Linear RGB of sRGB values, any shape, both in [0, 1]."""
    return torch.where(image <= 0.04045, image / 12.92, ((image.clamp(min=0.0) + 0.055) / 1.055) ** 2.4)


def linear_to_srgb(image: Tensor) -> Tensor:
    """sRGB of linear RGB values, any shape, both in [0, 1]; values outside are clamped."""
    image = image.clamp(0.0, 1.0)
    return torch.where(image <= 0.0031308, image * 12.92, 1.055 * image.clamp(min=1e-8) ** (1 / 2.4) - 0.055)
