"""Splits a template into the parts that other programs animate separately."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fmlfast.template.arkit_names import ARKIT_NAMES, arkit_name
from fmlfast.template.connected_parts import connected_parts
from fmlfast.template.face_template import FaceTemplate

RIGID = 0.5  # mm at full strength; what bends more under a shape of ARKit is no eyeball
INSIDE = 0.5  # mean of a mask over a part from which on the part is what the mask names
CROWNS = 0.2  # of a row of teeth with its gums


@dataclass(frozen=True)
class TemplatePart:
    """Some connected parts of a template under one name."""

    name: str
    """head, eye_left, eye_right (the subject's), teeth_upper, teeth_lower, tongue or lashes."""
    vertices: NDArray[np.int64]
    """[n] ids in the template, rising."""
    triangles: NDArray[np.int32]
    """[t, 3] ids in `vertices`."""


def split_template(template: FaceTemplate) -> tuple[TemplatePart, ...]:
    """Splits a template into head, eyes, teeth, tongue and lashes, as far as its masks know of them; the head is first.

    Eyes are only what ARKit's shapes move rigidly, if at all: no lashes or tears. Loose vertices, which no triangle
    has, are left out.
    """
    template = template.to("cpu")
    triangles, points = template.triangles.long().numpy(), template.vertices.numpy()
    label = connected_parts(triangles, len(points))
    roots, part, sizes = np.unique(label, return_inverse=True, return_counts=True)

    def mean(values: NDArray[np.floating]) -> NDArray[np.float64]:
        return np.bincount(part, values, len(roots)) / sizes

    masks = {name: mean(mask.numpy()) for name, mask in template.regions.items()}
    left, height = mean(points[:, 0]) > 0, mean(points[:, 1])
    name = np.full(len(roots), "head", dtype="<U11")
    name[masks["lashes"] > INSIDE] = "lashes"
    name[masks["tongue"] > INSIDE] = "tongue"
    teeth = masks["teeth"] > CROWNS
    known = [arkit_name(shape) in ARKIT_NAMES for shape in template.expression_names]
    for root in np.flatnonzero(masks["eyes"] > INSIDE):
        if _is_rigid(points[part == root], template.expressions.numpy()[:, part == root][known]):
            name[root] = "eye_left" if left[root] else "eye_right"
    if teeth.any():
        middle = (height[teeth].min() + height[teeth].max()) / 2
        name[teeth & (height >= middle)], name[teeth & (height < middle)] = "teeth_upper", "teeth_lower"
    owner = name[part][triangles[:, 0]]  # [T]
    parts = []
    for wanted in ("head", "eye_left", "eye_right", "teeth_upper", "teeth_lower", "tongue", "lashes"):
        corners = triangles[owner == wanted]
        if len(corners):
            vertices, local = np.unique(corners, return_inverse=True)
            parts.append(TemplatePart(wanted, vertices, local.reshape(-1, 3).astype(np.int32)))
    return tuple(parts)


def rigid_motion(
    points: NDArray[np.floating],  # [n, 3]
    moved: NDArray[np.floating],  # [n, 3]
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Fits moved = R points + t by least squares; returns R [3, 3], t [3] and the largest distance left over."""
    source, target = points.mean(0, dtype=np.float64), moved.mean(0, dtype=np.float64)
    rotation = nearest_rotation((moved - target).T @ (points - source))
    rest = (points - source) @ rotation.T - (moved - target)
    return rotation, target - rotation @ source, float(np.linalg.norm(rest, axis=1).max())


def nearest_rotation(
    matrices: NDArray[np.float64],  # [..., 3, 3]
) -> NDArray[np.float64]:  # [..., 3, 3]
    """Computes the rotations nearest to matrices, by least squares (Kabsch)."""
    u, _, vt = np.linalg.svd(matrices)
    sign = np.ones(matrices.shape[:-1])
    sign[..., 2] = np.linalg.det(u @ vt)
    return (u * sign[..., None, :]) @ vt


def _is_rigid(points: NDArray[np.floating], displacements: NDArray[np.floating]) -> bool:  # [n, 3], [E, n, 3]
    return all(not moved.any() or rigid_motion(points, points + moved)[2] <= RIGID for moved in displacements)
