"""Per-vertex photometric loss: sample the image at projected vertices and compare. Torch reference."""

import torch
import torch.nn.functional as F
from torch import Tensor

KINDS = ("squared", "l1", "charbonnier")


def sample_bilinear(
    images: Tensor,  # [F, C, H, W]
    uv: Tensor,  # [F, V, 2] px, pixel centres at +0.5
) -> Tensor:  # [F, V, C]
    """Bilinear samples of an image at pixel positions; positions outside take the border's colour.

    Raises ValueError where the shapes disagree.
    """
    if images.ndim != 4 or uv.ndim != 3 or uv.shape[0] != images.shape[0] or uv.shape[2] != 2:
        raise ValueError(f"images [F,C,H,W] and uv [F,V,2] disagree: {tuple(images.shape)}, {tuple(uv.shape)}")
    size = uv.new_tensor([images.shape[3], images.shape[2]])
    grid = (uv / size * 2 - 1)[:, :, None]
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)[..., 0].transpose(1, 2)


def photometric(
    images: Tensor,  # [F, 3, H, W] linear RGB
    uv: Tensor,  # [F, V, 2] px
    colors: Tensor,  # [F, V, 3] linear RGB, the shaded model
    weights: Tensor,  # [F, V], 0 where the vertex is not visible
    kind: str = "squared",
) -> tuple[Tensor, Tensor]:  # [F], [F, V, 3]
    """Weighted mean over visible vertices of rho(I(u_i) - c_i), and the image's colours at the vertices.

    rho is the squared norm (the paper), the norm ("l1"), or sqrt(d^2 + 0.03^2) - 0.03 ("charbonnier"), which grows
    linearly beyond a difference of 0.03 and so resists occluders and highlights. A frame without visible vertices
    gives 0. Raises ValueError for an unknown kind.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {KINDS}, got {kind!r}")
    sampled = sample_bilinear(images, uv)
    squared = (sampled - colors).square().sum(-1)
    if kind == "squared":
        cost = squared
    elif kind == "l1":
        cost = torch.sqrt(squared + 1e-12)
    else:
        cost = torch.sqrt(squared + 0.03**2) - 0.03
    return (cost * weights).sum(1) / weights.sum(1).clamp(min=1.0), sampled
