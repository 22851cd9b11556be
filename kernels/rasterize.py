"""Z-buffered triangle rasterisation made for meshes whose triangles are about a pixel large.

Rules, which every backend keeps to the bit:

- A pixel is hit where its centre (x + 0.5, y + 0.5) lies inside the projected triangle. A centre exactly on an edge
  counts as moved a little to the right and much less down (the top-left rule), so that of the triangles sharing an edge
  exactly one hits it.
- The edge function of the vertices a, b at the centre p is (a.x - p.x)(b.y - p.y) - (a.y - p.y)(b.x - p.x). It is
  relative to the pixel, so its error shrinks with the distance to the pixel; it is computed without fused multiply-add,
  so that swapping a and b exactly flips its sign and both triangles of a shared edge see the same number.
- A vertex nearer than `near` cannot be projected; it stays homogeneous, (x, y, w) = K X / near, and p.x, p.y above are
  multiplied by its w. This clips at the near plane without cutting triangles (Olano and Greer, Triangle Scan Conversion
  using 2D Homogeneous Coordinates, 1997).
- The nearest triangle wins, of equal depths the one of lower index: the minimum of depth_bits << 32 | index.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ._checks import check_triangles

_EMPTY = torch.iinfo(torch.int64).max
_CHUNK = 1 << 17  # (frame, triangle) or (triangle, pixel) pairs held at once: bounds the memory to some 100 MB
_OPPOSITE = ((1, 2), (2, 0), (0, 1))  # the edge opposite each corner
_TILES = (64, 8, 1)  # large windows are split into tiles of these sizes; tiles that cannot be hit are dropped


@dataclass(frozen=True)
class Fragments:
    """What each pixel sees.

    Attributes:
        triangle_id: [F, H, W] int32, index of the visible triangle, -1 where there is none.
        barycentrics: [F, H, W, 3] float32, perspective-correct weights of its three corners, 0 where there is none.
        depth: [F, H, W] float32, camera z in mm, inf where there is none.
    """

    triangle_id: Tensor  # [F, H, W]
    barycentrics: Tensor  # [F, H, W, 3]
    depth: Tensor  # [F, H, W]


def rasterize(
    vertices: Tensor,  # [F, V, 3]
    triangles: Tensor,  # [T, 3]
    Ks: Tensor,  # [F, 3, 3]
    height: int,
    width: int,
    cull_backfaces: bool = False,
    near: float = 1.0,
) -> Fragments:
    """Finds the nearest triangle at every pixel centre; visibility is a constant of the backward pass.

    Triangles with a non-finite corner and degenerate ones are left out, those reaching behind `near` are clipped.
    Several frames share one call; the time goes with the triangles and with the pixels that they cover.

    Args:
        vertices: [F, V, 3] float32, camera space (x right, y down, z forward), mm.
        triangles: [T, 3] int32 or int64, counter-clockwise seen from outside.
        Ks: [F, 3, 3] float32, intrinsics in pixels, last row (0, 0, 1).
        height: rows of the image, >= 1.
        width: columns of the image, >= 1.
        cull_backfaces: leave out triangles seen from inside.
        near: nearest visible z, mm, > 0.

    Raises:
        ValueError: wrong shape, dtype, device or value, naming the argument.
    """
    _check(vertices, triangles, Ks, height, width, near)
    frames = len(vertices)
    with torch.no_grad():
        corners = triangles.long().T.contiguous()
        screen = _to_screen(vertices, Ks, near)
        keys = torch.full((frames * height * width,), _EMPTY, device=vertices.device)
        for boxes in _bounding_boxes(screen, corners, vertices.shape[1], frames, height, width):
            for pixels in _refine(boxes, screen, _TILES):
                _draw(keys, pixels, screen, height, width, cull_backfaces, near)
        return _resolve(keys, screen, corners, vertices.shape[1], (frames, height, width))


class _Screen(NamedTuple):
    """Homogeneous pixel coordinates of all vertices of all frames, K X = (x, y, w) / scale, x NaN where not finite."""

    x: Tensor  # [F * V]
    y: Tensor  # [F * V]
    w: Tensor  # [F * V], 1 in front of the near plane
    scale: Tensor  # [F * V], 1 / z in front of the near plane
    clipped: bool  # whether any vertex is behind the near plane


class _Boxes(NamedTuple):
    """N windows of pixels, each with the triangle that may cover it; int32."""

    triangle: Tensor  # [N]
    frame: Tensor  # [N]
    corners: list[Tensor]  # three of [N] int64, rows of the screen's arrays
    left: Tensor  # [N] first column
    top: Tensor  # [N] first row
    columns: Tensor  # [N] number of columns
    rows: Tensor  # [N] number of rows
    clipped: bool  # whether these triangles reach behind the near plane

    def at(self, index: Tensor) -> "_Boxes":  # index [n]
        triangle, frame, left, top, columns, rows = _take(
            (self.triangle, self.frame, self.left, self.top, self.columns, self.rows), index
        )
        return _Boxes(triangle, frame, _take(self.corners, index), left, top, columns, rows, self.clipped)


def _to_screen(vertices: Tensor, Ks: Tensor, near: float) -> _Screen:
    x, y, z = vertices.unbind(-1)
    front = z >= near
    scale = torch.where(front, z, near).reciprocal()
    w = torch.where(front, 1.0, z / near)
    x, y = x * scale, y * scale
    k = Ks[:, :2, :, None].unbind(2)  # three columns, [F, 2, 1] each
    u, v = (k[0] * x[:, None] + k[1] * y[:, None] + k[2] * w[:, None]).unbind(1)
    u = torch.where((u + v + z).isfinite(), u, torch.nan)
    return _Screen(u.reshape(-1), v.reshape(-1), w.reshape(-1), scale.reshape(-1), not bool(front.all()))


def _bounding_boxes(
    screen: _Screen, corners: Tensor, vertices: int, frames: int, height: int, width: int
) -> Iterator[_Boxes]:
    """The window of every triangle that may hit a pixel, a bounded number at a time; corners [3, T]."""
    for first in range(0, corners.shape[1], _CHUNK):
        part = corners[:, first : first + _CHUNK]
        count = part.shape[1]
        step = max(1, _CHUNK // count)
        for frame in range(0, frames, step):
            offsets = torch.arange(frame, min(frame + step, frames), device=part.device) * vertices
            ids = (part[:, None] + offsets[:, None]).flatten(1)  # [3, step * T]
            x, y = (a.index_select(0, ids.reshape(-1)).view(ids.shape) for a in (screen.x, screen.y))
            (x0, x1), (y0, y1) = x.aminmax(dim=0), y.aminmax(dim=0)
            left, right = (x0 - 0.5).ceil_().clamp_(min=0), (x1 - 0.5).floor_().clamp_(max=width - 1)
            top, bottom = (y0 - 0.5).ceil_().clamp_(min=0), (y1 - 0.5).floor_().clamp_(max=height - 1)
            seen = (left <= right) & (top <= bottom)  # False for NaN
            groups = [(seen, False)]
            if screen.clipped:
                w0, w1 = screen.w.index_select(0, ids.reshape(-1)).view(ids.shape).aminmax(dim=0)
                crossing = (w0 < 1) & (w1 == 1) & ~(x0 + y0).isnan()
                # A triangle that reaches behind the near plane may show up anywhere.
                for bound, value in ((left, 0), (top, 0), (right, width - 1), (bottom, height - 1)):
                    bound.masked_fill_(crossing, value)
                groups = [(seen & (w0 == 1), False), (crossing, True)]
            for chosen, clipped in groups:
                index = chosen.nonzero().view(-1)
                if len(index):
                    l, t, r, b = (a.index_select(0, index).int() for a in (left, top, right, bottom))
                    triangle, frame_of = (index % count + first).int(), (index // count + frame).int()
                    corner = _take(ids.unbind(0), index)
                    yield _Boxes(triangle, frame_of, corner, l, t, r - l + 1, b - t + 1, clipped)


def _refine(boxes: _Boxes, screen: _Screen, sizes: tuple[int, ...]) -> Iterator[_Boxes]:
    """Splits the boxes down to single pixels, dropping tiles that their triangle cannot hit."""
    size, finer = sizes[0], sizes[1:]
    if not finer:
        yield from _split(boxes, size)
        return
    large = torch.maximum(boxes.columns, boxes.rows) > size
    if not bool(large.any()):
        yield from _refine(boxes, screen, finer)
        return
    yield from _refine(boxes.at((~large).nonzero().view(-1)), screen, finer)
    for tiles in _split(boxes.at(large.nonzero().view(-1)), size):
        hit = _may_hit(tiles, screen).nonzero().view(-1)
        yield from _refine(tiles.at(hit), screen, finer)


def _split(boxes: _Boxes, size: int) -> Iterator[_Boxes]:
    """Tiles of size x size pixels (cut off at the border of the box), a bounded number at a time."""
    across = (boxes.columns + size - 1) // size
    counts = across * ((boxes.rows + size - 1) // size)
    ends = counts.cumsum(0)
    total = int(ends[-1]) if len(ends) else 0
    limits = torch.arange(_CHUNK, total + _CHUNK, _CHUNK, device=ends.device)
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


def _edges(
    screen: _Screen, corners: Sequence[Tensor], column: Tensor, row: Tensor, clipped: bool
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
    e = [(x[i] * y[j]).sub_(y[i] * x[j]) for i, j in _OPPOSITE]
    return e, x, y


def _may_hit(tiles: _Boxes, screen: _Screen) -> Tensor:
    """[N] bool, False where the centres of the tile's pixels all lie outside the triangle."""
    values, sizes = [], []
    for column in (tiles.left, tiles.left + tiles.columns - 1):
        for row in (tiles.top, tiles.top + tiles.rows - 1):
            e, x, y = _edges(screen, tiles.corners, column, row, tiles.clipped)
            values.append(torch.stack(e))
            sizes.append(torch.stack([(x[i] * y[j]).abs() + (y[i] * x[j]).abs() for i, j in _OPPOSITE]))
    # Edge functions are linear, so those at the tile's corners bound all others, up to rounding.
    value, slack = torch.stack(values), 1e-6 * torch.stack(sizes).amax(0)
    positive = (value.amax(0) + slack >= 0).all(0)
    negative = (value.amin(0) - slack <= 0).all(0)
    return positive | negative


