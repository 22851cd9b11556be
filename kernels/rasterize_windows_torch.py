"""Windows of pixels that triangles may hit, for the torch backend of rasterisation: found, split, and tested."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .common.projection import camera_of, project
from .common.viewport import OBLIQUE, viewport_camera

CHUNK = 1 << 17
"""(frame, triangle) or (triangle, pixel) pairs held at once: bounds the memory to some 100 MB."""
OPPOSITE = ((1, 2), (2, 0), (0, 1))
"""The edge opposite each corner."""
_TILES = (64, 8, 1)  # large windows are split into tiles of these sizes; tiles that cannot be hit are dropped


class Screen(NamedTuple):
    """Homogeneous pixel coordinates of all vertices, K X = (x, y, w) / scale, x NaN where not finite."""

    x: Tensor  # [N]
    y: Tensor  # [N]
    w: Tensor  # [N], 1 in front
    scale: Tensor  # [N], in front 1 / z, or 1 / w of clip space
    z: Tensor | None  # [N] z * scale of clip space
    clipped: bool  # whether any vertex is not in front: behind the near plane or, in clip space, too oblique


class Span(NamedTuple):
    """Triangles that are drawn in frames."""

    triangles: range
    frames: range


class Boxes(NamedTuple):
    """N windows of pixels, each with the triangle that may cover it; int32."""

    triangle: Tensor  # [N]
    frame: Tensor  # [N]
    corners: list[Tensor]  # three of [N] int64, rows of the screen's arrays
    left: Tensor  # [N] first column
    top: Tensor  # [N] first row
    columns: Tensor  # [N] number of columns
    rows: Tensor  # [N] number of rows
    clipped: bool  # whether these triangles have a vertex that is not in front

    def at(self, index: Tensor) -> "Boxes":  # index [n]
        triangle, frame, left, top, columns, rows = take(
            (self.triangle, self.frame, self.left, self.top, self.columns, self.rows), index
        )
        return Boxes(triangle, frame, take(self.corners, index), left, top, columns, rows, self.clipped)


def camera_screen(
    vertices: Tensor,  # [F, V, 3]
    Ks: Tensor,  # [F, 3, 3]
    near: float,
) -> Screen:
    """Projects vertices of camera space."""
    x, y, z = vertices.unbind(-1)
    front = z >= near
    scale = torch.where(front, z, near).reciprocal()
    w = torch.where(front, 1.0, z * scale)
    u, v = project(camera_of(Ks[:, None]), x, y, scale, w)
    u = torch.where((u + v + z).isfinite(), u, torch.nan)
    return Screen(u.reshape(-1), v.reshape(-1), w.reshape(-1), scale.reshape(-1), None, not bool(front.all()))


def clip_screen(
    positions: Tensor,  # [..., 4]
    height: int,
    width: int,
) -> Screen:
    """Projects vertices of clip space; those that are not in front are scaled to a largest coordinate of 1."""
    x, y, z, w = positions.view(-1, 4).unbind(-1)
    reach = torch.maximum(torch.maximum(x.abs(), y.abs()), z.abs())
    front = w > reach * OBLIQUE
    reach = torch.maximum(reach, w.abs())
    scale = torch.where(front, w, torch.where(reach > 0, reach, 1.0)).reciprocal()
    depth, weight = z * scale, torch.where(front, 1.0, w * scale)
    u, v = project(camera_of(viewport_camera(1, height, width, positions)), x, y, scale, weight)
    u = torch.where((u + v + depth + w).isfinite(), u, torch.nan)
    return Screen(u, v, weight, scale, depth, not bool(front.all()))


def bounding_boxes(
    screen: Screen,
    corners: Tensor,  # [3, T]
    stride: int,  # vertices between those of two frames
    span: Span,
    height: int,
    width: int,
) -> Iterator[Boxes]:
    """Finds the window of every triangle that may hit a pixel, a bounded number at a time."""
    for first in span.triangles[::CHUNK]:
        part = corners[:, first : min(first + CHUNK, span.triangles.stop)]
        count = part.shape[1]
        step = max(1, CHUNK // count)
        for frame in span.frames[::step]:
            offsets = torch.arange(frame, min(frame + step, span.frames.stop), device=part.device) * stride
            ids = (part[:, None] + offsets[:, None]).flatten(1)  # [3, step * T]
            (x0, x1), (y0, y1) = (_range([a.index_select(0, c) for c in ids.unbind(0)]) for a in (screen.x, screen.y))
            left, right = (x0 - 0.5).ceil_().clamp_(min=0), (x1 - 0.5).floor_().clamp_(max=width - 1)
            top, bottom = (y0 - 0.5).ceil_().clamp_(min=0), (y1 - 0.5).floor_().clamp_(max=height - 1)
            seen = (left <= right) & (top <= bottom)  # False for NaN
            groups = [(seen, False)]
            if screen.clipped:
                w0, w1 = _range([screen.w.index_select(0, c) for c in ids.unbind(0)])
                shown = w1 == 1 if screen.z is None else w1 > 0
                crossing = (w0 < 1) & shown & ~(x0 + y0).isnan()
                # A triangle that reaches behind may show up anywhere.
                for bound, value in ((left, 0), (top, 0), (right, width - 1), (bottom, height - 1)):
                    bound.masked_fill_(crossing, value)
                groups = [(seen & (w0 == 1), False), (crossing, True)]
            for chosen, clipped in groups:
                index = chosen.nonzero().view(-1).int()
                if len(index):
                    l, t, r, b = (a.index_select(0, index).int() for a in (left, top, right, bottom))
                    turn = torch.div(index, count, rounding_mode="trunc")
                    triangle, frame_of = index - turn * count + first, turn + frame
                    corner = take(ids.unbind(0), index)
                    yield Boxes(triangle, frame_of, corner, l, t, r - l + 1, b - t + 1, clipped)


def _range(values: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The least and the largest of three tensors [N], NaN where one is; amin over a short axis is 20 times as slow."""
    a, b, c = values
    return torch.minimum(torch.minimum(a, b), c), torch.maximum(torch.maximum(a, b), c)


