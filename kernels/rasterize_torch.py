"""Rasterisation in plain torch: the CPU backend, and what the kernels are compared with. The rules: rasterize.py."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .common.gather import add_rows
from .common.projection import camera_of, project

_EMPTY = torch.iinfo(torch.int64).max
_CHUNK = 1 << 17  # (frame, triangle) or (triangle, pixel) pairs held at once: bounds the memory to some 100 MB
_OPPOSITE = ((1, 2), (2, 0), (0, 1))  # the edge opposite each corner
_TILES = (64, 8, 1)  # large windows are split into tiles of these sizes; tiles that cannot be hit are dropped
DEGENERATE = 1e-7  # a triangle's area over that of the products it is the difference of: below is rounding


def draw(
    vertices: Tensor,  # [F, V, 3]
    triangles: Tensor,  # [T, 3]
    Ks: Tensor,  # [F, 3, 3]
    height: int,
    width: int,
    cull_backfaces: bool,
    near: float,
) -> tuple[Tensor, Tensor, Tensor]:  # [F, H, W] int32, [F, H, W, 3], [F, H, W]
    """Draws triangle ids, barycentrics and depth, as `rasterize` returns them."""
    frames = len(vertices)
    corners = triangles.long().T.contiguous()
    screen = _to_screen(vertices, Ks, near)
    keys = torch.full((frames * height * width,), _EMPTY, device=vertices.device)
    for boxes in _bounding_boxes(screen, corners, vertices.shape[1], frames, height, width):
        for pixels in _refine(boxes, screen, _TILES):
            _draw(keys, pixels, screen, height, width, cull_backfaces, near)
    return _resolve(keys, screen, corners, vertices.shape[1], (frames, height, width))


def gradient(
    vertices: Tensor,  # [F, V, 3]
    triangles: Tensor,  # [T, 3]
    Ks: Tensor,  # [F, 3, 3]
    triangle_id: Tensor,  # [F, H, W]
    barycentrics_grad: Tensor,  # [F, H, W, 3]
    depth_grad: Tensor,  # [F, H, W]
) -> Tensor:  # [F, V, 3]
    """Computes the gradient of the vertices: `locate` differentiated, a bounded number of pixels at a time."""
    total = torch.zeros_like(vertices).view(-1, 3)
    for pixel in (triangle_id >= 0).view(-1).nonzero().view(-1).split(_CHUNK):
        ids, corners, K, at = _gather(vertices, triangles, Ks, triangle_id, pixel)
        corners = corners.detach().requires_grad_()
        with torch.enable_grad():
            located = _locate(corners, K, at)
        upstream = [a.reshape(-1, *a.shape[3:]).index_select(0, pixel) for a in (barycentrics_grad, depth_grad)]
        (part,) = torch.autograd.grad(located, corners, upstream)
        total = add_rows(total, ids.view(-1), part.view(-1, 3))  # one pixel after the other, wherever the chunks end
    return total.view(vertices.shape)


def locate(
    vertices: Tensor,  # [F, V, 3]
    triangles: Tensor,  # [T, 3]
    Ks: Tensor,  # [F, 3, 3]
    triangle_id: Tensor,  # [F, H, W]
) -> tuple[Tensor, Tensor]:  # [F, H, W, 3], [F, H, W]
    """Intersects each pixel's ray with the plane of the triangle seen there: barycentrics and depth.

    The same numbers as those of `rasterize` but for rounding, differentiable, in float32 or float64. Empty pixels, and
    triangles whose area is lost in rounding, have zero gradients.
    """
    pixel = (triangle_id >= 0).view(-1).nonzero().view(-1)
    _, corners, K, at = _gather(vertices, triangles, Ks, triangle_id, pixel)
    weights, depth = _locate(corners, K, at)
    barycentrics = weights.new_zeros(triangle_id.numel(), 3).index_copy(0, pixel, weights)
    depth = depth.new_full((triangle_id.numel(),), torch.inf).index_copy(0, pixel, depth)
    return barycentrics.view(*triangle_id.shape, 3), depth.view(triangle_id.shape)


def _gather(
    vertices: Tensor, triangles: Tensor, Ks: Tensor, triangle_id: Tensor, pixel: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rows [N, 3] and positions [N, 3, 3] of the corners seen at pixels [N], cameras [N, 2, 3], centres [N, 2]."""
    _, height, width = triangle_id.shape
    line = pixel // width
    frame = line // height
    triangle = triangle_id.view(-1).index_select(0, pixel)
    ids = triangles.index_select(0, triangle).long() + (frame * vertices.shape[1])[:, None]
    at = torch.stack([pixel - line * width, line - frame * height], 1).to(vertices.dtype) + 0.5
    return ids, vertices.reshape(-1, 3)[ids], Ks[:, :2].index_select(0, frame), at


def _locate(
    corners: Tensor,  # [N, 3, 3] camera space
    K: Tensor,  # [N, 2, 3] first rows of the intrinsics
    at: Tensor,  # [N, 2] pixels
) -> tuple[Tensor, Tensor]:  # [N, 3], [N]
    """Solves for barycentrics and depth by Cramer's rule.

    With q_k = K X_k - p z_k the corners around the pixel, sum_k b_k q_k = 0 and sum_k b_k = 1.
    """
    A = torch.cat([K[..., :2], K[..., 2:] - at[..., None]], -1)
    origin, *sides = corners.unbind(1)
    sides = [side - origin for side in sides]  # in camera space, where the difference of close corners is exact
    (x, y), (ax, ay), (bx, by) = ((A @ v[..., None])[..., 0].unbind(-1) for v in (origin, *sides))
    area = ax * by - ay * bx
    proper = area.abs() > DEGENERATE * ((ax * by).abs() + (ay * bx).abs())
    area = torch.where(proper, area, 1)
    first, second = (torch.where(proper, w, 0) / area for w in (bx * y - by * x, x * ay - y * ax))
    # A pixel sees a degenerate triangle only by rounding; nothing moves it.
    origin_z, *sides_z = (torch.where(proper, v[:, 2], v[:, 2].detach()) for v in (origin, *sides))
    depth = origin_z + first * sides_z[0] + second * sides_z[1]
    return torch.stack([1 - first - second, first, second], -1), depth


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
    w = torch.where(front, 1.0, z * scale)
    u, v = project(camera_of(Ks[:, None]), x, y, scale, w)
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


def _resolve(
    keys: Tensor, screen: _Screen, corners: Tensor, vertices: int, shape: tuple[int, int, int]
) -> tuple[Tensor, Tensor, Tensor]:
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
    return triangle_id.view(shape), barycentrics.view(*shape, 3), depth.view(shape)


def _take(tensors: Sequence[Tensor], index: Tensor) -> list[Tensor]:
    return [a.index_select(0, index) for a in tensors]
