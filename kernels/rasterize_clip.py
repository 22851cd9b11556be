"""Z-buffered rasterisation of homogeneous clip-space vertices (x, y, z, w), whatever the projection, and its layers.

The rules are those of `rasterize` for the points (x, y, w) seen by the camera K = [[W/2, 0, W/2], [0, H/2, H/2],
[0, 0, 1]], so that a point is at column W/2 (x/w + 1) and row H/2 (y/w + 1): row 0 is at y/w = -1, as in OpenGL. What
differs:

- The depth is z/w. A pixel is hit where w > 0 and -1 <= z/w <= 1; the image clips at the other four planes.
- There is no `near`: a vertex cannot be projected where w is at most 2^-20 of the largest of |x|, |y|, |z|. It stays
  homogeneous, divided by the largest of |x|, |y|, |z|, |w|. A factor on all vertices changes nothing but rounding.
- Bits of negative depths are mapped to integers that order as the depths do; -0 counts as 0.
- In float64, which the torch backend takes, the nearest depth of a pixel comes first, then the lowest index with it.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from .common.backend import Backend, choose_backend
from .common.checks import check_tensor
from .common.fragments import Fragments as Fragments
from .common.picture import Layer, Picture
from .rasterize_autograd import check_image_size, check_mesh, rasterized


def rasterize_clip(
    positions: Tensor,  # [F, V, 4], [V, 4] with ranges
    triangles: Tensor,  # [T, 3]
    height: int,
    width: int,
    ranges: Tensor | None = None,  # [F, 2]
    behind: Fragments | None = None,  # [F, H, W]
    derivatives: bool = False,
    cull_backfaces: bool = False,
    backend: Backend | None = None,
) -> Fragments:
    """Finds the nearest triangle at every pixel centre, and where it is hit, in clip space.

    Barycentrics, their derivatives and depth are differentiable with respect to all four coordinates, once; which
    triangle a pixel sees is a constant. Triangles with a non-finite corner and degenerate ones are left out, those
    reaching out of the frustum are clipped.

    Args:
        positions: [F, V, 4] float32 or float64 (torch backend), a mesh a frame, or [V, 4], one buffer for all frames.
        triangles: [T, 3] int32 or int64, counter-clockwise seen from outside, x to the right and y upwards.
        height: rows of the image, 1 to 32768; the first is at y = -w.
        width: columns of the image, 1 to 32768.
        ranges: [F, 2] int32 on the CPU, first triangle and number of triangles of each frame; given with [V, 4].
        behind: a layer of the same picture, to see what lies behind it: larger depth, or equal depth and larger index.
        derivatives: also find how the barycentrics change with the pixel.
        cull_backfaces: leave out triangles seen from inside.
        backend: "torch", "triton" (float32), or None for the device's own.

    Returns:
        Fragments of the dtype of `positions`; ids are rows of `triangles`, with ranges too.

    Raises:
        ValueError: wrong shape, dtype, device, value or memory layout, naming the argument.
    """
    check_image_size(height, width)
    check_tensor("positions", positions, ("F", "V", 4) if ranges is None else ("V", 4))
    check_mesh(triangles, ("positions", positions))
    if ranges is not None:
        _check_ranges(ranges)
    layer = None
    if behind is not None:
        frames = len(positions) if ranges is None else len(ranges)
        layer = _checked_layer(behind, (frames, height, width), positions)
    backend = choose_backend(backend, positions)
    picture = Picture(height, width, cull_backfaces, ranges=ranges, behind=layer, derivatives=derivatives)
    return rasterized(positions, triangles, None, picture, backend)


def peel(
    positions: Tensor,  # [F, V, 4], [V, 4] with ranges
    triangles: Tensor,  # [T, 3]
    height: int,
    width: int,
    layers: int,
    ranges: Tensor | None = None,  # [F, 2]
    derivatives: bool = False,
    cull_backfaces: bool = False,
    backend: Backend | None = None,
) -> Iterator[Fragments]:
    """Yields the `layers` nearest surfaces of every pixel, the nearest first, each behind the one before.

    Arguments as in `rasterize_clip`; a pixel without another surface stays empty. Depths never fall from layer to
    layer, and each triangle comes at most once.
    """
    behind = None
    for _ in range(layers):
        behind = rasterize_clip(
            positions, triangles, height, width, ranges, behind, derivatives, cull_backfaces, backend
        )
        yield behind


def _check_ranges(ranges: Tensor) -> None:
    check_tensor("ranges", ranges, ("F", 2), (torch.int32,))
    if ranges.device.type != "cpu":
        raise ValueError(f"ranges must be on the CPU, not on {ranges.device}: pass ranges.cpu()")


def _checked_layer(behind: Fragments, shape: tuple[int, int, int], positions: Tensor) -> Layer:
    """The part of a layer that is read, without its graph."""
    if not isinstance(behind, Fragments):
        raise ValueError(f"behind must be what rasterize_clip returned, not {type(behind).__name__}")
    like = "positions", positions
    check_tensor("behind.triangle_id", behind.triangle_id, shape, (torch.int32,), like)
    check_tensor("behind.depth", behind.depth, shape, (positions.dtype,), like)
    return Layer(behind.triangle_id, behind.depth.detach())
