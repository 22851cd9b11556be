"""Draws the triangles of a rasterised picture: their edges, and a colour for each."""

import torch
from torch import Tensor

from fmlfast.kernels.common.fragments import Fragments

_COLORS = (1 << 24) - 1  # all but black


def wireframe(
    fragments: Fragments,  # [F, H, W]
    width: float = 1.0,
) -> Tensor:  # [F, H, W]
    """Computes how much of each pixel edges of visible triangles cover, as lines of constant width on the screen.

    An edge is where a barycentric is 0; dividing it by the length of its gradient gives the distance in pixels. Each
    triangle draws its own side of an edge, so that outlines are half as wide.

    Args:
        fragments: result of `rasterize(..., derivatives=True)` for F frames.
        width: of the lines in pixels, > 0; thinner ones than a pixel are fainter.

    Returns:
        [F, H, W] of the barycentrics' dtype, in [0, 1], 0 where no triangle is seen: for blending a colour,
        `image + wireframe(fragments)[..., None] * (color - image)`.

    Raises:
        ValueError: fragments without derivatives, or a width that is not positive.
    """
    if fragments.derivatives is None:
        raise ValueError("fragments have no derivatives: call rasterize(..., derivatives=True)")
    if not isinstance(width, (int, float)) or not 0 < width < float("inf"):
        raise ValueError(f"width must be a positive number of pixels, not {width!r}")
    two = fragments.derivatives.unflatten(-1, (2, 2))
    slopes = torch.cat([two, -two.sum(-2, keepdim=True)], -2).norm(dim=-1)  # [F, H, W, 3] of b0, b1, b2
    distance = fragments.barycentrics / slopes.clamp(min=torch.finfo(slopes.dtype).tiny)  # pixels from each edge
    half = width / 2
    covered = (distance + 0.5).clamp(max=half) - (distance - 0.5).clamp(min=-half)
    return torch.where(fragments.triangle_id >= 0, covered.clamp(min=0).amax(-1), 0)


def id_colors(
    triangle_id: Tensor,  # [F, H, W]
) -> Tensor:  # [F, H, W, 3]
    """Gives every triangle a colour of its own, the same in every picture, and the background black.

    Neighbours in the list differ much. Colours are bytes / 255, different ones for the first 16,777,215 triangles, so
    that pictures saved without loss keep triangles apart.

    Args:
        triangle_id: [F, H, W] int32 or int64, below 0 where there is none, as `Fragments.triangle_id`.

    Returns:
        [F, H, W, 3] float32 in [0, 1].

    Raises:
        ValueError: ids of another dtype.
    """
    if not isinstance(triangle_id, Tensor) or triangle_id.dtype not in (torch.int32, torch.int64):
        raise ValueError("triangle_id must be an int32 or int64 tensor, such as fragments.triangle_id")
    # Odd factors and shifted bits turn 24-bit numbers into one another, and 0 alone into 0 (Steele et al., 2014).
    code = triangle_id.long() % _COLORS + 1
    code = code * 0x9E3779 & 0xFFFFFF
    code = (code ^ code >> 13) * 0x85EBCB & 0xFFFFFF
    code = code ^ code >> 11
    channels = torch.stack([code >> 16, code >> 8 & 0xFF, code & 0xFF], -1)
    return torch.where((triangle_id >= 0)[..., None], channels / 255, 0.0)