def _draw(keys: Tensor, pixels: _Boxes, screen: _Screen, height: int, width: int, cull: bool, near: float) -> None:
    """Lowers `keys` [F * H * W] to those of the triangles that hit; every box is one pixel."""
    e, x, y = _edges(screen, pixels.corners, pixels.left, pixels.top, pixels.clipped)
    low, high = torch.minimum(torch.minimum(e[0], e[1]), e[2]), torch.maximum(torch.maximum(e[0], e[1]), e[2])
    inside = high <= 0  # seen from outside: counter-clockwise, while y points down
    if not cull:
        inside |= low >= 0
    on_edge = (inside & ((low == 0) | (high == 0))).nonzero().view(-1)
    if len(on_edge):
        w = [screen.w.index_select(0, c) for c in _take(pixels.corners, on_edge)]
        inside[on_edge] = _owns(_take(e, on_edge), _take(x, on_edge), _take(y, on_edge), w, cull)
    hit = inside.nonzero().view(-1)
    corners = _take(pixels.corners, hit)
    e = _take(e, hit)
    weights = [a * screen.scale.index_select(0, c) for a, c in zip(e, corners, strict=True)]
    if pixels.clipped:
        e = [a * screen.w.index_select(0, c) for a, c in zip(e, corners, strict=True)]
    depth = (e[0] + e[1] + e[2]) / (weights[0] + weights[1] + weights[2])
    key = depth.view(torch.int32).long().bitwise_left_shift_(32).bitwise_or_(pixels.triangle.index_select(0, hit))
    key = torch.where((depth >= (near if pixels.clipped else 0)) & (depth < torch.inf), key, _EMPTY)
    frame, row, column = _take((pixels.frame, pixels.top, pixels.left), hit)
    keys.scatter_reduce_(0, (frame.long() * height + row) * width + column, key, "amin")


