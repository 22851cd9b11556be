"""Rasterisation in plain torch: the CPU backend, and what the kernels are compared with. The rules: rasterize.py."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .common.gather import places
from .common.picture import Layer, Picture
from .common.topology import topology
from .rasterize_locate_torch import gradient as gradient
from .rasterize_pixels_torch import Pixels, single_pixels
from .rasterize_windows_torch import (
    CHUNK,
    OPPOSITE,
    Boxes,
    Screen,
    Span,
    bounding_boxes,
    camera_screen,
    clip_screen,
    edges,
    relative,
    take,
)
from .rasterize_zbuffer_torch import ZBuffer


def draw(
    vertices: Tensor,  # [F, V, 3], [F, V, 4] in clip space, [V, 4] with ranges
    triangles: Tensor,  # [T, 3]
    Ks: Tensor | None,  # [F, 3, 3]
    picture: Picture,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:  # [F, H, W] int32, [F, H, W, 3], [F, H, W], [F, H, W, 4]
    """Draws what `Fragments` holds."""
    height, width = picture.height, picture.width
    corners = topology(triangles, vertices.shape[-2]).by_corner
    if Ks is None:
        screen = clip_screen(vertices, height, width)
    else:
        screen = camera_screen(vertices, Ks, picture.near)
    if picture.ranges is None:
        frames = len(vertices)
        spans = [Span(range(len(triangles)), range(frames))]
    else:
        frames = len(picture.ranges)
        spans = [Span(range(a, a + n), range(f, f + 1)) for f, (a, n) in enumerate(picture.ranges.tolist())]
    buffer = ZBuffer(frames * height * width, screen.x, Ks is None)
    for span in spans:
        for boxes in bounding_boxes(screen, corners, span, height, width):
            for pixels in single_pixels(boxes, height, width):
                _draw(buffer, pixels, boxes, screen, corners, picture)
    return _resolve(buffer, screen, corners, (frames, height, width), picture.derivatives)


def _draw(
    buffer: ZBuffer,
    pixels: Pixels,
    boxes: Boxes,
    screen: Screen,
    corners: Tensor,  # [3, T]
    picture: Picture,
) -> None:
    """Lowers the buffer to the triangles that hit."""
    e = edges(pixels.x, pixels.y)
    low, high = torch.minimum(torch.minimum(e[0], e[1]), e[2]), torch.maximum(torch.maximum(e[0], e[1]), e[2])
    # Seen from outside are counter-clockwise triangles; in camera space y points down.
    facing = (-1 if screen.z is None else 1) * picture.cull_backfaces
    inside = low >= 0 if facing > 0 else high <= 0
    if facing == 0:
        inside |= low >= 0
    hit = places(inside)
    e = take(e, hit)
    on_edge = places((e[0] == 0) | (e[1] == 0) | (e[2] == 0))
    if len(on_edge):
        edge = hit.index_select(0, on_edge)
        w = None if pixels.w is None else take(pixels.w, edge)
        kept = torch.ones_like(hit, dtype=torch.bool)
        kept[on_edge] = _owns(take(e, on_edge), take(pixels.x, edge), take(pixels.y, edge), w, facing)
        kept = places(kept)
        hit, e = hit.index_select(0, kept), take(e, kept)
    at, box = take((pixels.at, pixels.box), hit)
    frame, triangle = take((boxes.frame, boxes.triangle), box)
    w = None if pixels.w is None else take(pixels.w, hit)
    (numbers,) = _at_corners([screen.scale if screen.z is None else screen.z], corners, triangle, frame)
    depth, valid = _depth(e, w, numbers, screen.z is not None, picture.near)
    if picture.behind is not None:
        valid &= _lies_behind(picture.behind, at, depth, triangle)
    if not bool(valid.all()):
        at, depth, triangle = take((at, depth, triangle), places(valid))
    buffer.lower(at, depth, triangle)


def _at_corners(
    planes: Sequence[Tensor],  # of [F or 1, V]
    corners: Tensor,  # [3, T]
    triangle: Tensor,  # [N]
    frame: Tensor,  # [N]
) -> list[list[Tensor]]:  # three of [N] a plane
    """Takes the vertices' numbers at the corners of triangles in frames."""
    ids = [a.index_select(0, triangle) for a in corners]
    count, vertices = planes[0].shape
    if count > 1:
        ids = [a + frame * vertices for a in ids]
    return [[plane.view(-1).index_select(0, a) for a in ids] for plane in planes]


