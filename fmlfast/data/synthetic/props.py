"""Generates glasses, hands and microphones, placed on the mean face."""

import numpy as np
from numpy.typing import NDArray

from fmlfast.data.synthetic.mesh_parts import Array, Part, grid_part


def _tube(
    path: Array, radius: Array | float, color: Array, sides: int = 6, present: NDArray[np.bool_] | None = None
) -> Part:
    """Builds a round tube along a path [N, 3], closed at both ends."""
    along = np.gradient(path, axis=0)
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    helper = np.where(np.abs(along[:, 1:2]) < 0.8, [[0.0, 1.0, 0.0]], [[1.0, 0.0, 0.0]])
    first = np.cross(helper, along)
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    second = np.cross(along, first)
    turn = np.arange(sides) * (2 * np.pi / sides)
    ring = np.cos(turn)[:, None] * first[:, None] + np.sin(turn)[:, None] * second[:, None]
    thickness = np.broadcast_to(radius, len(path)).copy()
    grid = path[:, None] + thickness[:, None, None] * ring
    grid = np.concatenate([np.repeat(path[:1, None], sides, 1), grid, np.repeat(path[-1:, None], sides, 1)])
    return grid_part(grid[::-1], color, 0.0, present)


def _ball(center: Array, size: Array, color: Array, present: NDArray[np.bool_] | None = None) -> Part:
    """Builds an ellipsoid."""
    theta, phi = np.linspace(0.0, np.pi, 9)[:, None], (np.arange(14) * (2 * np.pi / 14))[None]
    ray = np.stack(
        np.broadcast_arrays(np.sin(theta) * np.sin(phi), np.cos(theta), np.sin(theta) * np.cos(phi)), axis=-1
    )
    return grid_part(center + size * ray, color, 0.0, present)


def glasses(rng: np.random.Generator, marks: Array) -> list[Part]:
    """Draws glasses: two rims, a bridge and two temples; marks [68, 3]: landmarks of the mean face."""
    palette = np.array(
        [[0.012, 0.012, 0.013], [0.06, 0.03, 0.015], [0.22, 0.22, 0.23], [0.30, 0.21, 0.09], [0.1, 0.02, 0.02]]
    )
    color = palette[rng.integers(len(palette))]
    thick, wide, tall = rng.uniform(0.9, 2.3), rng.uniform(23.0, 27.5), rng.uniform(16.0, 23.0)
    turn = np.linspace(0.0, 2 * np.pi, 29)
    power = 2.0 / rng.uniform(2.0, 4.5)  # round to rectangular
    parts = []
    ends = []
    for side, eye in ((-1.0, slice(36, 42)), (1.0, slice(42, 48))):
        x = side * 33.0 + wide * np.sign(np.cos(turn)) * np.abs(np.cos(turn)) ** power
        y = marks[eye, 1].mean() - 2.0 + tall * np.sign(np.sin(turn)) * np.abs(np.sin(turn)) ** power
        z = marks[27, 2] + 10.0 - 0.0045 * x**2
        parts.append(_tube(np.stack([x, y, z], -1), thick, color))
        outer = np.array([side * (33.0 + wide), y[0] + 5.0, marks[27, 2] + 10.0 - 0.0045 * (33.0 + wide) ** 2])
        ear = np.array([side * 75.0, marks[36, 1] + 6.0, -88.0])
        parts.append(_tube(np.linspace(outer, ear, 8), thick, color))
        ends.append([side * (33.0 - wide), y[0] + 3.0, marks[27, 2] + 10.0])
    parts.append(
        _tube(
            np.linspace(ends[0], ends[1], 5) + [[0, 0, 0], [0, 2, 1], [0, 3, 1.5], [0, 2, 1], [0, 0, 0]], thick, color
        )
    )
    return parts


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
        parts.append(_tube(path, np.linspace(10.0, 7.5, 6), color * rng.uniform(0.92, 1.05), 8, present))
    thumb = palm + side * 30.0 * across + bend * (side * 24.0 * across + 48.0 * up)
    parts.append(_tube(thumb, np.linspace(11.0, 8.0, 6), color, 8, present))
    arm = palm - up * 30.0 + bend * (-260.0 * up + np.array([0.0, 0.0, 30.0]))
    parts.append(_tube(arm, np.linspace(26.0, 36.0, 6), color, 10, present))
    return parts


def microphone(rng: np.random.Generator, skin: Array, present: NDArray[np.bool_]) -> list[Part]:
    """Draws a hand-held microphone below the mouth, in the frames `present` [M]."""
    top = np.array([rng.uniform(-30.0, 30.0), rng.uniform(-78.0, -52.0), rng.uniform(52.0, 75.0)])
    foot = top + np.array([rng.uniform(-60.0, 60.0), -170.0, rng.uniform(0.0, 40.0)])
    steel = np.array([0.05, 0.05, 0.052]) * rng.uniform(0.4, 3.0)
    shaft = top + np.linspace(0.08, 1.0, 6)[:, None] * (foot - top)
    fist = top + 0.5 * (foot - top)
    grip = _ball(fist, np.array([38.0, 30.0, 30.0]), skin * 0.9, present)
    return [_ball(top, np.full(3, 24.0), steel, present), _tube(shaft, 14.0, 0.5 * steel, 8, present), grip]
