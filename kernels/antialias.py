"""Analytic antialiasing of silhouettes, through which masks and contours move vertices.

A rasterised picture is piecewise constant in the vertices: its only gradient with respect to shape is that of what a
pixel sees, never of whether it sees it. Here the pixels on both sides of a silhouette are blended by how far the edge
is from their centres, which makes the picture continuous in the position of the edge.

For two neighbouring pixels that see different triangles, let p be the one that sees the nearer surface and q the other.
On the way from the centre of p (s = 0) to that of q (s = 1) the surface of p ends at the silhouette, at s. The border
between two pixels is at s = 1/2, so the surface reaches into q where s > 1/2 and leaves a part of p where s < 1/2:

    q' = q + (s - 1/2) (p - q)  for s > 1/2,     p' = p + (s - 1/2) (p - q)  for s < 1/2.

Where a surface ends is found by walking over the mesh, in the image plane, from triangle to triangle along the segment
from p to q: each step leaves the triangle through an edge to the triangle behind it, until there is none or it lies on
the same side of the edge as the last one (the surface folds back there), which makes the edge a silhouette, or until
the centre of q is passed, so that there is no silhouette between the two. Looking at the edges of the visible
triangle alone would do for large triangles, but those of a face cover 0.2 to 1 pixel, less near its outline, and the
silhouette is mostly several triangles away from the centre of p.

To count a slanted edge once, pairs in a row blend edges steeper than 45 degrees on the screen, pairs in a column the
others.

Exact for: straight silhouettes between constant colours. In each row that a steep edge passes through from the upper to
the lower border, the blended values sum to the area that is covered, because the mean of the edge's position over the
row is its position at the height of the centres; the same goes for columns. So the sum along the edge, and its
gradient with respect to the two vertices of the edge, are those of the exact area.
Not exact for: the rows and columns in which an edge ends or turns through 45 degrees (corners), surfaces thinner than a
pixel (missed where no centre is hit), and several silhouettes in one pixel, whose blends add up and may then overshoot.
Not treated, so they stay hard: lines in which two surfaces pass through each other, silhouettes of a surface that lies
behind the other one at the centres, and edges of triangles with a vertex that is not finite or not in front of the
camera. Edges that more than two triangles share, or that are split in two with vertices of their own, count as
silhouettes.
"""

import torch
from torch import Tensor

from .antialias_blend_torch import blend, blend_backward, pixel_center, screen_position, turned
from .antialias_walk_torch import walk
from .common.backend import Backend, choose_backend
from .common.checks import check_corners, check_intrinsics, check_seen, check_tensor, check_triangles
from .common.custom_op import register
from .common.fragments import Fragments
from .common.gather import places
from .common.outlines import MAX_STEPS, pairs_at_outlines
from .common.picture import Layer
from .common.topology import topology


def antialias(
    image: Tensor,  # [F, H, W, C]
    vertices: Tensor,  # [F, V, 3]
    triangles: Tensor,  # [T, 3]
    Ks: Tensor,  # [F, 3, 3]
    fragments: Fragments,  # [F, H, W]
    backend: Backend | None = None,
) -> Tensor:  # [F, H, W, C]
    """Blends the pixels at silhouettes by the area that each side covers, with gradients to image and vertices.

    Which pairs of pixels are blended over which edge is a constant of the backward pass. What the blend is exact for
    is said at the top of this file.

    Args:
        image: [F, H, W, C] float32 or float64, any channels, such as colours and a mask, background included.
        vertices: [F, V, 3] of the image's dtype, camera space (x right, y down, z forward), mm.
        triangles: [T, 3] int32 or int64, sharing vertices across edges.
        Ks: [F, 3, 3] of the image's dtype, intrinsics in pixels, last row (0, 0, 1).
        fragments: what `rasterize` found for these vertices, triangles and cameras.
        backend: "torch" or "triton" (float32 only); by default "triton" on a GPU.

    Returns:
        [F, H, W, C] of the image's dtype.

    Raises:
        ValueError: wrong shape, dtype, device or value, naming the argument.
    """
    _check(image, vertices, triangles, Ks, fragments)
    backend = choose_backend(backend, vertices)
    constants = Ks.detach(), fragments.triangle_id, fragments.depth.detach()
    return _antialias(image, vertices, triangles, *constants, backend)[0]


def _forward(
    image: Tensor,  # [F, H, W, C]
    vertices: Tensor,  # [F, V, 3]
    triangles: Tensor,  # [T, 3]
    Ks: Tensor,  # [F, 3, 3]
    triangle_id: Tensor,  # [F, H, W]
    depth: Tensor,  # [F, H, W]
    backend: str,
) -> tuple[Tensor, Tensor]:  # [F, H, W, C], [F, 2, H, W]
    """Blends the image; also returns the silhouettes, see `find_silhouettes`."""
    check_corners(triangles, vertices.shape[1])
    check_seen(triangle_id, triangles)
    layer = Layer(triangle_id, depth)
    if backend == "triton" and image.numel():
        from .antialias_triton import antialias_triton

        return antialias_triton(image, vertices, triangles, Ks, layer)
    codes = find_silhouettes(vertices, triangles, Ks, layer)
    return blend(image, vertices, triangles, Ks, codes), codes


