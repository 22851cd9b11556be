"""Computes the strips of surface points along which jaw landmarks slide, and selects the points on the silhouette."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fmlfast.ibug68 import NUM_JAW

Array = NDArray[np.float64]
POINTS = 12  # per strip


def jaw_strips(vertices: Array, triangles: NDArray[np.int64], landmarks: Array) -> tuple[NDArray[np.int64], Array]:
    """Computes a strip of surface points for each of the 17 jaw landmarks, from the landmark inwards.

    Each strip lies in the plane of the landmark, a point inside the head at the same height (at mouth height for the
    chin) and the forward direction: rays from that point, turned forward step by step, meet the surface over the cheek;
    around the chin the rays also turn backward, under the jaw.

    Args:
        vertices: [V, 3] mm, +z forward.
        triangles: [T, 3] of the skin only, without ears.
        landmarks: [68, 3] iBUG order.

    Returns:
        Triangle [17, C] and barycentrics [17, C, 3] in it, the static landmark's closest point first.
    """
    mouth_height = landmarks[[48, 54], 1].mean()
    depth = landmarks[[2, 14], 2].mean()
    found = np.zeros((17, POINTS), np.int64)
    where = np.zeros((17, POINTS, 3))
    corners = vertices[triangles]  # [T, 3, 3]
    forward = np.array([0.0, 0.0, 1.0])
    for j in range(17):
        side = abs(j - 8) / 8.0  # 0 at the chin, 1 at the ears
        origin = np.array([0.0, max(landmarks[j, 1], mouth_height), depth])
        outward = landmarks[j] - origin
        radial = outward * [1.0, 1.0, 0.0] / np.linalg.norm(outward[:2])
        start = np.arctan2(outward @ forward, outward @ radial)
        turns = np.radians(np.linspace(-30.0 * max(0.0, 1.0 - 1.6 * side), 20.0 + 30.0 * side, POINTS - 1))
        angles = start + np.concatenate([[0.0], turns])
        directions = np.cos(angles)[:, None] * radial + np.sin(angles)[:, None] * forward  # [C, 3]
        found[j], where[j] = _farthest_hit(origin, directions, corners)
    return found, where


def _farthest_hit(origin: Array, directions: Array, corners: Array) -> tuple[NDArray[np.int64], Array]:
    """Finds the outermost triangle that each ray [C, 3] from `origin` meets (Moeller and Trumbore 1997).

    Returns triangles [C] and barycentrics [C, 3].
    """
    edge1, edge2 = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    offset = origin - corners[:, 0]
    across = np.cross(offset, edge1)  # [T, 3]
    triangles = np.zeros(len(directions), np.int64)
    barycentrics = np.zeros((len(directions), 3))
    for k, direction in enumerate(directions):  # the first one goes through the landmark itself
        p = np.cross(direction, edge2)
        determinant = (edge1 * p).sum(1)
        determinant = np.where(np.abs(determinant) < 1e-12, 1e-12, determinant)
        u = (offset * p).sum(1) / determinant
        v = across @ direction / determinant
        distance = (across * edge2).sum(1) / determinant
        hit = (u >= -1e-9) & (v >= -1e-9) & (u + v <= 1.0 + 1e-9) & (distance > 0.0)
        if not hit.any():  # the strip leaves the mesh: stay at the landmark
            triangles[k], barycentrics[k] = triangles[0], barycentrics[0]
            continue
        best = int(np.argmax(np.where(hit, distance, -1.0)))
        triangles[k], barycentrics[k] = best, (1.0 - u[best] - v[best], u[best], v[best])
    return triangles, barycentrics


def select_contour(candidate_uv: Tensor, center: Tensor) -> Tensor:
    """Selects the candidate of each jaw landmark that lies farthest outwards in the image.

    candidate_uv [F, 17, C, 2] float, px; the first candidate is the static point. center [F, 2] float, px, the
    middle of the face. Outwards is the direction from the centre to the static point. Returns int64 [F, 17], 0..C-1.
    Raises ValueError for other shapes.
    """
    if candidate_uv.ndim != 4 or candidate_uv.shape[1] != NUM_JAW or candidate_uv.shape[3] != 2:
        raise ValueError(f"candidate_uv must be [F, {NUM_JAW}, C, 2], got {list(candidate_uv.shape)}")
    if center.shape != (candidate_uv.shape[0], 2):
        raise ValueError(f"center must be [{candidate_uv.shape[0]}, 2], got {list(center.shape)}")
    outward = candidate_uv[:, :, 0] - center[:, None]  # [F, 17, 2]
    return torch.einsum("fjcd,fjd->fjc", candidate_uv, outward).argmax(dim=2)
