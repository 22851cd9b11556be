"""Which vertices a camera sees, from the z-buffer."""

import torch
from torch import Tensor

from ._backend import Backend, choose_backend
from ._checks import check_tensor

PLANE = 0.25  # pixels by which the z-buffer may lie in front of the vertex's tangent plane
DEPTH = 3.0  # pixels by which it may lie in front of the vertex


def vertex_visibility(
    vertices: Tensor,  # [F, V, 3]
    normals: Tensor,  # [F, V, 3]
    Ks: Tensor,  # [F, 3, 3]
    depth: Tensor,  # [F, H, W]
    backend: Backend | None = None,
) -> Tensor:  # [F, V]
    """Votes of the 2x2 z-buffer pixels around each vertex, compared with the vertex's tangent plane.

    With n the normal, d a pixel's depth, (u, v) the projection of the vertex V and px = V.z / f one pixel in mm there,
    a vertex is visible where dot(n, V) < 0, (u, v) is inside the image, its own pixel passes and so does at least one
    of the other three. A pixel (x, y) passes where it is outside the image, empty, or

        d s - dot(n, V) <= 0.25 px and V.z - d <= 3 px,  s = n.x (x + .5 - cx) / fx + n.y (y + .5 - cy) / fy + n.z

    d s - dot(n, V) is how far the surface seen at the pixel lies in front of the vertex's tangent plane. Comparing with
    the plane and not with V.z keeps slanted surfaces, whose depth changes much within a pixel. Not differentiable.

    Args:
        vertices: [F, V, 3] float32 (or float64 with backend "torch"), contiguous, camera space, mm.
        normals: [F, V, 3] of the same dtype, contiguous, unit, outward, camera frame.
        Ks: [F, 3, 3] of the same dtype, intrinsics of the z-buffer, pixels.
        depth: [F, H, W] of the same dtype, contiguous, mm, inf where empty, as `rasterize` gives it.
        backend: "torch" or "triton"; by default triton on a GPU and torch elsewhere. Both agree to the bit.

    Returns:
        [F, V] bool.

    Raises:
        ValueError: wrong shape, dtype or device, naming the argument.
    """
    check_tensor("vertices", vertices, ("F", "V", 3))
    frames, count, _ = vertices.shape
    dtypes, like = (vertices.dtype,), ("vertices", vertices)
    check_tensor("normals", normals, (frames, count, 3), dtypes, like)
    check_tensor("Ks", Ks, (frames, 3, 3), dtypes, like, contiguous=False)
    check_tensor("depth", depth, (frames, "H", "W"), dtypes, like)
    _, height, width = depth.shape
    if height == 0 or width == 0:
        raise ValueError(f"depth must hold at least one pixel, not {height} rows of {width}")
    if choose_backend(backend, vertices) == "triton":
        from .visibility_triton import vertex_visibility_triton  # not before: Triton is not on every platform

        return vertex_visibility_triton(vertices, normals, Ks, depth)
    with torch.no_grad():
        x, y, z = vertices.unbind(-1)
        nx, ny, nz = normals.unbind(-1)
        fx, skew, cx, fy, cy = (Ks[:, i, j, None] for i, j in ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2)))
        offset = nx * x + ny * y + nz * z  # of the tangent plane, negative where it faces the camera
        u, v = (fx * x + skew * y) / z + cx, fy * y / z + cy
        per_fx, per_fy = 1 / fx, 1 / fy
        candidate = (offset < 0) & (z > 0) & (z < torch.inf) & (u >= 0) & (u < width) & (v >= 0) & (v < height)
        at = candidate.view(-1).nonzero().view(-1)
        frame = at // count
        x, y, z, u, v, nx, ny, nz, offset = (
            a.reshape(-1).index_select(0, at) for a in (x, y, z, u, v, nx, ny, nz, offset)
        )
        skew, cx, cy, per_fx, per_fy = (a[:, 0].index_select(0, frame) for a in (skew, cx, cy, per_fx, per_fy))
        pixel = z * per_fx  # mm
        column, row = u.floor(), v.floor()
        # The block's other column and row lie on the side of the pixel's centre that the vertex is on.
        beside = torch.where(u - column < 0.5, column - 1, column + 1)
        below = torch.where(v - row < 0.5, row - 1, row + 1)
        passes = []
        for px, py in ((column, row), (beside, row), (column, below), (beside, below)):
            outside = (px < 0) | (px >= width) | (py < 0) | (py >= height)
            address = (frame * height + py.clamp(0, height - 1).long()) * width + px.clamp(0, width - 1).long()
            d = depth.reshape(-1).index_select(0, address)
            ray_y = (py + 0.5 - cy) * per_fy
            ray_x = (px + 0.5 - cx - skew * ray_y) * per_fx
            plane = d * (nx * ray_x + ny * ray_y + nz) - offset
            passes.append(outside | (d == torch.inf) | ((plane <= PLANE * pixel) & (z - d <= DEPTH * pixel)))
        visible = passes[0] & (passes[1] | passes[2] | passes[3])
        return torch.zeros_like(candidate).view(-1).index_copy(0, at, visible).view(candidate.shape)