def _owns(e: list[Tensor], x: list[Tensor], y: list[Tensor], w: list[Tensor], cull: bool) -> Tensor:
    """[N] bool, the top-left rule: the signs where the pixel moves a little right and much less down."""
    signs = []
    for (i, j), value in zip(_OPPOSITE, e, strict=True):
        right, down = y[i] * w[j] - y[j] * w[i], x[j] * w[i] - x[i] * w[j]
        signs.append(torch.where(value != 0, value, torch.where(right != 0, right, down)).sign())
    total = signs[0] + signs[1] + signs[2]
    return total == -3 if cull else total.abs() == 3


def _resolve(keys: Tensor, screen: _Screen, corners: Tensor, vertices: int, shape: tuple[int, int, int]) -> Fragments:
    """Unpacks the keys and finds the barycentrics of the winners."""
    _, height, width = shape
    empty = keys == _EMPTY
    triangle_id = keys.to(torch.int32).masked_fill_(empty, -1)  # keeps the low 32 bits
    depth = (keys >> 32).to(torch.int32).view(torch.float32).masked_fill_(empty, torch.inf)
    barycentrics = screen.x.new_zeros(len(keys), 3)
    for covered in (~empty).nonzero().view(-1).split(_CHUNK):
        triangle = triangle_id.index_select(0, covered).long()
        line = covered // width
        frame = line // height
        ids = [c.index_select(0, triangle).add_(frame * vertices) for c in corners]
        e, _, _ = _edges(screen, ids, covered - line * width, line - frame * height, screen.clipped)
        weights = torch.stack([a * screen.scale.index_select(0, c) for a, c in zip(e, ids, strict=True)], 1)
        barycentrics[covered] = weights / weights.sum(1, keepdim=True)
    return Fragments(triangle_id.view(shape), barycentrics.view(*shape, 3), depth.view(shape))