def _backward(
    wanted: list[bool],
    grad_out: Tensor,  # [F, H, W, C]
    image: Tensor,  # [F, H, W, C]
    vertices: Tensor,  # [F, V, 3]
    triangles: Tensor,  # [T, 3]
    Ks: Tensor,  # [F, 3, 3]
    codes: Tensor,  # [F, 2, H, W]
    backend: str,
) -> list[Tensor]:  # as image, as vertices
    """Differentiates by image and vertices."""
    if backend == "triton" and image.numel():
        from .antialias_triton import antialias_triton_backward

        return antialias_triton_backward(wanted, grad_out, image, vertices, triangles, Ks, codes)
    return blend_backward(wanted, grad_out, image, vertices, triangles, Ks, codes)


def _fake(
    image: Tensor, vertices: Tensor, triangles: Tensor, Ks: Tensor, triangle_id: Tensor, depth: Tensor, backend: str
) -> tuple[Tensor, Tensor]:
    frames, height, width, _ = image.shape
    return torch.empty_like(image), triangle_id.new_empty(frames, 2, height, width)


def find_silhouettes(
    vertices: Tensor,  # [F, V, 3]
    triangles: Tensor,  # [T, 3]
    Ks: Tensor,  # [F, 3, 3]
    fragments: Fragments | Layer,  # [F, H, W]
    max_steps: int = MAX_STEPS,
) -> Tensor:  # [F, 2, H, W]
    """Finds the silhouette edge between each pixel and its right ([:, 0]) and lower ([:, 1]) neighbour.

    Returns:
        [F, 2, H, W] int32: 2 (3 t + k) + side, for the edge opposite corner k of triangle t; side is 0 where the pixel
        itself sees the surface that ends there, 1 where its neighbour does. -1 where there is none.
    """
    ids, depth = fragments.triangle_id, fragments.depth.reshape(-1)
    frames, height, width = ids.shape
    size, count = height * width, vertices.shape[1]
    mesh = topology(triangles, count)
    corners = mesh.triangles.view(-1)
    screen = torch.stack(screen_position(vertices, Ks[:, None]))  # [2, F, V]

    pairs = pairs_at_outlines(screen, triangles, height, width)
    pairs[:, 0, :, -1] = pairs[:, 1, -1] = False  # nothing comes after the last column and row
    slot = places(pairs)  # (2 frame + down) size + pixel
    frame, down = slot // (2 * size), slot // size % 2
    first = frame * size + slot % size
    second = first + torch.where(down == 1, width, 1)
    border = places(ids.view(-1)[first] != ids.view(-1)[second])
    slot, frame, down, first, second = (a.index_select(0, border) for a in (slot, frame, down, first, second))
    side = (depth[first] > depth[second]).int()
    p = torch.where(side == 0, first, second)
    seen, goal = ids.view(-1)[p], ids.view(-1)[first + second - p]

    # Points are (along, across) the direction from p to q: [..., 2, N].
    start = torch.stack(turned(*pixel_center(p, height, width, screen.dtype), down, side))
    sign = torch.stack([1 - 2 * side, torch.ones_like(side)]).to(screen.dtype)
    base = (torch.stack([down, 1 - down]) * frames + frame) * count  # of vertex 0
    screen, down = screen.view(-1), down == 1

    # The first triangle is left by the edge that leads, in the turning sense of its projection, from below the segment
    # to above it. Vertices on the segment are below it, as they are where `rasterize` decides which pixel is hit.
    vertex = corners[3 * seen + torch.arange(3, device=ids.device)[:, None]]  # [3, N]
    points = screen[base + vertex[:, None]] * sign  # [3, 2, N]
    turns_up = _cross(points[1] - points[0], points[2] - points[0]) > 0
    above = points[:, 1] > start[1]
    tail, head = above.roll(-1, 0), above.roll(-2, 0)  # row k: the edge opposite corner k
    leaves = (tail != head) & (head == turns_up) & (points[0, 0] + points[1, 0] + points[2, 0]).isfinite()
    keep = leaves.any(0)
    k = torch.where(leaves[0], 0, torch.where(leaves[1], 1, 2))
    low, high = torch.where(turns_up, k + 1, k + 2) % 3, torch.where(turns_up, k + 2, k + 1) % 3
    low_end, high_end = (points.gather(0, i.expand(1, 2, -1))[0] for i in (low, high))
    corner, low = (3 * seen + k).int(), vertex.gather(0, low[None])[0]

    ends = walk(
        *(screen, mesh.beyond, start, base, sign[0], down, goal, corner, low, low_end, high_end, keep, max_steps)
    )
    codes = torch.full((frames, 2, height, width), -1, dtype=torch.int32, device=ids.device)
    codes.view(-1)[slot] = torch.where(ends < 0, ends, 2 * ends + side)
    return codes


def _cross(a: Tensor, b: Tensor) -> Tensor:  # [2, N], [2, N] -> [N]
    return a[0] * b[1] - a[1] * b[0]


def _check(image: Tensor, vertices: Tensor, triangles: Tensor, Ks: Tensor, fragments: Fragments) -> None:
    check_tensor("vertices", vertices, ("F", "V", 3))
    check_triangles(triangles, ("vertices", vertices))
    like, dtypes, frames = ("vertices", vertices), (vertices.dtype,), len(vertices)
    check_intrinsics(Ks, frames, dtypes, like)
    check_tensor("image", image, (frames, "H", "W", "C"), dtypes, like)
    if not isinstance(fragments, Fragments):
        raise ValueError(f"fragments must be what rasterize returned, not {type(fragments).__name__}")
    ids = fragments.triangle_id
    check_tensor("fragments.triangle_id", ids, image.shape[:3], (torch.int32,), like)
    check_tensor("fragments.depth", fragments.depth, image.shape[:3], like=like)


_antialias = register(
    "antialias", _forward, _backward, _fake, outputs=("out", "codes"), gradients_to=("image", "vertices")
)
