"""Generates hands and microphones, placed on the mean face."""

import numpy as np
from numpy.typing import NDArray

from fmlfast.data.synthetic.mesh_parts import Array, Part, grid_part, tube


def _ball(center: Array, size: Array, color: Array, present: NDArray[np.bool_] | None = None) -> Part:
    """Builds an ellipsoid."""
    theta, phi = np.linspace(0.0, np.pi, 9)[:, None], (np.arange(14) * (2 * np.pi / 14))[None]
    ray = np.stack(
        np.broadcast_arrays(np.sin(theta) * np.sin(phi), np.cos(theta), np.sin(theta) * np.cos(phi)), axis=-1
    )
    return grid_part(center + size * ray, color, 0.0, present)


def hand(rng: np.random.Generator, skin: Array, present: NDArray[np.bool_]) -> list[Part]:
    """Draws a hand on a cheek, on the chin or before the mouth, in the frames `present` [M]."""
    side = rng.choice([-1.0, 1.0])
    palm = np.array([side * rng.uniform(15.0, 62.0), rng.uniform(-105.0, -70.0), rng.uniform(22.0, 40.0)])
    lean = np.radians(side * rng.uniform(-10.0, 50.0))
    up, across = np.array([-np.sin(lean), np.cos(lean), 0.0]), np.array([np.cos(lean), np.sin(lean), 0.0])
    color = skin * rng.uniform(0.8, 1.0)
    parts = [_ball(palm, np.array([40.0, 44.0, 14.0]), color, present)]
    bend = np.linspace(0.0, 1.0, 6)[:, None]
    for finger, length in zip((-1.5, -0.5, 0.5, 1.5), (58.0, 72.0, 76.0, 66.0), strict=True):
        start = palm + finger * 19.0 * across + 26.0 * up
        tip = start + length * (up + 0.12 * finger * across) * rng.uniform(0.7, 1.0)
        path = start + bend * (tip - start) + np.array([0.0, 0.0, 7.0]) * np.sin(np.pi * bend)
        parts.append(tube(path, np.linspace(10.0, 7.5, 6), color * rng.uniform(0.92, 1.05), 8, present))
    thumb = palm + side * 30.0 * across + bend * (side * 24.0 * across + 48.0 * up)
    parts.append(tube(thumb, np.linspace(11.0, 8.0, 6), color, 8, present))
    arm = palm - up * 30.0 + bend * (-260.0 * up + np.array([0.0, 0.0, 30.0]))
    parts.append(tube(arm, np.linspace(26.0, 36.0, 6), color, 10, present))
    return parts


def microphone(rng: np.random.Generator, skin: Array, present: NDArray[np.bool_]) -> list[Part]:
    """Draws a hand-held microphone below the mouth, in the frames `present` [M]."""
    top = np.array([rng.uniform(-30.0, 30.0), rng.uniform(-78.0, -52.0), rng.uniform(52.0, 75.0)])
    foot = top + np.array([rng.uniform(-60.0, 60.0), -170.0, rng.uniform(0.0, 40.0)])
    steel = np.array([0.05, 0.05, 0.052]) * rng.uniform(0.4, 3.0)
    shaft = top + np.linspace(0.08, 1.0, 6)[:, None] * (foot - top)
    fist = top + 0.5 * (foot - top)
    grip = _ball(fist, np.array([38.0, 30.0, 30.0]), skin * 0.9, present)
    return [_ball(top, np.full(3, 24.0), steel, present), tube(shaft, 14.0, 0.5 * steel, 8, present), grip]