def _take(tensors: Sequence[Tensor], index: Tensor) -> list[Tensor]:
    return [a.index_select(0, index) for a in tensors]


def _check(vertices: Tensor, triangles: Tensor, Ks: Tensor, height: int, width: int, near: float) -> None:
    if vertices.ndim != 3 or vertices.shape[-1] != 3:
        raise ValueError(f"vertices must be [F, V, 3], not {tuple(vertices.shape)}")
    check_triangles(triangles, vertices.shape[1], ("vertices", vertices))
    if tuple(Ks.shape) != (len(vertices), 3, 3):
        raise ValueError(f"Ks must be [{len(vertices)}, 3, 3] to go with vertices, not {tuple(Ks.shape)}")
    for name, tensor in (("vertices", vertices), ("Ks", Ks)):
        if tensor.dtype != torch.float32:
            raise ValueError(
                f"{name} must be float32, not {tensor.dtype}: rasterisation is defined in single precision"
            )
    if Ks.device != vertices.device:
        raise ValueError(f"Ks is on {Ks.device}, vertices on {vertices.device}: move them to one device")
    for name, size in (("height", height), ("width", width)):
        if not isinstance(size, int) or size < 1:
            raise ValueError(f"{name} must be an integer of at least 1, not {size!r}")
    if not 0 < near < float("inf"):
        raise ValueError(f"near must be a positive number of millimetres, not {near}")
