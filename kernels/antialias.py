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

from ._backend import Backend, choose_backend
from ._checks import check_intrinsics, check_seen, check_tensor, check_triangles
from ._gather import add_rows, gather_rows
from ._topology import topology
from .rasterize import Fragments

MAX_STEPS = 64
"""Triangles that a walk may visit: half a pixel at the outline of a sphere 80 pixels large spans 16 of 0.8 pixels each,
and 32 of 0.2. Fewer steps miss silhouettes far from p's centre first, which shrinks the mask."""
NEAR = 1e-3
"""mm; a vertex that is not further away counts as behind the camera."""
FAR = float(1 << 20)
"""Pixels; a vertex further from the origin of the image is too far for float32 to resolve its pixel."""
TIE = 1e-4
"""Pixels; a silhouette so little beyond the centre of q still ends before it, as q does not see the triangle."""


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
    if choose_backend(backend, vertices) == "triton" and image.numel():
        from .antialias_triton import antialias_triton

        return antialias_triton(image, vertices, triangles, Ks, fragments)
    with torch.no_grad():
        codes = find_silhouettes(vertices, triangles, Ks, fragments)
    return _blend(image, vertices, triangles, Ks, codes)


def find_silhouettes(
    vertices: Tensor,  # [F, V, 3]
    triangles: Tensor,  # [T, 3]
    Ks: Tensor,  # [F, 3, 3]
    fragments: Fragments,  # [F, H, W]
    max_steps: int = MAX_STEPS,
) -> Tensor:  # [F, 2, H, W]
    """The silhouette edge between each pixel and its right ([:, 0]) and lower ([:, 1]) neighbour.

    Returns:
        [F, 2, H, W] int32: 2 (3 t + k) + side, for the edge opposite corner k of triangle t; side is 0 where the pixel
        itself sees the surface that ends there, 1 where its neighbour does. -1 where there is none.
    """
    ids, depth = fragments.triangle_id, fragments.depth.reshape(-1)
    frames, height, width = ids.shape
    size, count = height * width, vertices.shape[1]
    mesh = topology(triangles, count)
    corners, neighbors = mesh.triangles.long().view(-1), mesh.neighbors.long().view(-1)
    screen = _project(vertices, Ks[:, None]).view(-1, 2)

    pixel = torch.arange(ids.numel(), device=ids.device).view(ids.shape)
    firsts = [pixel[:, :, :-1][ids[:, :, :-1] != ids[:, :, 1:]], pixel[:, :-1][ids[:, :-1] != ids[:, 1:]]]
    down = torch.cat([torch.full_like(f, i) for i, f in enumerate(firsts)])
    first = torch.cat(firsts)
    second = first + torch.where(down == 1, width, 1)
    side = (depth[first] > depth[second]).long()
    p = torch.where(side == 0, first, second)
    slot = first + (first // size + down) * size  # of the pair in the result: (2 frame + down) size + first % size
    vertex0 = p // size * count
    pa, pc = _turned(_centers(p, height, width), down, side)

    # The first triangle is left by the edge that leads, in the turning sense of its projection, from below the segment
    # to above it. Vertices on the segment are below it, as they are where `rasterize` decides which pixel is hit.
    t3, goal = 3 * ids.view(-1)[p].long(), ids.view(-1)[first + second - p]
    vertex = corners[t3[:, None] + torch.arange(3, device=ids.device)].T  # [3, N]
    a, c = _turned(screen[vertex0 + vertex], down, side)
    turns_up = (a[1] - a[0]) * (c[2] - c[0]) - (c[1] - c[0]) * (a[2] - a[0]) > 0
    start, end = (c > pc).roll(-1, 0), (c > pc).roll(-2, 0)  # row k: the edge opposite corner k
    leaves = (start != end) & (end == turns_up) & a.isfinite().all(0)
    k = leaves.int().argmax(0)
    low, high = torch.where(turns_up, k + 1, k + 2) % 3, torch.where(turns_up, k + 2, k + 1) % 3
    la, lc, ha, hc = (x.gather(0, i[None])[0] for i in (low, high) for x in (a, c))
    corner, low = t3 + k, vertex.gather(0, low[None])[0]

    codes = torch.full((frames, 2, height, width), -1, dtype=torch.int32, device=ids.device)
    keep = leaves.any(0)
    for _ in range(max_steps):
        s = _crossing(la - pa, lc - pc, ha - pa, hc - pc)
        keep &= (s < 1 + TIE) & (corner // 3 != goal)
        state = (slot, vertex0, goal, pa, pc, down, side, corner, low, la, lc, ha, hc, s)
        left = keep.nonzero().view(-1)
        if len(left) == 0:
            break
        state = (x.index_select(0, left) for x in state)
        slot, vertex0, goal, pa, pc, down, side, corner, low, la, lc, ha, hc, s = state
        behind = neighbors[corner]
        vertex = corners[behind]  # of anything where there is no triangle behind
        a, c = _turned(screen[vertex0 + vertex], down, side)
        ends = (behind < 0) | ((ha - la) * (c - lc) - (hc - lc) * (a - la) > 0)
        flat = (ha - la).abs() - (hc - lc)
        found = ends & torch.where(down == 1, flat <= 0, flat < 0) & (s > -0.5)
        codes.view(-1)[slot[found]] = (2 * corner + side)[found].int()
        keep = ~ends  # a vertex that is NaN makes the next crossing NaN, where the walk stops
        # The next exit joins the new vertex to the one on the other side of the segment.
        above = c > pc
        first_is_low = corners[behind - behind % 3 + (behind + 1) % 3] == low
        corner = behind - behind % 3 + (behind + torch.where(first_is_low == above, 2, 1)) % 3
        la, lc, low = torch.where(above, la, a), torch.where(above, lc, c), torch.where(above, low, vertex)
        ha, hc = torch.where(above, a, ha), torch.where(above, c, hc)
    return codes


def _blend(image: Tensor, vertices: Tensor, triangles: Tensor, Ks: Tensor, codes: Tensor) -> Tensor:
    """Blends the pairs that have a silhouette edge; differentiable to image and vertices."""
    _, height, width, _ = image.shape
    frame, down, row, column = (codes >= 0).nonzero(as_tuple=True)
    code = codes[frame, down, row, column].long()
    side, corner = code & 1, code >> 1
    first = (frame * height + row) * width + column
    second = first + torch.where(down == 1, width, 1)
    p, q = torch.where(side == 0, first, second), torch.where(side == 0, second, first)
    edge = triangles[(corner // 3)[:, None], torch.stack([corner + 1, corner + 2], 1) % 3].long()  # [N, 2]
    corners = gather_rows(vertices.flatten(0, 1), frame[:, None] * vertices.shape[1] + edge)
    points = _project(corners, Ks.detach()[frame, None])
    along, across = _turned(points - _centers(p, height, width)[:, None], down[:, None], side[:, None])
    s = _crossing(along[:, 0], across[:, 0], along[:, 1], across[:, 1])
    flat = image.flatten(0, 2)
    change = (s - 0.5)[:, None] * (gather_rows(flat, p) - gather_rows(flat, q))
    return add_rows(flat, torch.where(s < 0.5, p, q), change).view(image.shape)


def _project(points: Tensor, Ks: Tensor) -> Tensor:
    """[..., 3] in camera space and [..., 3, 3] -> [..., 2] pixels, NaN where they cannot be used."""
    z = points[..., 2]
    seen = (z > NEAR) & (z < torch.inf)
    inverse = torch.where(seen, z, 1.0).reciprocal()[..., None]
    x, y = (points[..., :2] * inverse).split(1, -1)
    screen = Ks[..., :2, 0] * x + Ks[..., :2, 1] * y + Ks[..., :2, 2]
    return torch.where((seen & (screen.detach().abs() < FAR).all(-1))[..., None], screen, torch.nan)


def _centers(pixels: Tensor, height: int, width: int) -> Tensor:
    """Centres [..., 2] of pixels [...] of a stack of images."""
    return torch.stack([pixels % width, pixels // width % height], -1) + 0.5


def _turned(points: Tensor, down: Tensor, side: Tensor) -> tuple[Tensor, Tensor]:
    """Points [..., 2] as coordinates [...] along the direction from p to q and across it."""
    x, y = points.unbind(-1)
    return torch.where(down == 1, y, x) * (1 - 2 * side), torch.where(down == 1, x, y)


def _crossing(a0: Tensor, c0: Tensor, a1: Tensor, c1: Tensor) -> Tensor:
    """Where an edge crosses the segment, its ends being (along, across) from p's centre."""
    return a0 - c0 / (c1 - c0) * (a1 - a0)


def _check(image: Tensor, vertices: Tensor, triangles: Tensor, Ks: Tensor, fragments: Fragments) -> None:
    check_tensor("vertices", vertices, ("F", "V", 3))
    check_triangles(triangles, vertices.shape[1], ("vertices", vertices))
    like, dtypes, frames = ("vertices", vertices), (vertices.dtype,), len(vertices)
    check_intrinsics(Ks, frames, dtypes, like)
    check_tensor("image", image, (frames, "H", "W", "C"), dtypes, like)
    if not isinstance(fragments, Fragments):
        raise ValueError(f"fragments must be what rasterize returned, not {type(fragments).__name__}")
    ids = fragments.triangle_id
    check_tensor("fragments.triangle_id", ids, image.shape[:3], (torch.int32,), like)
    check_tensor("fragments.depth", fragments.depth, image.shape[:3], like=like)
    check_seen(ids, triangles)
