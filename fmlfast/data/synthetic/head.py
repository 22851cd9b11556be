"""Generates head and shoulders around the mean face: skull, neck, chest and clothes, mm in the template's frame."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fmlfast.data.synthetic.mesh_parts import Array, Part, distances, grid_part, grid_triangles, streaks
from fmlfast.template.regions import smoothstep

SKULL_CENTER = np.array([0.0, 43.0, -90.0])  # of the skull
SKULL = (71.0, 92.0, 94.0, 97.0)  # half width, height of the dome, depth to the front and to the back
_POWER = 2.3  # of the superellipsoid: heads are boxier than ellipsoids
DROP = 140.0  # mm that one unit of q stands for below the dome
# Rings of the head and body under the dome: y, half width, centre z, depth to the front, depth to the back.
_RINGS = np.array(
    [
        [43.0, 70.0, -90.0, 93.0, 97.0],
        [20.0, 66.0, -90.0, 84.0, 97.0],
        [-15.0, 64.0, -90.0, 80.0, 92.0],
        [-45.0, 56.0, -90.0, 74.0, 80.0],
        [-75.0, 49.0, -93.0, 40.0, 68.0],
        [-100.0, 53.0, -95.0, 37.0, 58.0],
        [-118.0, 58.0, -94.0, 37.0, 58.0],
        [-130.0, 80.0, -92.0, 40.0, 60.0],
        [-143.0, 122.0, -90.0, 54.0, 66.0],
        [-158.0, 168.0, -90.0, 62.0, 72.0],
        [-178.0, 196.0, -90.0, 70.0, 78.0],
        [-210.0, 208.0, -90.0, 80.0, 84.0],
        [-340.0, 212.0, -90.0, 92.0, 92.0],
    ]
)


def body_share(y: Array) -> Array:
    """Computes the shoulders' share of the motion at height y: 0 above the neck, 1 from the shoulders down."""
    return smoothstep(y, -100.0, -165.0)


def ring(y: Array, phi: Array, grow: Array | float = 0.0) -> Array:
    """Computes points [..., 3] of head and body at height y, azimuth phi (0 front, then the subject's left)."""
    half, middle, front, back = (np.interp(-y, -_RINGS[:, 0], column) for column in _RINGS[:, 1:].T)
    sine, cosine = np.sin(phi), np.cos(phi)
    deep = np.where(cosine > 0, front, back) + grow
    half = half + grow
    scale = (np.abs(sine) ** _POWER + np.abs(cosine) ** _POWER) ** (-1.0 / _POWER)
    return np.stack(np.broadcast_arrays(half * sine * scale, y, middle + deep * cosine * scale), axis=-1)


def dome(phi: Array, q: Array, grow: Array | float = 0.0) -> Array:
    """Computes points [..., 3] of the skull's dome: q = 0 the crown, 1 its widest level; vertical below."""
    theta = np.minimum(q, 1.0) * (np.pi / 2)
    ray = np.stack(
        np.broadcast_arrays(np.sin(theta) * np.sin(phi), np.cos(theta), np.sin(theta) * np.cos(phi)), axis=-1
    )
    half, height, front, back = SKULL
    size = np.stack(
        np.broadcast_arrays(half + grow, height + grow, np.where(ray[..., 2] > 0, front, back) + grow), axis=-1
    )
    radius = ((np.abs(ray) / size) ** _POWER).sum(axis=-1, keepdims=True) ** (-1.0 / _POWER)
    points = SKULL_CENTER + radius * ray
    points[..., 1] -= DROP * np.maximum(np.broadcast_to(q, points.shape[:-1]) - 1.0, 0.0)
    return points


