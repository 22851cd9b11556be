"""Antialiasing of silhouettes of clip-space pictures: `antialias` with the image plane as camera space."""

import torch
from torch import Tensor

from .antialias import antialias
from .common.backend import Backend
from .common.checks import check_tensor
from .common.fragments import Fragments
from .common.viewport import viewport_camera


def antialias_clip(
    image: Tensor,  # [F, H, W, C]
    positions: Tensor,  # [F, V, 4], or [V, 4] for all frames
    triangles: Tensor,  # [T, 3]
    fragments: Fragments,  # [F, H, W]
    backend: Backend | None = None,
) -> Tensor:  # [F, H, W, C]
    """Blends the pixels at silhouettes by the area that each side covers, with gradients to image and positions.

    As `antialias`, which sees vertices at (x/w, y/w, 1); gradients go to x, y and w. Vertices with w <= 0 have no
    silhouettes. Surfaces that share vertices continue each other, also if they were drawn in different ranges.

    Args:
        image: [F, H, W, C] float32 or float64, any channels, background included.
        positions: [F, V, 4] of the image's dtype, or [V, 4] if fragments were drawn with ranges.
        triangles: [T, 3] int32 or int64, sharing vertices across edges.
        fragments: what `rasterize_clip` found for these positions and triangles.
        backend: "torch" or "triton" (float32 only); by default "triton" on a GPU.

    Returns:
        [F, H, W, C] of the image's dtype.

    Raises:
        ValueError: wrong shape, dtype, device or value, naming the argument.
    """
    check_tensor("image", image, ("F", "H", "W", "C"))
    frames, height, width, _ = image.shape
    shared = isinstance(positions, Tensor) and positions.ndim == 2
    check_tensor("positions", positions, ("V", 4) if shared else (frames, "V", 4), (image.dtype,), ("image", image))
    points = _flattened(positions).expand(frames, -1, -1).contiguous()
    return antialias(image, points, triangles, viewport_camera(frames, height, width, positions), fragments, backend)


def _flattened(positions: Tensor) -> Tensor:  # [..., V, 4] -> [..., V, 3]
    """Moves points to z = 1, those that cannot be seen to the origin."""
    seen = ((positions[..., 3:] > 0) & positions.isfinite().all(-1, keepdim=True)).detach()
    x_y, w = positions[..., :2], positions[..., 3:]
    inverse = torch.where(seen, w, 1).reciprocal()
    return torch.cat([torch.where(seen, x_y, 0) * inverse, seen.to(positions.dtype)], -1)
