"""Spherical harmonics shading."""

import torch
from torch import Tensor

from .common.backend import Backend, choose_backend
from .common.checks import check_tensor, check_triangles
from .common.custom_op import register
from .normals import RESOLUTION, vertex_normals


def sh_basis(normals: Tensor) -> Tensor:
    """Evaluates the first three bands of spherical harmonics: 1, x, y, z, xy, xz, yz, x^2 - y^2, 3 z^2 - 1.

    Ramamoorthi and Hanrahan, An Efficient Representation for Irradiance Environment Maps, 2001, unnormalised: constants
    are left to the coefficients.

    Args:
        normals: [..., 3] float32 or float64, unit, in the frame the light is described in.

    Returns:
        [..., 9].

    Raises:
        ValueError: wrong shape or dtype.
    """
    leading = normals.shape[:-1] if isinstance(normals, Tensor) else ()
    check_tensor("normals", normals, (*leading, 3), contiguous=False)
    return _basis(normals, -1)


def shade_sh(
    reflectance: Tensor,  # [R, V, 3]
    normals: Tensor,  # [F, V, 3]
    sh: Tensor,  # [F, 9, 3]
    backend: Backend | None = None,
) -> Tensor:  # [F, V, 3]
    """Shades vertices (Lambert) under spherical harmonics light: c_i = r_i sum_b gamma_b H_b(n_i) (FML, section 3.2).

    Args:
        reflectance: [R, V, 3] float32 (or float64 with backend "torch"), contiguous, linear RGB. R divides F, and frame
            f has reflectance f // (F / R): one for all frames, one for the frames of each person, or one a frame.
        normals: [F, V, 3] of the same dtype, contiguous, unit, camera frame.
        sh: [F, 9, 3] of the same dtype, light in the order of `sh_basis`, a column per colour channel.
        backend: "torch" or "triton"; by default triton on a GPU and torch elsewhere.

    Returns:
        [F, V, 3] linear RGB, not clamped.

    Raises:
        ValueError: wrong shape, dtype or device, naming the argument.
    """
    check_tensor("normals", normals, ("F", "V", 3))
    _check_light("normals", normals, reflectance, sh)
    return _shade_sh(reflectance, normals, sh.contiguous(), choose_backend(backend, normals))[0]


def shade_vertices(
    vertices: Tensor,  # [F, V, 3]
    triangles: Tensor,  # [T, 3]
    reflectance: Tensor,  # [R, V, 3]
    sh: Tensor,  # [F, 9, 3]
    backend: Backend | None = None,
) -> tuple[Tensor, Tensor]:  # [F, V, 3] twice
    """Computes `vertex_normals` and `shade_sh` in one pass: colours of the vertices of a mesh, and its normals.

    Args:
        vertices: [F, V, 3] float32 (or float64 with backend "torch"), contiguous, camera space, mm.
        triangles: [T, 3] int32 or int64, T >= 1, counter-clockwise seen from outside.
        reflectance: [R, V, 3] of the same dtype, contiguous, linear RGB; R divides F, as in `shade_sh`.
        sh: [F, 9, 3] of the same dtype, light in the order of `sh_basis`, a column per colour channel.
        backend: "torch" or "triton"; by default triton on a GPU and torch elsewhere.

    Returns:
        Colours [F, V, 3], linear RGB, not clamped, and unit normals [F, V, 3]; both carry gradients.

    Raises:
        ValueError: wrong shape, dtype, device or value, naming the argument.
    """
    check_tensor("vertices", vertices, ("F", "V", 3))
    check_triangles(triangles, ("vertices", vertices))
    _check_light("vertices", vertices, reflectance, sh)
    if choose_backend(backend, vertices) == "triton":
        from .shading_triton import shade_vertices_triton  # not before: Triton is not on every platform

        return shade_vertices_triton(vertices, triangles, reflectance, sh.contiguous(), RESOLUTION)[:2]
    normals = vertex_normals(vertices, triangles, "torch")
    return shade_sh(reflectance, normals, sh, "torch"), normals


