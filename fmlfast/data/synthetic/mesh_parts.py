"""Defines the meshes around a face, and the thin-plate spline that warps them to each person."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]


@dataclass(frozen=True)
class Part:
    """A mesh with linear RGB colours; `body` is each vertex's share of the shoulders' motion instead of the head's."""

    vertices: Array  # [N, 3] mm
    triangles: NDArray[np.int32]  # [T, 3]
    colors: Array  # [N, 3]
    body: Array  # [N] in 0..1
    present: NDArray[np.bool_] | None = None  # [M]; None: in every frame
    sheet: bool = False  # whether its back faces can be visible
    casts: bool = True  # whether its shadow can fall on the face
    occlusion: Array | float = 1.0  # [N] share of the sky that each vertex sees


def distances(a: Array, b: Array) -> Array:
    """Computes distances [N, K] between points [N, 3] and [K, 3]."""
    square = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1)[None] - 2.0 * (a @ b.T)
    return np.sqrt(np.maximum(square, 0.0))


def grid_triangles(rows: int, columns: int) -> NDArray[np.int32]:
    """Triangulates a grid whose columns close a ring: triangles [2 (rows-1) columns, 3].

    They are counter-clockwise seen from outside when rows descend and columns turn from the front (+z) towards +x.
    """
    row, column = np.meshgrid(np.arange(rows - 1), np.arange(columns), indexing="ij")
    a, b = row * columns + column, row * columns + (column + 1) % columns
    c, d = a + columns, b + columns
    return np.concatenate([np.stack([a, c, b], -1), np.stack([b, c, d], -1)]).reshape(-1, 3).astype(np.int32)


def grid_part(grid: Array, colors: Array, body: Array | float = 0.0, present: NDArray[np.bool_] | None = None) -> Part:
    """Builds a part from a grid [rows, columns, 3] whose columns close a ring."""
    rows, columns, _ = grid.shape
    vertices = grid.reshape(-1, 3)
    shades = np.broadcast_to(colors, grid.shape).reshape(-1, 3)
    share = np.broadcast_to(body, grid.shape[:2]).reshape(-1)
    return Part(vertices, grid_triangles(rows, columns), shades, share, present)


def tube(
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


def streaks(rng: np.random.Generator, phi: Array, q: Array, low: int, high: int, slope: float) -> Array:
    """Draws random streaks of variance 1, periodic in azimuth phi, drifting with q: hair strands, cloth folds."""
    count = 10
    turns = rng.integers(low, high, count)[:, None, None]
    phase, drift = rng.uniform(0.0, 2 * np.pi, (count, 1, 1)), rng.normal(0.0, slope, (count, 1, 1))
    return np.cos(turns * phi + drift * q + phase).sum(axis=0) * (2.0 / count) ** 0.5


class Carrier:
    """Warps points around the mean face to another face by a 3D thin-plate spline.

    The spline (biharmonic, kernel |r|) passes through the displacements of `count` vertices from farthest-point
    sampling and fades out with distance from the face. Its matrix depends on these vertices alone.
    """

    def __init__(self, base: Array, usable: NDArray[np.bool_], count: int = 90) -> None:
        """Inverts the spline's matrix. base [V0, 3]: mean base mesh. usable [V0]: vertices for control points."""
        allowed = np.flatnonzero(usable)
        chosen = [int(allowed[0])]
        distance = np.full(len(allowed), np.inf)
        while len(chosen) < min(count, len(allowed)):  # farthest point sampling
            distance = np.minimum(distance, np.linalg.norm(base[allowed] - base[chosen[-1]], axis=1))
            chosen.append(int(allowed[distance.argmax()]))
        self._index, self._base = np.array(chosen), base
        steer = base[self._index]
        system = np.zeros((len(steer) + 4, len(steer) + 4))
        system[:-4, :-4] = distances(steer, steer) + 3.0 * np.eye(len(steer))
        system[:-4, -4:] = np.concatenate([np.ones((len(steer), 1)), steer], axis=1)
        system[-4:, :-4] = system[:-4, -4:].T
        self._inverse = np.linalg.inv(system)[:, :-4]  # [count + 4, count]

    def carry(self, points: Array, person: Array) -> Array:
        """Warps points [N, 3] around the mean face to points [N, 3] around the face `person` [V0, 3]."""
        steer = self._base[self._index]
        solved = self._inverse @ (person[self._index] - steer)  # [count + 4, 3]
        away = distances(points, steer)  # [N, count]
        moved = away @ solved[:-4] + solved[-4] + points @ solved[-3:]
        fade = np.exp(-((away.min(axis=1, keepdims=True) / 110.0) ** 2))
        return points + fade * moved
