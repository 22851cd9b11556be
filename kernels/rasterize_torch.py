"""Rasterisation in plain torch: the CPU backend, and what the kernels are compared with. The rules: rasterize.py."""

import torch
from torch import Tensor

from .common.picture import Layer, Picture
from .common.topology import topology
from .rasterize_locate_torch import gradient as gradient
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
    single_pixels,
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
        frames, stride = vertices.shape[:2]
        spans = [Span(range(len(triangles)), range(frames))]
    else:
        frames, stride = len(picture.ranges), 0
        spans = [Span(range(a, a + n), range(f, f + 1)) for f, (a, n) in enumerate(picture.ranges.tolist())]
    buffer = ZBuffer(frames * height * width, screen.x, Ks is None)
    for span in spans:
        for boxes in bounding_boxes(screen, corners, stride, span, height, width):
            for pixels in single_pixels(boxes, screen):
                _draw(buffer, pixels, screen, picture)
    return _resolve(buffer, screen, corners, stride, (frames, height, width), picture.derivatives)


def _draw(buffer: ZBuffer, pixels: Boxes, screen: Screen, picture: Picture) -> None:
    """Lowers the buffer to the triangles that hit; every box is one pixel."""
    e, x, y = edges(screen, pixels.corners, pixels.left, pixels.top, pixels.clipped)
    low, high = torch.minimum(torch.minimum(e[0], e[1]), e[2]), torch.maximum(torch.maximum(e[0], e[1]), e[2])
    # Seen from outside are counter-clockwise triangles; in camera space y points down.
    facing = (-1 if screen.z is None else 1) * picture.cull_backfaces
    inside = low >= 0 if facing > 0 else high <= 0
    if facing == 0:
        inside |= low >= 0
    on_edge = (inside & ((low == 0) | (high == 0))).nonzero().view(-1)
    if len(on_edge):
        w = [screen.w.index_select(0, c) for c in take(pixels.corners, on_edge)]
        inside[on_edge] = _owns(take(e, on_edge), take(x, on_edge), take(y, on_edge), w, facing)
    hit = inside.nonzero().view(-1)
    e = take(e, hit)
    depth, valid = _depth(e, take(pixels.corners, hit), screen, pixels.clipped, picture.near)
    frame, row, column, triangle = take((pixels.frame, pixels.top, pixels.left, pixels.triangle), hit)
    at = (frame.long() * picture.height + row) * picture.width + column
    if picture.behind is not None:
        valid &= _lies_behind(picture.behind, at, depth, triangle)
    buffer.lower(at, depth, triangle, valid)


def _depth(e: list[Tensor], corners: list[Tensor], screen: Screen, clipped: bool, near: float) -> tuple[Tensor, Tensor]:
    """Interpolates the depth [N] of hits, and tells which lie in the frustum [N]."""
    total = e[0] + e[1] + e[2]
    weighted = total
    if clipped:
        weights = [a * screen.w.index_select(0, c) for a, c in zip(e, corners, strict=True)]
        weighted = weights[0] + weights[1] + weights[2]
    numbers = screen.scale if screen.z is None else screen.z
    weights = [a * numbers.index_select(0, c) for a, c in zip(e, corners, strict=True)]
    other = weights[0] + weights[1] + weights[2]
    if screen.z is None:
        depth = weighted / other
        return depth, (depth >= (near if clipped else 0)) & (depth < torch.inf)
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


def _owns(e: list[Tensor], x: list[Tensor], y: list[Tensor], w: list[Tensor], facing: int) -> Tensor:
    """[N] bool, the top-left rule: the signs where the pixel moves a little right and much less down."""
    signs = []
    for value, right, down in zip(e, *_slopes(x, y, w), strict=True):
        signs.append(torch.where(value != 0, value, torch.where(right != 0, right, down)).sign())
    total = signs[0] + signs[1] + signs[2]
    return total == 3 * facing if facing else total.abs() == 3


def _resolve(
    buffer: ZBuffer, screen: Screen, corners: Tensor, stride: int, shape: tuple[int, int, int], derivatives: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Finds the barycentrics of the winners, and their derivatives."""
    _, height, width = shape
    triangle_id, depth = buffer.read()
    barycentrics = screen.x.new_zeros(len(depth), 3)
    slopes = screen.x.new_zeros(len(depth), 4) if derivatives else None
    for covered in (triangle_id >= 0).nonzero().view(-1).split(CHUNK):
        triangle = triangle_id.index_select(0, covered).long()
        line = covered // width
        frame = line // height
        ids = [c.index_select(0, triangle) + frame * stride for c in corners]
        e, x, y = edges(screen, ids, covered - line * width, line - frame * height, screen.clipped)
        scale = [screen.scale.index_select(0, c) for c in ids]
        weights = torch.stack([a * b for a, b in zip(e, scale, strict=True)], 1)
        total = weights.sum(1, keepdim=True)
        weights /= total
        barycentrics[covered] = weights
        if slopes is not None:
            w = [screen.w.index_select(0, c) for c in ids] if screen.clipped else None
            changes = []
            for direction in _slopes(x, y, w):
                a, b, c = (d * s for d, s in zip(direction, scale, strict=True))
                changes.append(torch.stack([a, b], 1) - weights[:, :2] * (a + b + c)[:, None])
            slopes[covered] = (torch.stack(changes, 2) / total[:, :, None]).flatten(1)
    slopes = None if slopes is None else slopes.view(*shape, 4)
    return triangle_id.view(shape), barycentrics.view(*shape, 3), depth.view(shape), slopes
