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
    """Sums of (b - a) x (c - a) around each vertex, made unit vectors, in the layout [V, 3, F]: long rows make gathers
    fast."""

    @staticmethod
    def forward(ctx: Any, vertices: Tensor, mesh: Topology) -> Tensor:
        points = _frames_last(vertices)
        a, b, c = (points.index_select(0, corner) for corner in mesh.triangles.T)
        count, _, frames = a.shape
        faces = points.new_empty(count, 4, frames)
        reach = _length(a)
        b -= a
        c -= a
        first, second = _length(b), _length(c)
        _cross(b, c, out=faces[:, :3])
        faces[:, 3] = reach.mul_(first + second).add_(first.mul_(second)).mul_(2)
        area, error = _sum(faces, mesh.corners % count, mesh.ring_start).split((3, 1), 1)  # alike at all three corners
        error = torch.threshold(error, 0, 1)  # no edges, no area
        area = area / error  # in units that neither overflow nor vanish
        inverse = torch.threshold(_dot(area, area), RESOLUTION**2, torch.inf).rsqrt_()  # 0 up to it
        normals = area.mul_(inverse)
        inverse /= error
        ctx.mesh = mesh
        ctx.save_for_backward(b, c, normals, inverse)
        return _frames_first(normals)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        b, c, normals, inverse = ctx.saved_tensors
        upstream = _frames_last(gradient)
        to_area = torch.addcmul(upstream, normals, _dot(normals, upstream), value=-1).mul_(inverse)
        to_face = _sum(to_area, ctx.mesh.triangles)
        to_a, to_b, to_c = to_corners = to_face.new_empty(3, *to_face.shape)
        _cross(c, to_face, out=to_b)
        _cross(to_face, b, out=to_c)
        torch.add(to_b, to_c, out=to_a).neg_()
        return _frames_first(_sum(to_corners.flatten(0, 1), ctx.mesh.corners, ctx.mesh.ring_start)), None


def _frames_last(values: Tensor) -> Tensor:
    """[F, V, 3] -> [V, 3, F]."""
    return values.permute(1, 2, 0).contiguous()


def _frames_first(values: Tensor) -> Tensor:
    """[V, 3, F] -> [F, V, 3]."""
    return values.permute(2, 0, 1).contiguous()


def _sum(values: Tensor, index: Tensor, start: Tensor | None = None) -> Tensor:
    """`sum_rows` of [N, 3, F]."""
    return sum_rows(values.flatten(1), index, start).unflatten(1, values.shape[1:])


def _length(a: Tensor) -> Tensor:
    """[N, 3, F] -> [N, F], sums of magnitudes; torch.linalg.vector_norm is ten times slower."""
    return a[:, 0].abs().add_(a[:, 1].abs()).add_(a[:, 2].abs())


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """[N, 3, F] twice -> [N, 1, F]."""
    return (a[:, :1] * b[:, :1]).addcmul_(a[:, 1:2], b[:, 1:2]).addcmul_(a[:, 2:], b[:, 2:])


def _cross(a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
    """Cross products of [N, 3, F]; torch.linalg.cross is several times slower."""
    out = torch.empty_like(a) if out is None else out
    for k, (i, j) in enumerate(((1, 2), (2, 0), (0, 1))):
        torch.mul(a[:, i], b[:, j], out=out[:, k]).addcmul_(a[:, j], b[:, i], value=-1)
    return out
