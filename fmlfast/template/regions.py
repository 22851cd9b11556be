"""Computes smooth masks over a face from its landmarks."""

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.floating]
Values = TypeVar("Values", Array, Tensor)

HEAD_RADIUS = 120.0  # mm, from the bridge of the nose to the head's axis
HAIRLINE = (0.0, 26.0, 39.0, 50.0, 62.0), (14.0, 10.0, -2.0, -18.0, -40.0)  # azimuth in degrees, mm above the brows
BROW_LIFT = -3.8  # mm; from the landmarks, which mark the upper edge, to the middle of the hair


def smoothstep(x: Values, low: float, high: float) -> Values:
    """Evaluates a cubic from 0 at `low` to 1 at `high`, constant beyond; `high` may be below `low`."""
    t = ((x - low) / (high - low)).clip(0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def polyline_distance(points: Array, line: Array) -> tuple[Array, Array]:
    """Computes the distance [V] of points [V, 3] to a polyline [L, 3], and the position along it.

    The position [V] runs from 0 to 1, equally by segment. Both are float32.
    """
    best, along = np.full(len(points), np.inf, np.float32), np.zeros(len(points), np.float32)
    for index, (start, end) in enumerate(zip(line[:-1], line[1:], strict=True)):
        span = end - start
        position = np.clip((points - start) @ span / np.maximum(span @ span, 1e-12), 0.0, 1.0)
        distance = np.linalg.norm(points - start - position[:, None] * span, axis=1)
        nearer = distance < best
        best, along = np.where(nearer, distance, best), np.where(nearer, (index + position) / (len(line) - 1), along)
    return best.astype(np.float32), along.astype(np.float32)


def brow_mask(vertices: Array, landmarks: Array) -> Array:
    """Computes the mask [V] of the brows, around landmarks 17-26 of landmarks [68, 3], mm."""
    lift = np.array([0.0, BROW_LIFT, 0.0], np.float32)
    distance = np.minimum(
        polyline_distance(vertices, landmarks[17:22] + lift)[0], polyline_distance(vertices, landmarks[22:27] + lift)[0]
    )
    return 1.0 - smoothstep(distance, 1.5, 6.0)


def lip_mask(vertices: Array, landmarks: Array) -> Array:
    """Computes the mask [V] of the lips, by the distance to the middle between both lip contours."""
    right, left = landmarks[48:49], landmarks[54:55]
    upper = np.concatenate([right, 0.5 * (landmarks[49:54] + landmarks[[60, 61, 62, 63, 64]]), left])
    lower = np.concatenate([left, 0.5 * (landmarks[55:60] + landmarks[[64, 65, 66, 67, 60]]), right])
    distance = np.minimum(polyline_distance(vertices, upper)[0], polyline_distance(vertices, lower)[0])
    return 1.0 - smoothstep(distance, 3.0, 7.0)


def neck_mask(vertices: Array, landmarks: Array) -> Array:
    """Computes the mask [V] of the neck.

    It rises from 8 to 20 mm below the plane through the chin and both jaw corners.
    """
    chin, right, left = landmarks[8], landmarks[3], landmarks[13]
    normal = np.cross(left - right, chin - right)
    normal = normal / np.linalg.norm(normal)
    normal = normal * (1.0 if normal[1] > 0 else -1.0)
    return smoothstep((chin - vertices) @ normal, 8.0, 20.0)


def scalp_mask(vertices: Array, landmarks: Array) -> Array:
    """Computes the mask [V] of where hair usually grows: above the forehead, lower at the temples."""
    bridge = landmarks[27]
    azimuth = np.degrees(np.arctan2(np.abs(vertices[:, 0]), vertices[:, 2] - bridge[2] + HEAD_RADIUS))
    line = landmarks[17:27, 1].max() + np.interp(azimuth, *HAIRLINE)
    return smoothstep(vertices[:, 1] - line, 0.0, 24.0)


def face_mask(vertices: Array, landmarks: Array, skin: Array, ears: Array, neck: Array) -> Array:
    """Computes the mask [V] of the evaluated face.

    That is skin within 95 mm of the nose tip, before the ears and above the neck.
    """
    near = 1.0 - smoothstep(np.linalg.norm(vertices - landmarks[30], axis=1), 90.0, 100.0)
    front = smoothstep(vertices[:, 2] - landmarks[[1, 15], 2].mean(), -8.0, 4.0)
    return skin * near * front * (1.0 - ears) * (1.0 - neck)