def _depth(
    e: list[Tensor],  # three of [N]
    w: list[Tensor] | None,  # three of [N]
    numbers: list[Tensor],  # three of [N], 1 / z, or z / w of clip space
    clip: bool,
    near: float,
) -> tuple[Tensor, Tensor]:  # [N], [N] bool
    """Interpolates the depth of hits, and tells which lie in the frustum."""
    total = e[0] + e[1] + e[2]
    weighted = total
    if w is not None:
        weights = [a * b for a, b in zip(e, w, strict=True)]
        weighted = weights[0] + weights[1] + weights[2]
    weights = [a * b for a, b in zip(e, numbers, strict=True)]
    other = weights[0] + weights[1] + weights[2]
    if not clip:
        depth = weighted / other
        return depth, (depth >= (0 if w is None else near)) & (depth < torch.inf)
    depth = other / weighted + 0.0  # no -0, whose bits would differ
    # Where both have one sign, w > 0.
    return depth, (depth.abs() <= 1) & ((weighted > 0) == (total > 0))


def _lies_behind(layer: Layer, at: Tensor, depth: Tensor, triangle: Tensor) -> Tensor:
    """[N] bool, which hits come after what the layer sees at the pixels `at`: none where it sees nothing."""
    last = layer.depth.view(-1).index_select(0, at)
    last_triangle = layer.triangle_id.view(-1).index_select(0, at)
    return (depth > last) | ((depth == last) & (triangle > last_triangle))


def _slopes(x: list[Tensor], y: list[Tensor], w: list[Tensor] | None) -> tuple[list[Tensor], list[Tensor]]:
    """The edge functions' change with the pixel's column and row; all w are 1 if not given; [N] each."""
    if w is None:
        return [y[i] - y[j] for i, j in OPPOSITE], [x[j] - x[i] for i, j in OPPOSITE]
    right = [y[i] * w[j] - y[j] * w[i] for i, j in OPPOSITE]
    return right, [x[j] * w[i] - x[i] * w[j] for i, j in OPPOSITE]


def _owns(e: list[Tensor], x: list[Tensor], y: list[Tensor], w: list[Tensor] | None, facing: int) -> Tensor:
    """[N] bool, the top-left rule: the signs where the pixel moves a little right and much less down."""
    signs = []
    for value, right, down in zip(e, *_slopes(x, y, w), strict=True):
        signs.append(torch.where(value != 0, value, torch.where(right != 0, right, down)).sign())
    total = signs[0] + signs[1] + signs[2]
    return total == 3 * facing if facing else total.abs() == 3


def _resolve(
    buffer: ZBuffer, screen: Screen, corners: Tensor, shape: tuple[int, int, int], derivatives: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Finds the barycentrics of the winners, and their derivatives."""
    _, height, width = shape
    triangle_id, depth = buffer.read()
    barycentrics = screen.x.new_zeros(len(depth), 3)
    slopes = screen.x.new_zeros(len(depth), 4) if derivatives else None
    for covered in places(triangle_id >= 0).split(CHUNK):
        triangle = triangle_id.index_select(0, covered)
        line = covered.div(width, rounding_mode="trunc")
        frame = line.div(height, rounding_mode="trunc")
        column, row = ((a + 0.5).to(screen.x.dtype) for a in (covered - line * width, line - frame * height))
        planes = [a for a in (screen.x, screen.y, screen.scale, screen.w) if a is not None]
        x, y, scale, *more = _at_corners(planes, corners, triangle, frame)
        w = more[0] if more else None
        x, y = relative(x, column, w), relative(y, row, w)
        weights = [a * b for a, b in zip(edges(x, y), scale, strict=True)]
        total = weights[0] + weights[1] + weights[2]
        weights = [a.div_(total) for a in weights]
        _put(barycentrics, covered, weights)
        if slopes is not None:
            right, down = ([d * s for d, s in zip(change, scale, strict=True)] for change in _slopes(x, y, w))
            right_total, down_total = right[0] + right[1] + right[2], down[0] + down[1] + down[2]
            changes = [
                (change[k] - weights[k] * change_total) / total
                for k in (0, 1)
                for change, change_total in ((right, right_total), (down, down_total))
            ]
            _put(slopes, covered, changes)
    slopes = None if slopes is None else slopes.view(*shape, 4)
    return triangle_id.view(shape), barycentrics.view(*shape, 3), depth.view(shape), slopes


def _put(rows: Tensor, index: Tensor, columns: list[Tensor]) -> None:
    """Writes numbers [n] into each column of the rows `index` [n]; twice as fast as whole rows."""
    index = index * rows.shape[1]
    for k, numbers in enumerate(columns):
        rows.view(-1)[k:].scatter_(0, index, numbers)
