"""Vertex normals, area-weighted over the triangles around each vertex."""

import torch
from torch import Tensor

from .common.backend import Backend, choose_backend
from .common.checks import check_corners, check_tensor, check_triangles
from .common.custom_op import register
from .common.gather import sum_rows
from .common.topology import topology

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
    return _vertex_normals(vertices, triangles, choose_backend(backend, vertices))[0]


def _forward(
    vertices: Tensor,  # [F, V, 3]
    triangles: Tensor,  # [T, 3]
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # [F, V, 3], [F, V], [3, T, F] or [0] twice
    """Computes normals and one over the lengths of the area vectors; also returns the triangles' sides from corner 0.

    Plain torch sums (b - a) x (c - a) around each vertex in planes of one component each, and needs sides again.
    """
    check_corners(triangles, vertices.shape[1])
    if backend == "triton":
        from .normals_triton import vertex_normals_triton  # not before: Triton is not on every platform

        normals, inverse = vertex_normals_triton(vertices, triangles, RESOLUTION)
        return normals, inverse, vertices.new_empty(0), vertices.new_empty(0)
    mesh = topology(triangles, vertices.shape[1])
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
    return _frames_first(normals), (inverse / error[0]).T.contiguous(), b, c


def _backward(
    wanted: list[bool],
    grad_normals: Tensor,  # [F, V, 3]
    vertices: Tensor,  # [F, V, 3]
    triangles: Tensor,  # [T, 3]
    normals: Tensor,  # [F, V, 3]
    inverse: Tensor,  # [F, V]
    to_second: Tensor,  # [3, T, F] or [0]
    to_third: Tensor,  # [3, T, F] or [0]
    backend: str,
) -> list[Tensor]:  # as vertices
    """Differentiates by the vertices."""
    if backend == "triton":
        from .normals_triton import vertex_normals_triton_backward

        return [vertex_normals_triton_backward(grad_normals, vertices, triangles, normals, inverse)]
    mesh = topology(triangles, vertices.shape[1])
    upstream, unit = _planes(grad_normals), _planes(normals)
    to_area = torch.addcmul(upstream, unit, _dot(unit, upstream), value=-1).mul_(inverse.T)
    to_face = _sum(to_area.transpose(0, 1).contiguous(), mesh.triangles)
    _, count, frames = to_face.shape
    rows = to_face.new_empty(3, count, 3, frames)
    to_a, to_b, to_c = rows
    _cross(to_third, to_face, out=to_b.transpose(0, 1))
    _cross(to_face, to_second, out=to_c.transpose(0, 1))
    torch.add(to_b, to_c, out=to_a).neg_()
    return [_frames_first(_sum(rows.flatten(0, 1), mesh.corners, mesh.ring_start))]


def _fake(vertices: Tensor, triangles: Tensor, backend: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    sides = (0,) if backend == "triton" else (3, len(triangles), len(vertices))
    normals, inverse = torch.empty_like(vertices), vertices.new_empty(vertices.shape[:2])
    return normals, inverse, vertices.new_empty(sides), vertices.new_empty(sides)


def _planes(values: Tensor) -> Tensor:
    """[F, V, 3] -> [3, V, F]."""
    return values.permute(2, 1, 0).contiguous()


def _frames_first(planes: Tensor) -> Tensor:
    """[3, V, F] -> [F, V, 3]."""
    return planes.permute(2, 1, 0).contiguous()


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


_vertex_normals = register(
    "vertex_normals",
    _forward,
    _backward,
    _fake,
    outputs=("normals", "inverse", "to_second", "to_third"),
    gradients_to=("vertices",),
)
