"""Computes points on a triangle mesh: interpolation, and closest points by comparing with every triangle."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def points_at(vertices: Array, triangles: NDArray[np.int64], triangle: NDArray[np.int64], barycentrics: Array) -> Array:
    """Interpolates positions [N, 3] of points given as triangle [N] and barycentrics [N, 3]."""
    return (vertices[triangles[triangle]] * barycentrics[:, :, None]).sum(1)


def closest_points(points: Array, vertices: Array, triangles: NDArray[np.int64]) -> tuple[NDArray[np.int64], Array]:
    """Finds triangle [N] and barycentrics [N, 3] of the mesh's closest point to each of points [N, 3]."""
    a, b, c = (vertices[triangles[:, k]] for k in range(3))  # [T, 3]
    found = np.zeros(len(points), np.int64)
    where = np.zeros((len(points), 3))
    for k, point in enumerate(points):
        candidates = np.stack([_on_plane(point, a, b, c), *(_on_side(point, a, b, c, side) for side in range(3))])
        place = candidates[..., :1] * a + candidates[..., 1:2] * b + candidates[..., 2:] * c  # [4, T, 3]
        gap = np.where((candidates >= 0.0).all(-1), ((place - point) ** 2).sum(-1), np.inf)
        way, found[k] = np.unravel_index(int(np.argmin(gap)), gap.shape)
        where[k] = candidates[way, found[k]]
    return found, where


def _on_plane(point: Array, a: Array, b: Array, c: Array) -> Array:
    """Computes barycentrics [T, 3] of the foot of the perpendicular, negative outside the triangle."""
    u, v, w = b - a, c - a, point - a
    uu, uv, vv, wu, wv = (u * u).sum(1), (u * v).sum(1), (v * v).sum(1), (w * u).sum(1), (w * v).sum(1)
    area = np.maximum(uu * vv - uv * uv, 1e-12)
    second, third = (vv * wu - uv * wv) / area, (uu * wv - uv * wu) / area
    return np.stack([1.0 - second - third, second, third], 1)


def _on_side(point: Array, a: Array, b: Array, c: Array, side: int) -> Array:
    """Computes barycentrics [T, 3] of the closest point on side ab, bc or ca."""
    start, end = ((a, b), (b, c), (c, a))[side]
    step = end - start
    t = np.clip(((point - start) * step).sum(1) / np.maximum((step * step).sum(1), 1e-12), 0.0, 1.0)
    barycentrics = np.zeros((len(a), 3))
    barycentrics[:, side], barycentrics[:, (side + 1) % 3] = 1.0 - t, t
    return barycentrics