@dataclass(frozen=True)
class Head:
    """Mesh of the skull behind the face, and the neck and chest below it; bare skin."""

    vertices: Array  # [N, 3]
    triangles: NDArray[np.int32]
    nearest: NDArray[np.int64]  # [N] the face's vertex next to each vertex
    distance: Array  # [N] mm to it

    def part(self, face_colors: Array, face_occlusion: Array, skin: Array, bald: bool) -> Part:
        """Colours the head: face_colors [>= V0, 3] continue over its edge and fade to plain skin [3].

        face_occlusion [>= V0] does the same.
        """
        fade = smoothstep(self.distance, 3.0, 35.0)
        y = self.vertices[:, 1]
        shadow = 1.0 - 0.3 * smoothstep(y, -130.0, -100.0) * smoothstep(y, -60.0, -85.0)  # of the chin on the neck
        colors = face_colors[self.nearest] + fade[:, None] * (skin - face_colors[self.nearest])
        occlusion = face_occlusion[self.nearest] + fade * (shadow - face_occlusion[self.nearest])
        under_hair = (self.vertices[:, 1] > 50.0) & (not bald)
        triangles = self.triangles[~under_hair[self.triangles].all(axis=1)]
        return Part(self.vertices, triangles, colors, body_share(self.vertices[:, 1]), casts=False, occlusion=occlusion)


def make_head(face: Array, normals: Array, edge: NDArray[np.bool_], detail: int = 1) -> Head:
    """Fits a head behind a face: a millimetre under its skin along its edge, deeper elsewhere.

    face, normals [V0, 3]: the mean face. edge [V0]: vertices on the outer rim of its mesh.
    """
    columns = 32 * detail
    phi = np.arange(columns) * (2 * np.pi / columns)
    heights = np.concatenate([np.linspace(43.0, -160.0, 15 * detail)[1:], [-180.0]])
    top = dome(phi[None], np.linspace(0.02, 1.0, 9 * detail)[:, None], -1.5)
    grid = np.concatenate([top, ring(heights[:, None], phi[None], -1.0)])
    points = grid.reshape(-1, 3)
    away = distances(points, face)  # [N, V0]
    nearest = away.argmin(axis=1)
    to_edge = away[:, edge].min(axis=1)
    height = ((points - face[nearest]) * normals[nearest]).sum(axis=1)  # over the skin
    by_edge = smoothstep(to_edge, 26.0, 10.0)
    sink = by_edge * (height + 1.0) + (1.0 - by_edge) * np.maximum(height + 5.0, 0.0)
    sink = sink * smoothstep(away.min(axis=1), 30.0, 12.0)
    points = points - sink[:, None] * normals[nearest]
    triangles = grid_triangles(*grid.shape[:2])
    x, y, z = points.T
    clothed = (y < -128.0) & ((z < -70.0) | (np.abs(x) > 75.0))
    inside = (to_edge > 30.0) & (z > -40.0) & (y > -75.0) & (y < 5.0)  # behind nose and mouth
    triangles = triangles[~(clothed | inside)[triangles].all(axis=1)]
    return Head(points, triangles, nearest, np.linalg.norm(points - face[nearest], axis=1))


def clothes(rng: np.random.Generator, detail: int = 1) -> Part:
    """Draws shoulders in a garment with a round neck, a V neck or a collar; plain, striped or mottled."""
    columns = 56 * detail
    phi = (np.arange(columns) * (2 * np.pi / columns))[None]
    front = np.exp(-((np.minimum(phi, 2 * np.pi - phi) / rng.uniform(0.25, 0.7)) ** 2))
    kind = rng.random()
    high = kind < 0.2
    start = rng.uniform(-96.0, -84.0) if high else rng.uniform(-122.0, -112.0)
    start = start - (0.0 if high else rng.uniform(8.0, 55.0)) * front
    t = np.linspace(0.0, 1.0, 16 * detail)[:, None]
    y = start + (-335.0 - start) * t**1.6
    loose = rng.uniform(3.0, 7.0) + 2.0 * streaks(rng, phi, 4 * t, 3, 9, 1.0) * smoothstep(t, 0.1, 0.5)
    grid = ring(y, np.broadcast_to(phi, y.shape), loose)
    color = np.exp(rng.uniform(np.log(0.015), np.log(0.5))) * np.exp(rng.normal(0.0, 0.35, 3))
    pattern = 0.08 * streaks(rng, phi, 6 * t, 3, 12, 2.0)
    if rng.random() < 0.25:
        pattern = pattern + rng.uniform(-1.2, 0.8) * (np.cos(y * (2 * np.pi / rng.uniform(12.0, 40.0))) > 0.2)
    rim = -0.3 * (t < 0.04)
    shades = np.clip(color * np.exp(pattern + rim)[..., None], 0.008, 0.55)
    return replace(grid_part(grid, shades, body_share(y)), casts=False)
