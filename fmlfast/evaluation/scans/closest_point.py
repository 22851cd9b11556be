"""Finds exact closest points on a triangle mesh of any shape."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fmlfast.common.extras import require
from fmlfast.kernels.normals import RESOLUTION

Points = NDArray[np.float64]  # [P, 3]
_POINTS = 256  # queried at once: few enough for memory where all triangles are equally far
_CLASSES = 12  # of triangle sizes; what is smaller than 4**-12 of the largest shares the last


@dataclass(frozen=True)
class Closest:
    """The closest points on a mesh to P query points."""

    distance: NDArray[np.float64]  # [P]
    point: Points  # [P, 3]
    triangle: NDArray[np.int64]  # [P]


class ClosestPoint:
    """Finds the closest points on a triangle mesh, by KD-trees of the triangles' centroids.

    Exact whatever the triangles' shapes and sizes: the triangle of the nearest corner gives an upper bound d of the
    distance; a triangle with centroid c and radius r (centroid to farthest corner) lies at least |p - c| - r away from
    p, so all that may be closer have centroids in a ball of radius d + r, and are all tried. Triangles are sorted into
    classes of radii within a factor of four, each with its own KD-tree of centroids, so that a few large ones do not
    widen every ball.
    """

    def __init__(self, vertices: ArrayLike, triangles: ArrayLike) -> None:
        """Builds the KD-trees of vertices [V, 3] and triangles [T, 3]; raises ValueError for no finite mesh."""
        points, corners = np.asarray(vertices, np.float64), np.asarray(triangles)
        if points.ndim != 2 or points.shape[1] != 3 or not np.isfinite(points).all():
            raise ValueError(f"vertices must be finite numbers [V, 3], got {list(points.shape)}")
        if corners.ndim != 2 or corners.shape[1] != 3 or corners.dtype.kind not in "iu" or len(corners) == 0:
            raise ValueError(f"triangles must be integers [T, 3], T > 0, got {corners.dtype} {list(corners.shape)}")
        if corners.min() < 0 or corners.max() >= len(points):
            raise ValueError(f"triangles must index the {len(points)} vertices")
        self.triangles = corners.astype(np.int64)
        self.corners = points[self.triangles]  # [T, 3, 3]
        self._centroids = self.corners.mean(1)  # [T, 3]
        self._radii = np.linalg.norm(self.corners - self._centroids[:, None], axis=2).max(1)  # [T]
        largest = max(float(self._radii.max()), np.finfo(float).tiny)
        sizes = np.floor(-np.log2(np.maximum(self._radii / largest, 4.0**-_CLASSES)) / 2)
        tree = require("scipy.spatial", "eval").cKDTree
        members = [np.nonzero(sizes == size)[0] for size in np.unique(sizes)]
        members.sort(key=len, reverse=True)  # the bound is soon tight, and rare sizes are soon ruled out
        self._classes: list[tuple[Any, NDArray[np.int64]]] = [(tree(self._centroids[ids]), ids) for ids in members]
        used, first = np.unique(self.triangles, return_index=True)
        self._corner_tree: Any = tree(points[used])
        self._triangle_of_corner = first // 3

    @property
    def normals(self) -> Points:
        """Returns unit normals [T, 3] of the triangles, zero where one has no area but for rounding to float32."""
        a, b, c = self.corners.swapaxes(0, 1)
        b, c = b - a, c - a
        normals = np.cross(b, c)
        length = np.linalg.norm(normals, axis=1, keepdims=True)
        reach, square = np.abs(a).sum(1, keepdims=True), (b * b + c * c).sum(1, keepdims=True)
        error = RESOLUTION * (np.sqrt(8 * square) * reach + square)  # as of `vertex_normals`
        return np.divide(normals, length, out=np.zeros_like(normals), where=length > error)

    def __call__(self, points: Points) -> Closest:
        """Finds the closest points to points [P, 3], in the mesh's unit."""
        triangle = self._triangle_of_corner[self._corner_tree.query(points)[1]]
        point = closest_on_triangles(points, self.corners[triangle])
        best = Closest(np.linalg.norm(points - point, axis=1), point, triangle)
        for start in range(0, len(points), _POINTS):
            for tree, ids in self._classes:
                self._improve(points, best, np.arange(start, min(start + _POINTS, len(points))), tree, ids)
        return best

    def _improve(
        self,
        points: Points,  # [P, 3]
        best: Closest,  # of P points, improved in place
        rows: NDArray[np.int64],  # [n]
        tree: Any,
        ids: NDArray[np.int64],  # [N]
    ) -> None:
        """Updates the closest points from the triangles of one size class that may be closer."""
        reach = (best.distance[rows] + self._radii[ids].max()) * (1 + 1e-12)  # rounding must not lose one
        balls = tree.query_ball_point(points[rows], reach, return_sorted=False)
        row = np.repeat(rows, [len(ball) for ball in balls])
        candidate = ids[np.concatenate([np.asarray(ball, np.int64) for ball in balls])]
        least = np.linalg.norm(points[row] - self._centroids[candidate], axis=1) - self._radii[candidate]
        able = least < best.distance[row]
        row, candidate = row[able], candidate[able]
        found = closest_on_triangles(points[row], self.corners[candidate])
        distance = np.linalg.norm(points[row] - found, axis=1)
        order = np.lexsort((distance, row))  # the first of each row is its closest
        row, first = np.unique(row[order], return_index=True)
        pick = order[first]
        better = distance[pick] < best.distance[row]
        row, pick = row[better], pick[better]
        best.distance[row], best.point[row], best.triangle[row] = distance[pick], found[pick], candidate[pick]


def closest_on_triangles(points: Points, corners: NDArray[np.float64]) -> Points:
    """Finds the point of each (possibly degenerate) triangle [n, 3 corners, 3] closest to its point [n, 3]."""
    a, b, c = corners.swapaxes(0, 1)
    _, second, third = barycentrics(points, corners).T
    inside = (second >= 0) & (third >= 0) & (second + third <= 1)
    best = a + np.where(inside, second, 0.0)[:, None] * (b - a) + np.where(inside, third, 0.0)[:, None] * (c - a)
    least = ((points - best) ** 2).sum(1)
    for start, end in ((a, b), (b, c), (c, a)):
        step = end - start
        length = np.maximum((step * step).sum(1), np.finfo(float).tiny)
        along = np.clip(((points - start) * step).sum(1) / length, 0.0, 1.0)
        other = start + along[:, None] * step
        squared = ((points - other) ** 2).sum(1)
        best = np.where((squared < least)[:, None], other, best)
        least = np.minimum(squared, least)
    return best


def barycentrics(points: Points, corners: NDArray[np.float64]) -> NDArray[np.float64]:
    """Computes barycentric coordinates [n, 3] of points [n, 3] in the planes of their triangles [n, 3 corners, 3].

    Triangles without area give finite coordinates that sum to 1.
    """
    a, b, c = corners.swapaxes(0, 1)
    normal = np.cross(b - a, c - a)
    area = np.maximum((normal * normal).sum(1), np.finfo(float).tiny)
    offset = points - a
    third = (np.cross(b - a, offset) * normal).sum(1) / area
    second = (np.cross(offset, c - a) * normal).sum(1) / area
    return np.stack([1 - second - third, second, third], 1)
