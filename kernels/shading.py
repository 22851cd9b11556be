"""Vertex normals and spherical harmonics shading."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ._checks import check_triangles

_TINY = 1e-20  # mm^4: normals of vertices with less (twice the area) squared around them are undefined


def vertex_normals(
    vertices: Tensor,  # [F, V, 3]
    triangles: Tensor,  # [T, 3]
) -> Tensor:  # [F, V, 3]
    """Unit normals, the area-weighted mean over the triangles around each vertex, with gradients to the vertices.

    Args:
        vertices: [F, V, 3] floating point, mm.
        triangles: [T, 3] int32 or int64, counter-clockwise seen from outside.

    Returns:
        [F, V, 3] outward; 0, without gradient, where the triangles around a vertex have no area (or there are none).

    Raises:
        ValueError: wrong shape, dtype or device, naming the argument.
    """
    _check_vectors("vertices", vertices, 3)
    check_triangles(triangles, vertices.shape[1], ("vertices", vertices))
    points = vertices.permute(1, 2, 0).contiguous()  # [V, 3, F]: long rows make gathers fast
    normals = _AreaVectors.apply(points, triangles.long().T.contiguous())
    square = normals[:, 0] ** 2 + normals[:, 1] ** 2 + normals[:, 2] ** 2
    inverse = torch.where(square > _TINY, square.clamp(min=_TINY).rsqrt(), 0.0)
    return (normals * inverse[:, None]).permute(2, 0, 1).contiguous()


def sh_basis(normals: Tensor) -> Tensor:
    """The nine terms 1, x, y, z, xy, xz, yz, x^2 - y^2, 3 z^2 - 1 of the first three bands, unnormalised.

    Ramamoorthi and Hanrahan, An Efficient Representation for Irradiance Environment Maps, 2001, with the constants left
    to the coefficients.

    Args:
        normals: [..., 3] floating point, unit, in the frame the light is described in.

    Returns:
        [..., 9].

    Raises:
        ValueError: wrong shape or dtype.
    """
    if normals.ndim < 1 or normals.shape[-1] != 3 or not normals.is_floating_point():
        raise ValueError(f"normals must be floating point [..., 3], not {normals.dtype} {tuple(normals.shape)}")
    x, y, z = normals.unbind(-1)
    return torch.stack([torch.ones_like(x), x, y, z, x * y, x * z, y * z, x * x - y * y, 3 * z * z - 1], -1)


def shade_sh(
    reflectance: Tensor,  # [F or 1, V, 3]
    normals: Tensor,  # [F, V, 3]
    sh: Tensor,  # [F, 9, 3]
) -> Tensor:  # [F, V, 3]
    """Lambertian shading under spherical harmonics light: c_i = r_i sum_b gamma_b H_b(n_i) (FML, section 3.2).

    Args:
        reflectance: [F, V, 3] or [1, V, 3] floating point, linear RGB.
        normals: [F, V, 3], unit, camera frame.
        sh: [F, 9, 3], light in the order of `sh_basis`, a column per colour channel.

    Returns:
        [F, V, 3] linear RGB, not clamped.

    Raises:
        ValueError: wrong shape, dtype or device, naming the argument.
    """
    _check_vectors("normals", normals, 3)
    _check_vectors("reflectance", reflectance, 3)
    frames, vertices, _ = normals.shape
    if reflectance.shape[1] != vertices or len(reflectance) not in (1, frames):
        raise ValueError(f"reflectance must be [{frames} or 1, {vertices}, 3], not {tuple(reflectance.shape)}")
    if tuple(sh.shape) != (frames, 9, 3):
        raise ValueError(f"sh must be [{frames}, 9, 3] to go with normals, not {tuple(sh.shape)}")
    for name, tensor in (("reflectance", reflectance), ("sh", sh)):
        if tensor.dtype != normals.dtype or tensor.device != normals.device:
            raise ValueError(
                f"{name} is {tensor.dtype} on {tensor.device}, normals {normals.dtype} on {normals.device}"
            )
    return reflectance * (sh_basis(normals) @ sh)


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


def _check_vectors(name: str, tensor: Tensor, size: int) -> None:
    if tensor.ndim != 3 or tensor.shape[-1] != size or not tensor.is_floating_point():
        raise ValueError(f"{name} must be floating point [F, V, {size}], not {tensor.dtype} {tuple(tensor.shape)}")
