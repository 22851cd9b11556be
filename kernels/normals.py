"""Vertex normals, area-weighted over the triangles around each vertex."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .common.backend import Backend, choose_backend
from .common.checks import check_corners, check_tensor, check_triangles
from .common.gather import sum_rows
from .common.topology import Topology, topology

RESOLUTION = float(torch.finfo(torch.float32).eps)
"""Share of themselves to which positions are known: an area vector that such rounding can make is no normal."""


def vertex_normals(
    vertices: Tensor,  # [F, V, 3]
    triangles: Tensor,  # [T, 3]
    backend: Backend | None = None,
) -> Tensor:  # [F, V, 3]
    """Computes unit normals, area-weighted means over the triangles around each vertex, with gradients to the vertices.

    Args:
        vertices: [F, V, 3] float32 (or float64 with backend "torch"), contiguous, mm or any other unit.
        triangles: [T, 3] int32 or int64, T >= 1, counter-clockwise seen from outside.
        backend: "torch" or "triton"; by default triton on a GPU and torch elsewhere.

    Returns:
        [F, V, 3] outward; 0, without gradient, where the triangles around a vertex have no area but for the rounding of
        their corners (or there are none).

    Raises:
        ValueError: wrong shape, dtype, device or value, naming the argument.
    """
    check_tensor("vertices", vertices, ("F", "V", 3))
    check_triangles(triangles, ("vertices", vertices))
    check_corners(triangles, vertices.shape[1])
    if choose_backend(backend, vertices) == "triton":
        from .normals_triton import vertex_normals_triton  # not before: Triton is not on every platform

        return vertex_normals_triton(vertices, triangles, RESOLUTION)
    return _Normals.apply(vertices, topology(triangles, vertices.shape[1]))


class _Normals(torch.autograd.Function):
    """Sums of (b - a) x (c - a) around each vertex, made unit vectors, in planes of one component each: [3, V, F]."""

    @staticmethod
    def forward(ctx: Any, vertices: Tensor, mesh: Topology) -> Tensor:
        points = _planes(vertices)
        a, b, c = (points.index_select(1, corner) for corner in mesh.triangles.T)
        b -= a
        c -= a
        _, count, frames = a.shape
        faces = points.new_empty(count, 4, frames)
        columns = faces.transpose(0, 1)
        _cross(b, c, out=columns[:3])
        torch.add(_dot(b, b), _dot(c, c), out=columns[3])
        area, square = _sum(faces, mesh.ring_triangles, mesh.ring_start).split((3, 1))  # alike at all three corners
        reach = points[:1].abs().add_(points[1:2].abs()).add_(points[2:].abs())
        # Bounds, but for the factor RESOLUTION, how far rounding of the positions moves an area vector.
        error = (mesh.ring_start.diff().mul_(8)[:, None] * square).sqrt_().mul_(reach).add_(square)
        error = error.masked_fill_(square == 0, 1)  # no edges, no area
        area = area / error  # in units that neither overflow nor vanish
        inverse = torch.threshold(_dot(area, area), RESOLUTION**2, torch.inf).rsqrt_()  # 0 up to it
        normals = area.mul_(inverse)
        inverse = inverse / error[0]
        ctx.mesh = mesh
        ctx.save_for_backward(b, c, normals, inverse)
        return normals.permute(2, 1, 0).contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        b, c, normals, inverse = ctx.saved_tensors
        upstream = _planes(gradient)
        to_area = torch.addcmul(upstream, normals, _dot(normals, upstream), value=-1).mul_(inverse)
        to_face = _sum(to_area.transpose(0, 1).contiguous(), ctx.mesh.triangles)
        _, count, frames = to_face.shape
        rows = to_face.new_empty(3, count, 3, frames)
        to_a, to_b, to_c = rows
        _cross(c, to_face, out=to_b.transpose(0, 1))
        _cross(to_face, b, out=to_c.transpose(0, 1))
        torch.add(to_b, to_c, out=to_a).neg_()
        to_points = _sum(rows.flatten(0, 1), ctx.mesh.corners, ctx.mesh.ring_start)
        return to_points.permute(2, 1, 0).contiguous(), None


def _planes(values: Tensor) -> Tensor:
    """[F, V, 3] -> [3, V, F]."""
    return values.permute(2, 1, 0).contiguous()


def _sum(rows: Tensor, index: Tensor, start: Tensor | None = None) -> Tensor:
    """`sum_rows` of [N, C, F], long rows making it fast, in planes [C, K, F]."""
    return sum_rows(rows.flatten(1), index, start).unflatten(1, rows.shape[1:]).transpose(0, 1).contiguous()


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """[3, N, F] twice -> [N, F]."""
    return (a[0] * b[0]).addcmul_(a[1], b[1]).addcmul_(a[2], b[2])


def _cross(a: Tensor, b: Tensor, out: Tensor) -> None:
    """Writes cross products of [3, N, F]; torch.linalg.cross is several times slower."""
    for k, (i, j) in enumerate(((1, 2), (2, 0), (0, 1))):
        torch.mul(a[i], b[j], out=out[k]).addcmul_(a[j], b[i], value=-1)