def _forward(
    reflectance: Tensor,  # [R, V, 3]
    normals: Tensor,  # [F, V, 3]
    sh: Tensor,  # [F, 9, 3]
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:  # [F, V, 3], [F, 9, V] or [0], [F, 3, V] or [0]
    """Shades; also returns the basis and the light of each channel, which plain torch needs once more.

    It works in planes of one component each, whose long rows make small products fast.
    """
    if backend == "triton":
        from .shading_triton import shade_sh_triton  # not before: Triton is not on every platform

        return shade_sh_triton(reflectance, normals, sh), sh.new_empty(0), sh.new_empty(0)
    basis = _basis(normals.transpose(1, 2).contiguous(), 1)
    light = sh.transpose(1, 2) @ basis
    colors = _per_set(reflectance, light).mul(_planes(reflectance)).flatten(0, 1)
    return colors.transpose(1, 2).contiguous(), basis, light


def _backward(
    wanted: list[bool],
    grad_colors: Tensor,  # [F, V, 3]
    reflectance: Tensor,  # [R, V, 3]
    normals: Tensor,  # [F, V, 3]
    sh: Tensor,  # [F, 9, 3]
    basis: Tensor,  # [F, 9, V] or [0]
    light: Tensor,  # [F, 3, V] or [0]
    backend: str,
) -> list[Tensor]:  # as reflectance, as normals, as sh
    """Differentiates by reflectance, normals and light."""
    if backend == "triton":
        from .shading_triton import shade_sh_triton_backward

        return shade_sh_triton_backward(wanted, grad_colors, reflectance, normals, sh)
    upstream, out = _per_set(reflectance, grad_colors.transpose(1, 2).contiguous()), []
    if wanted[0]:
        out.append((upstream * _per_set(reflectance, light)).sum(1).transpose(1, 2).contiguous())
    to_light = (upstream * _planes(reflectance)).flatten(0, 1)
    if wanted[1]:
        out.append(_through_basis(sh @ to_light, basis[:, 1:4]).transpose(1, 2).contiguous())
    if wanted[2]:
        out.append(basis @ to_light.transpose(1, 2))
    return out


def _fake(reflectance: Tensor, normals: Tensor, sh: Tensor, backend: str) -> tuple[Tensor, Tensor, Tensor]:
    frames, count, _ = normals.shape
    if backend == "triton":
        return torch.empty_like(normals), sh.new_empty(0), sh.new_empty(0)
    return torch.empty_like(normals), sh.new_empty(frames, 9, count), sh.new_empty(frames, 3, count)


def _basis(normals: Tensor, dim: int) -> Tensor:
    """`sh_basis` along another dimension."""
    x, y, z = normals.unbind(dim)
    return torch.stack([torch.ones_like(x), x, y, z, x * y, x * z, y * z, x * x - y * y, 3 * z * z - 1], dim)


def _through_basis(gradient: Tensor, normals: Tensor) -> Tensor:
    """Carries the gradient of the basis [F, 9, V] back to the normals [F, 3, V]."""
    x, y, z = normals.unbind(1)
    _, gx, gy, gz, xy, xz, yz, squares, zz = gradient.unbind(1)
    return torch.stack(
        [
            gx + y * xy + z * xz + 2 * x * squares,
            gy + x * xy + z * yz - 2 * y * squares,
            gz + x * xz + y * yz + 6 * z * zz,
        ],
        1,
    )


def _per_set(reflectance: Tensor, frames: Tensor) -> Tensor:
    """[F, 3, V] -> [R, F / R, 3, V]."""
    return frames.unflatten(0, (len(reflectance), len(frames) // max(len(reflectance), 1)))


def _planes(reflectance: Tensor) -> Tensor:
    """[R, V, 3] -> [R, 1, 3, V]."""
    return reflectance.transpose(1, 2).contiguous()[:, None]


def _check_light(name: str, like: Tensor, reflectance: Tensor, sh: Tensor) -> None:
    """Checks reflectance and light against the normals or vertices `like` [F, V, 3] called `name`."""
    frames, vertices, _ = like.shape
    check_tensor("reflectance", reflectance, ("R", vertices, 3), (like.dtype,), (name, like))
    sets = len(reflectance)
    if frames % sets if sets else frames:
        raise ValueError(f"reflectance must hold a number of sets that divides the {frames} frames, not {sets}")
    check_tensor("sh", sh, (frames, 9, 3), (like.dtype,), (name, like), contiguous=False)


_shade_sh = register(
    "shade_sh",
    _forward,
    _backward,
    _fake,
    outputs=("colors", "basis", "light"),
    gradients_to=("reflectance", "normals", "sh"),
)
