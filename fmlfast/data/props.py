"""What surrounds a face in a picture, as small meshes: skull and neck, hair, clothes, teeth, glasses, hands, microphones.

All are made around the mean face, in the template's millimetres, and then carried over to each person by a smooth warp
of space that follows the person's face (`Carrier`). A mesh is closed or a sheet seen from both sides.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]

_CENTER = np.array([0.0, 43.0, -90.0])  # of the skull
_SKULL = (71.0, 92.0, 94.0, 97.0)  # half width, height of the dome, depth to the front and to the back
_POWER = 2.3  # of the superellipsoid: heads are boxier than ellipsoids
_DROP = 140.0  # mm that one unit of q stands for below the dome
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


@dataclass(frozen=True)
class Part:
    """A mesh with linear RGB colours; `body` says how much each vertex turns with the shoulders instead of the head."""

    vertices: Array  # [N, 3] mm
    triangles: NDArray[np.int32]  # [T, 3]
    colors: Array  # [N, 3]
    body: Array  # [N] in 0..1
    present: NDArray[np.bool_] | None = None  # [M]; None: in every frame


def _smooth(value: Array, low: float, high: float) -> Array:
    t = np.clip((value - low) / (high - low), 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def _distances(a: Array, b: Array) -> Array:
    """[N, K] between points [N, 3] and [K, 3]."""
    square = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1)[None] - 2.0 * (a @ b.T)
    return np.sqrt(np.maximum(square, 0.0))


def _body_share(y: Array) -> Array:
    return _smooth(y, -100.0, -165.0)


def grid_triangles(rows: int, columns: int) -> NDArray[np.int32]:
    """Triangles [2 (rows-1) columns, 3] of a grid whose columns close a ring, CCW seen from outside when rows descend
    and columns turn from the front (+z) towards +x."""
    row, column = np.meshgrid(np.arange(rows - 1), np.arange(columns), indexing="ij")
    a, b = row * columns + column, row * columns + (column + 1) % columns
    c, d = a + columns, b + columns
    return np.concatenate([np.stack([a, c, b], -1), np.stack([b, c, d], -1)]).reshape(-1, 3).astype(np.int32)


def _part(grid: Array, colors: Array, body: Array | float = 0.0, present: NDArray[np.bool_] | None = None) -> Part:
    """A part from a grid [rows, columns, 3] whose columns close."""
    rows, columns, _ = grid.shape
    vertices = grid.reshape(-1, 3)
    shades = np.broadcast_to(colors, grid.shape).reshape(-1, 3)
    share = np.broadcast_to(body, grid.shape[:2]).reshape(-1)
    return Part(vertices, grid_triangles(rows, columns), shades, share, present)


def _ring(y: Array, phi: Array, grow: Array | float = 0.0) -> Array:
    """Points [..., 3] of the head-and-body rings at height y and azimuth phi (0 front, growing to the subject's left)."""
    half, middle, front, back = (np.interp(-y, -_RINGS[:, 0], column) for column in _RINGS[:, 1:].T)
    sine, cosine = np.sin(phi), np.cos(phi)
    deep = np.where(cosine > 0, front, back) + grow
    half = half + grow
    scale = (np.abs(sine) ** _POWER + np.abs(cosine) ** _POWER) ** (-1.0 / _POWER)
    return np.stack(np.broadcast_arrays(half * sine * scale, y, middle + deep * cosine * scale), axis=-1)


def _dome(phi: Array, q: Array, grow: Array | float = 0.0) -> Array:
    """Points [..., 3] of the skull's dome: q = 0 the crown, 1 its widest level; below that a vertical drop."""
    theta = np.minimum(q, 1.0) * (np.pi / 2)
    ray = np.stack(
        np.broadcast_arrays(np.sin(theta) * np.sin(phi), np.cos(theta), np.sin(theta) * np.cos(phi)), axis=-1
    )
    half, height, front, back = _SKULL
    size = np.stack(
        np.broadcast_arrays(half + grow, height + grow, np.where(ray[..., 2] > 0, front, back) + grow), axis=-1
    )
    radius = ((np.abs(ray) / size) ** _POWER).sum(axis=-1, keepdims=True) ** (-1.0 / _POWER)
    points = _CENTER + radius * ray
    points[..., 1] -= _DROP * np.maximum(np.broadcast_to(q, points.shape[:-1]) - 1.0, 0.0)
    return points


def _streaks(rng: np.random.Generator, phi: Array, q: Array, low: int, high: int, slope: float) -> Array:
    """Random streaks of variance 1 over azimuth (periodic) that wander with q: strands of hair, folds of cloth."""
    count = 10
    turns = rng.integers(low, high, count)[:, None, None]
    phase, drift = rng.uniform(0.0, 2 * np.pi, (count, 1, 1)), rng.normal(0.0, slope, (count, 1, 1))
    return np.cos(turns * phi + drift * q + phase).sum(axis=0) * (2.0 / count) ** 0.5


@dataclass(frozen=True)
class Head:
    """The skull behind the face, and the neck and chest below it; bare skin."""

    vertices: Array  # [N, 3]
    triangles: NDArray[np.int32]
    nearest: NDArray[np.int64]  # [N] the face's vertex next to each vertex
    distance: Array  # [N] mm to it

    def part(self, face_colors: Array, skin: Array) -> Part:
        """The head as part of a scene: face_colors [>= V0, 3] go on over its edge and fade to the plain skin [3]."""
        fade = _smooth(self.distance, 3.0, 35.0)[:, None]
        y = self.vertices[:, 1:2]
        shadow = 1.0 - 0.3 * _smooth(y, -130.0, -100.0) * _smooth(y, -60.0, -85.0)  # of the chin on the neck
        colors = (1.0 - fade) * face_colors[self.nearest] + fade * skin * shadow
        return Part(self.vertices, self.triangles, colors, _body_share(self.vertices[:, 1]))


def make_head(face: Array, normals: Array, edge: NDArray[np.bool_], detail: int = 1) -> Head:
    """A head that fits behind a face: a millimetre under its skin along its edge, well under it elsewhere.

    face, normals [V0, 3]: the mean face. edge [V0]: vertices on the outer rim of its mesh.
    """
    columns = 32 * detail
    phi = np.arange(columns) * (2 * np.pi / columns)
    heights = np.concatenate([np.linspace(43.0, -160.0, 15 * detail)[1:], [-190.0, -230.0]])
    dome = _dome(phi[None], np.linspace(0.02, 1.0, 9 * detail)[:, None], -1.5)
    grid = np.concatenate([dome, _ring(heights[:, None], phi[None], -1.0)])
    points = grid.reshape(-1, 3)
    away = _distances(points, face)  # [N, V0]
    nearest = away.argmin(axis=1)
    to_edge = away[:, edge].min(axis=1)
    height = ((points - face[nearest]) * normals[nearest]).sum(axis=1)  # over the skin
    by_edge = _smooth(to_edge, 26.0, 10.0)
    sink = by_edge * (height + 1.0) + (1.0 - by_edge) * np.maximum(height + 5.0, 0.0)
    sink = sink * _smooth(away.min(axis=1), 30.0, 12.0)
    points = points - sink[:, None] * normals[nearest]
    return Head(points, grid_triangles(*grid.shape[:2]), nearest, np.linalg.norm(points - face[nearest], axis=1))


@dataclass(frozen=True)
class HairStyle:
    """Heights are y in mm; lengths in mm."""

    top: float  # how far hair stands off the crown
    side: float  # and the sides of the head
    front: float  # where it ends over the forehead, y
    temple: float  # azimuth in degrees at which it begins to hang down
    side_end: float  # where it ends at the sides, y
    back_end: float
    curl: float  # bumps, mm


def random_style(rng: np.random.Generator, age: float, male: bool) -> HairStyle | None:
    """A hair style, or None for a bald head."""
    if male and rng.random() < 0.06 + 0.25 * max(0.0, age - 0.45):
        return None
    recede = rng.uniform(0.0, 14.0) * (1.0 if male else 0.3) * min(1.0, 1.6 * age)
    front = rng.uniform(74.0, 90.0) + recede
    if rng.random() < (0.15 if male else 0.22):
        front = rng.uniform(52.0, 68.0)  # a fringe
    kinds = ("buzz", "short", "curly", "bob", "long", "tied")
    share = [0.17, 0.55, 0.12, 0.05, 0.06, 0.05] if male else [0.01, 0.08, 0.12, 0.25, 0.34, 0.20]
    kind = rng.choice(kinds, p=share)
    u = rng.uniform
    if kind == "buzz":
        return HairStyle(u(2, 4), u(1.5, 2.5), max(front, 84.0), u(72, 80), u(28, 40), u(-45, -25), 0.2)
    if kind == "short":
        return HairStyle(u(9, 30), u(4, 11), front, u(70, 80), u(22, 42), u(-60, -35), u(0.5, 2.0))
    if kind == "curly":
        return HairStyle(u(20, 48), u(14, 40), front, u(64, 78), u(-50, 35), u(-80, -40), u(2.5, 5.0))
    if kind == "tied":
        return HairStyle(u(5, 13), u(3, 7), front, u(70, 80), u(30, 45), u(-30, 0), u(0.3, 0.8))
    ears = u(62, 76) if rng.random() < 0.65 else u(96, 108)
    if kind == "bob":
        return HairStyle(u(10, 22), u(14, 26), front, ears, u(-90, -30), u(-90, -60), u(0.8, 2.5))
    return HairStyle(u(10, 22), u(14, 28), front, ears, u(-220, -120), u(-230, -140), u(0.8, 3.0))


def hair(rng: np.random.Generator, style: HairStyle, color: Array, detail: int = 1) -> Part:
    """A shell of hair with strands in its shape and colour."""
    columns, rows = 112 * detail, 16 * detail
    phi = (np.arange(columns) * (2 * np.pi / columns))[None]
    turn = np.degrees(np.minimum(phi, 2 * np.pi - phi))  # 0 front .. 180 back
    behind = style.temple > 90.0  # tucked behind the ears
    side_y, temple_y = style.side_end, (38.0 if behind else max(style.side_end, 24.0))
    fringe = style.front < 72.0
    arch = np.array([0.0, 0.0, 1.0, 4.0, 10.0]) if fringe else np.array([0.0, 0.5, 4.0, 13.0, 28.0])
    knots = [0.0, 13.0, 26.0, 39.0, 50.0, style.temple - 8.0, style.temple + 3.0, 128.0, 180.0]
    ends = [*(style.front - arch), max(temple_y, 36.0), side_y, 0.3 * side_y + 0.7 * style.back_end]
    end_y = np.interp(turn, knots, [*ends, style.back_end])
    end_y = end_y + (0.7 + 0.3 * style.curl) * _streaks(rng, phi, 0.0 * phi, 14, 50, 0.0)
    above = np.clip((end_y - _CENTER[1]) / _SKULL[1], -1.0, 1.0)
    last = np.where(end_y > _CENTER[1], np.arccos(np.clip(above, 0.0, 1.0)) / (np.pi / 2), 1.0 + (43.0 - end_y) / _DROP)
    t = np.linspace(0.01, 1.0, rows)[:, None]
    q = t * last  # [rows, columns]

    part = rng.uniform(-0.5, 0.5)  # the parting, left or right of the middle
    stand = style.side + (style.top - style.side) * np.clip(1.0 - q, 0.0, 1.0) ** 0.7
    stand = stand * (1.0 + 0.18 * _streaks(rng, phi, q, 1, 5, 2.0)) + style.curl * _streaks(rng, phi, q, 5, 14, 14.0)
    stand = stand * (1.0 + 0.25 * part * np.sin(phi)) + 0.5 * _streaks(rng, phi, q, 20, 50, 3.0)
    hanging = _smooth(30.0 - end_y, 0.0, 30.0) * (turn > 45.0)  # these ends fall free, all others lie on the skin
    tuck = _smooth(t, 1.0, 0.8)
    front_lift = 6.0 if fringe else -1.0
    stand = hanging * stand + (1.0 - hanging) * (tuck * np.maximum(stand, 1.0) + (1.0 - tuck) * front_lift)
    grid = _dome(phi, q, stand)
    flare = 1.0 + 0.10 * np.maximum(q - 1.0, 0.0)
    grid[..., 0] *= flare
    grid[..., 2] = _CENTER[2] + (grid[..., 2] - _CENTER[2]) * np.where(
        turn > 90.0, 1.0 - 0.12 * np.maximum(q - 1, 0), flare
    )

    shine = rng.uniform(0.1, 0.5) * np.exp(-(((q - rng.uniform(0.35, 0.6)) / 0.16) ** 2))
    light = 0.30 * _streaks(rng, phi, q, 18, 55, 3.0) + 0.15 * _streaks(rng, phi, q, 3, 10, 4.0) + shine
    light = light - 0.5 * _smooth(q, 1.0, 2.2) * (turn > 80.0) - 0.35 * _smooth(t, 0.75, 1.0) * (1.0 - hanging)
    return _part(grid, color * np.exp(light)[..., None], 0.6 * _body_share(grid[..., 1]))


def clothes(rng: np.random.Generator, detail: int = 1) -> Part:
    """Shoulders in a garment with a round neck, a V neck or a collar; plain, striped or mottled."""
    columns = 56 * detail
    phi = (np.arange(columns) * (2 * np.pi / columns))[None]
    front = np.exp(-((np.minimum(phi, 2 * np.pi - phi) / rng.uniform(0.25, 0.7)) ** 2))
    kind = rng.random()
    high = kind < 0.2
    start = rng.uniform(-96.0, -84.0) if high else rng.uniform(-122.0, -112.0)
    start = start - (0.0 if high else rng.uniform(8.0, 55.0)) * front
    t = np.linspace(0.0, 1.0, 16 * detail)[:, None]
    y = start + (-335.0 - start) * t**1.6
    loose = rng.uniform(3.0, 7.0) + 2.0 * _streaks(rng, phi, 4 * t, 3, 9, 1.0) * _smooth(t, 0.1, 0.5)
    grid = _ring(y, np.broadcast_to(phi, y.shape), loose)
    color = np.exp(rng.uniform(np.log(0.015), np.log(0.5))) * np.exp(rng.normal(0.0, 0.35, 3))
    pattern = 0.08 * _streaks(rng, phi, 6 * t, 3, 12, 2.0)
    if rng.random() < 0.25:
        pattern = pattern + rng.uniform(-1.2, 0.8) * (np.cos(y * (2 * np.pi / rng.uniform(12.0, 40.0))) > 0.2)
    rim = -0.3 * (t < 0.04)
    shades = np.clip(color * np.exp(pattern + rim)[..., None], 0.008, 0.55)
    return _part(grid, shades, _body_share(y))


def _tube(
    path: Array, radius: Array | float, color: Array, sides: int = 6, present: NDArray[np.bool_] | None = None
) -> Part:
    """A round tube along a path [N, 3], tapered to nothing at both ends."""
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
    return _part(grid[::-1], color, 0.0, present)


def _ball(center: Array, size: Array, color: Array, present: NDArray[np.bool_] | None = None) -> Part:
    """An ellipsoid."""
    theta, phi = np.linspace(0.0, np.pi, 9)[:, None], (np.arange(14) * (2 * np.pi / 14))[None]
    ray = np.stack(
        np.broadcast_arrays(np.sin(theta) * np.sin(phi), np.cos(theta), np.sin(theta) * np.cos(phi)), axis=-1
    )
    return _part(center + size * ray, color, 0.0, present)


def teeth(marks: Array) -> Part:
    """The upper row of teeth behind the lips. marks [68, 3]: landmarks of the mean face."""
    x = np.linspace(-21.0, 21.0, 15)
    lip = marks[62]
    z = lip[2] - 7.5 - x**2 / 34.0
    rows = np.array([8.0, 4.0, 1.0, -2.5])
    front = np.stack(np.broadcast_arrays(x[None], lip[1] + rows[:, None], z[None]), axis=-1)  # [4, 15, 3]
    behind = front[:, ::-1] - [0.0, 0.0, 3.0]
    grid = np.concatenate([front, behind], axis=1)
    gaps = 1.0 - 0.3 * (np.arange(30) % 2)
    edge = np.concatenate([np.linspace(1.0, 0.45, 8)[::-1], np.linspace(1.0, 0.45, 8)[1:]])
    shade = np.concatenate([edge, edge]) * gaps
    return _part(grid, np.array([0.42, 0.37, 0.30]) * shade[None, :, None])


def glasses(rng: np.random.Generator, marks: Array) -> list[Part]:
    """Two rims, a bridge and two temples."""
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
    """A hand on a cheek, the chin or before the mouth."""
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
    """A hand-held microphone below the mouth."""
    top = np.array([rng.uniform(-30.0, 30.0), rng.uniform(-78.0, -52.0), rng.uniform(52.0, 75.0)])
    foot = top + np.array([rng.uniform(-60.0, 60.0), -170.0, rng.uniform(0.0, 40.0)])
    steel = np.array([0.05, 0.05, 0.052]) * rng.uniform(0.4, 3.0)
    shaft = top + np.linspace(0.08, 1.0, 6)[:, None] * (foot - top)
    fist = top + 0.5 * (foot - top)
    grip = _ball(fist, np.array([38.0, 30.0, 30.0]), skin * 0.9, present)
    return [_ball(top, np.full(3, 24.0), steel, present), _tube(shaft, 14.0, 0.5 * steel, 8, present), grip]


class Carrier:
    """Carries points around the mean face over to another face.

    A thin-plate spline in space (biharmonic, kernel |r|) through the displacements of `count` well-spread vertices; it
    fades out with distance from the face. It depends on the points alone, so it is one small matrix a set of points.
    """

    def __init__(self, base: Array, usable: NDArray[np.bool_], count: int = 90) -> None:
        """base [V0, 3]: mean base mesh. usable [V0]: vertices that may steer."""
        allowed = np.flatnonzero(usable)
        chosen = [int(allowed[0])]
        distance = np.full(len(allowed), np.inf)
        while len(chosen) < min(count, len(allowed)):  # farthest point sampling
            distance = np.minimum(distance, np.linalg.norm(base[allowed] - base[chosen[-1]], axis=1))
            chosen.append(int(allowed[distance.argmax()]))
        self._index, self._base = np.array(chosen), base
        steer = base[self._index]
        system = np.zeros((len(steer) + 4, len(steer) + 4))
        system[:-4, :-4] = _distances(steer, steer) + 3.0 * np.eye(len(steer))
        system[:-4, -4:] = np.concatenate([np.ones((len(steer), 1)), steer], axis=1)
        system[-4:, :-4] = system[:-4, -4:].T
        self._inverse = np.linalg.inv(system)[:, :-4]  # [count + 4, count]

    def carry(self, points: Array, person: Array) -> Array:
        """points [N, 3] around the mean face -> [N, 3] around the face `person` [V0, 3]."""
        steer = self._base[self._index]
        solved = self._inverse @ (person[self._index] - steer)  # [count + 4, 3]
        away = _distances(points, steer)  # [N, count]
        moved = away @ solved[:-4] + solved[-4] + points @ solved[-3:]
        fade = np.exp(-((away.min(axis=1, keepdims=True) / 110.0) ** 2))
        return points + fade * moved
