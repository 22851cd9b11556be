"""Windows of pixels that triangles may hit, for the torch backend of rasterisation."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .common.gather import places
from .common.projection import camera_of, project
from .common.viewport import OBLIQUE, viewport_camera

CHUNK = 1 << 17
"""(frame, triangle) or (triangle, pixel) pairs held at once: bounds the memory to some 100 MB."""
OPPOSITE = ((1, 2), (2, 0), (0, 1))
"""The edge opposite each corner."""


class Screen(NamedTuple):
    """Homogeneous pixel coordinates of all vertices, K X = (x, y, w) / scale, x NaN where not finite.

    There is one row for a frame, or for all frames.
    """

    x: Tensor  # [F or 1, V]
    y: Tensor  # [F or 1, V]
    w: Tensor | None  # [F or 1, V], 1 in front; None where none is behind the near plane or, in clip space, too oblique
    scale: Tensor  # [F or 1, V], in front 1 / z, or 1 / w of clip space
    z: Tensor | None  # [F or 1, V] z * scale of clip space


class Span(NamedTuple):
    """Triangles that are drawn in frames."""

    triangles: range
    frames: range


class Boxes(NamedTuple):
    """N windows of pixels, each with the triangle that may cover it."""

    triangle: Tensor  # [N] int32
    frame: Tensor  # [N] int32
    x: list[Tensor]  # three of [N], see Screen
    y: list[Tensor]  # three of [N]
    w: list[Tensor] | None  # three of [N], None where all are 1
    left: Tensor  # [N] first column
    top: Tensor  # [N] first row
    columns: Tensor  # [N] int32, number of columns
    rows: Tensor  # [N] int32, number of rows


def camera_screen(
    vertices: Tensor,  # [F, V, 3]
    Ks: Tensor,  # [F, 3, 3]
    near: float,
) -> Screen:
    """Projects vertices of camera space."""
    x, y, z = vertices.unbind(-1)
    front = z >= near
    w = None
    if bool(front.all()):
        scale = z.reciprocal()
    else:
        scale = torch.where(front, z, near).reciprocal()
        w = torch.where(front, 1.0, z * scale)
    u, v = project(camera_of(Ks[:, None]), x, y, scale, 1.0 if w is None else w)
    return Screen(u + _zero(u + v + z), v, w, scale, None)


def clip_screen(
    positions: Tensor,  # [..., 4]
    height: int,
    width: int,
) -> Screen:
    """Projects vertices of clip space; those that are not in front are scaled to a largest coordinate of 1."""
    x, y, z, w = positions.view(-1, positions.shape[-2], 4).unbind(-1)
    reach = torch.maximum(torch.maximum(x.abs(), y.abs()), z.abs())
    front = w > reach * OBLIQUE
    weight = None
    if bool(front.all()):
        scale = w.reciprocal()
    else:
        reach = torch.maximum(reach, w.abs())
        scale = torch.where(front, w, torch.where(reach > 0, reach, 1.0)).reciprocal()
        weight = torch.where(front, 1.0, w * scale)
    depth = z * scale
    camera = camera_of(viewport_camera(1, height, width, positions))
    u, v = project(camera, x, y, scale, 1.0 if weight is None else weight)
    return Screen(u + _zero(u + v + depth + w), v, weight, scale, depth)


def _zero(number: Tensor) -> Tensor:
    """0, NaN where the number is not finite."""
    return number - number


def bounding_boxes(
    screen: Screen,
    corners: Tensor,  # [3, T]
    span: Span,
    height: int,
    width: int,
) -> Iterator[Boxes]:
    """Finds the window of every triangle that may hit a pixel, a bounded number at a time."""
    shared = len(screen.x) == 1
    if len(span.triangles) == 0:
        return
    even = -(-len(span.triangles) // -(-len(span.triangles) // CHUNK))
    for first in span.triangles[::even]:
        part = corners[:, first : min(first + even, span.triangles.stop)]
        count = part.shape[1]
        step = max(1, CHUNK // count)
        for frame in span.frames[::step]:
            views = slice(0, 1) if shared else slice(frame, min(frame + step, span.frames.stop))
            x, y = _of_corners(screen.x[views], part), _of_corners(screen.y[views], part)
            (x0, x1), (y0, y1) = _range(x), _range(y)
            left, right = (x0 - 0.5).ceil_().clamp_(min=0), (x1 - 0.5).floor_().clamp_(max=width - 1)
            top, bottom = (y0 - 0.5).ceil_().clamp_(min=0), (y1 - 0.5).floor_().clamp_(max=height - 1)
            seen = (left <= right).logical_and_(top <= bottom)  # False for NaN
            groups = [(seen, None)]
            if screen.w is not None:
                w = _of_corners(screen.w[views], part)
                w0, w1 = _range(w)
                shown = w1 == 1 if screen.z is None else w1 > 0
                crossing = (w0 < 1) & shown & ~(x0 + y0).isnan()
                # A triangle that reaches behind may show up anywhere.
                for bound, value in ((left, 0), (top, 0), (right, width - 1), (bottom, height - 1)):
                    bound.masked_fill_(crossing, value)
                groups = [(seen & (w0 == 1), None), (crossing, w)]
            for chosen, weights in groups:
                index = places(chosen)
                if len(index) == 0:
                    continue
                l, t, r, b = take((left, top, right, bottom), index)
                turn = index.div(count, rounding_mode="trunc")
                yield Boxes(
                    (index - turn * count + first).int(),
                    (turn + frame).int(),
                    take(x, index),
                    take(y, index),
                    None if weights is None else take(weights, index),
                    l,
                    t,
                    (r - l).int() + 1,
                    (b - t).int() + 1,
                )


def _of_corners(planes: Tensor, corners: Tensor) -> list[Tensor]:  # [F, V], [3, T] -> three of [F T]
    if len(planes) == 1:
        return [planes[0].index_select(0, c) for c in corners]  # faster
    return [planes.index_select(1, c).view(-1) for c in corners]


def _range(values: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The least and the largest of three tensors [N], NaN where one is; amin over a short axis is 20 times as slow."""
    a, b, c = values
    return torch.minimum(torch.minimum(a, b), c), torch.maximum(torch.maximum(a, b), c)


def relative(numbers: list[Tensor], center: Tensor, w: list[Tensor] | None) -> list[Tensor]:
    """The columns or rows of three corners [N] relative to pixels' centres [N]."""
    if w is None:
        return [a - center for a in numbers]
    return [a - center * b for a, b in zip(numbers, w, strict=True)]


def edges(x: Sequence[Tensor], y: Sequence[Tensor]) -> list[Tensor]:
    """The edge functions opposite the corners, whose x and y are relative to the pixel's centre; [N] each."""
    return [(x[i] * y[j]).sub_(y[i] * x[j]) for i, j in OPPOSITE]


def take(tensors: Sequence[Tensor], index: Tensor) -> list[Tensor]:
    """Takes the rows `index` [n] of each tensor."""
    return [a.index_select(0, index) for a in tensors]
