"""Vertex normals."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ._backend import Backend, choose_backend
from ._checks import check_tensor, check_triangles

TINY = 1e-20  # mm^4: normals of vertices with less (twice the area) squared around them are undefined


def vertex_normals(
    vertices: Tensor,  # [F, V, 3]
    triangles: Tensor,  # [T, 3]
    backend: Backend | None = None,
) -> Tensor:  # [F, V, 3]
    """Unit normals, the area-weighted mean over the triangles around each vertex, with gradients to the vertices.

    Args:
        vertices: [F, V, 3] float32 (or float64 with backend "torch"), contiguous, mm.
        triangles: [T, 3] int32 or int64, T >= 1, counter-clockwise seen from outside.
        backend: "torch" or "triton"; by default triton on a GPU and torch elsewhere.

    Returns:
        [F, V, 3] outward; 0, without gradient, where the triangles around a vertex have no area (or there are none).

    Raises:
        ValueError: wrong shape, dtype, device or value, naming the argument.
    """
    check_tensor("vertices", vertices, ("F", "V", 3))
    check_triangles(triangles, vertices.shape[1], ("vertices", vertices))
    if choose_backend(backend, vertices) == "triton":
        from .normals_triton import vertex_normals_triton  # not before: Triton is not on every platform

        return vertex_normals_triton(vertices, triangles)
    points = vertices.permute(1, 2, 0).contiguous()  # [V, 3, F]: long rows make gathers fast
    normals = _AreaVectors.apply(points, triangles.long().T.contiguous())
    square = normals[:, 0] ** 2 + normals[:, 1] ** 2 + normals[:, 2] ** 2
    inverse = torch.where(square > TINY, square.clamp(min=TINY).rsqrt(), 0.0)
    return (normals * inverse[:, None]).permute(2, 0, 1).contiguous()


class _AreaVectors(torch.autograd.Function):
    """Sum over the triangles around each vertex of (b - a) x (c - a): points [V, 3, F], corners [3, T] -> [V, 3, F]."""

    @staticmethod
    def forward(ctx: Any, points: Tensor, corners: Tensor) -> Tensor:
        ctx.save_for_backward(points, corners)
        a, b, c = (points.index_select(0, i) for i in corners)
        faces = _cross(b.sub_(a), c.sub_(a))
        return _scatter(points, corners, (faces, faces, faces))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        points, corners = ctx.saved_tensors
        a, b, c = (points.index_select(0, i) for i in corners)
        faces = gradient.index_select(0, corners[0])
        faces += gradient.index_select(0, corners[1])
        faces += gradient.index_select(0, corners[2])
        to_b, to_c = _cross(c.sub_(a), faces), _cross(faces, b.sub_(a))
        return _scatter(points, corners, (-(to_b + to_c), to_b, to_c)), None


def _scatter(like: Tensor, corners: Tensor, rows: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Adds rows [T, 3, F] to their corners in a fixed order."""
    total = torch.zeros_like(like)
    for index, row in zip(corners, rows, strict=True):
        if total.is_cuda:  # where index_add_ adds in random order
            total.index_put_((index,), row, accumulate=True)
        else:
            total.index_add_(0, index, row)
    return total


def _cross(a: Tensor, b: Tensor) -> Tensor:
    """Cross products along dimension 1; torch.linalg.cross is several times slower there."""
    out = torch.empty_like(a)
    for k, (i, j) in enumerate(((1, 2), (2, 0), (0, 1))):
        torch.mul(a[:, i], b[:, j], out=out[:, k]).addcmul_(a[:, j], b[:, i], value=-1)
    return out