def single_pixels(boxes: Boxes, screen: Screen, sizes: tuple[int, ...] = _TILES) -> Iterator[Boxes]:
    """Splits boxes down to single pixels, dropping tiles that their triangle cannot hit."""
    size, finer = sizes[0], sizes[1:]
    if not finer:
        yield from _split(boxes, size)
        return
    large = torch.maximum(boxes.columns, boxes.rows) > size
    if not bool(large.any()):
        yield from single_pixels(boxes, screen, finer)
        return
    yield from single_pixels(boxes.at((~large).nonzero().view(-1)), screen, finer)
    for tiles in _split(boxes.at(large.nonzero().view(-1)), size):
        hit = _may_hit(tiles, screen).nonzero().view(-1)
        yield from single_pixels(tiles.at(hit), screen, finer)


def _split(boxes: Boxes, size: int) -> Iterator[Boxes]:
    """Tiles of size x size pixels (cut off at the border of the box), a bounded number at a time."""
    shift = size.bit_length() - 1  # sizes are powers of two
    across = (boxes.columns + size - 1) >> shift
    counts = across * ((boxes.rows + size - 1) >> shift)
    ends = counts.cumsum(0)
    total = int(ends[-1]) if len(ends) else 0
    limits = torch.arange(CHUNK, total + CHUNK, CHUNK, device=ends.device)
    cuts = [0, *torch.searchsorted(ends, limits).add_(1).clamp_(max=len(ends)).tolist()]
    for first, last in zip(cuts, cuts[1:], strict=False):
        if first == last:
            continue
        index = torch.repeat_interleave(torch.arange(first, last, device=ends.device), counts[first:last])
        rank = torch.arange(len(index), device=ends.device)
        rank += (counts - ends).index_select(0, index) + (ends[first - 1] if first else 0)
        part = boxes.at(index)
        rank = rank.int()
        width = across.index_select(0, index)
        row = rank // width
        column = rank - row * width
        column, row = column * size, row * size
        columns, rows = (part.columns - column).clamp_(max=size), (part.rows - row).clamp_(max=size)
        yield part._replace(left=part.left + column, top=part.top + row, columns=columns, rows=rows)


def edges(
    screen: Screen, corners: Sequence[Tensor], column: Tensor, row: Tensor, clipped: bool
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """The edge function opposite each corner at the pixel's centre, and the corners x, y relative to it; [N] each."""
    px, py = column.to(screen.x.dtype) + 0.5, row.to(screen.x.dtype) + 0.5
    if clipped:
        w = [screen.w.index_select(0, c) for c in corners]
        x = [screen.x.index_select(0, c) - px * a for c, a in zip(corners, w, strict=True)]
        y = [screen.y.index_select(0, c) - py * a for c, a in zip(corners, w, strict=True)]
    else:
        x = [screen.x.index_select(0, c).sub_(px) for c in corners]
        y = [screen.y.index_select(0, c).sub_(py) for c in corners]
    e = [(x[i] * y[j]).sub_(y[i] * x[j]) for i, j in OPPOSITE]
    return e, x, y


def _may_hit(tiles: Boxes, screen: Screen) -> Tensor:
    """[N] bool, False where the centres of the tile's pixels all lie outside the triangle."""
    values, sizes = [], []
    for column in (tiles.left, tiles.left + tiles.columns - 1):
        for row in (tiles.top, tiles.top + tiles.rows - 1):
            e, x, y = edges(screen, tiles.corners, column, row, tiles.clipped)
            values.append(torch.stack(e))
            sizes.append(torch.stack([(x[i] * y[j]).abs() + (y[i] * x[j]).abs() for i, j in OPPOSITE]))
    # Edge functions are linear, so those at the tile's corners bound all others, up to rounding.
    value, slack = torch.stack(values), 1e-6 * torch.stack(sizes).amax(0)
    positive = (value.amax(0) + slack >= 0).all(0)
    negative = (value.amin(0) - slack <= 0).all(0)
    return positive | negative


def take(tensors: Sequence[Tensor], index: Tensor) -> list[Tensor]:
    """Takes the rows `index` [n] of each tensor."""
    return [a.index_select(0, index) for a in tensors]
