"""Cuts the face template out of the raw body mesh, every vertex a linear combination of raw vertices.

One operator [V, N] therefore applies to the rest shape and to every target. Only the half x >= 0 is built; the other
half is its mirror image, so the result is exactly symmetric.
"""

from dataclasses import dataclass

import numpy as np
from makehuman import MakeHuman
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array, vstack

MOUTH_CAVITY, LEFT_EYE_CAVITY = 0x70ACFF, 0xF96C88  # labels of MakeHuman.quad_labels
SKIN, INNER_LID, BAG, EYEBALL = range(4)
BAG_RINGS = (0, 2, 4, 6)  # rings of the mouth cavity that are kept, counted from the inner lips
LID_RINGS = (0, 1, 3)  # rings of the eye socket that are kept, counted from the lid margin
EYE_RINGS = (8.0, 11.0, 22.0, 26.0, 45.0, 70.0, 95.0)  # degrees from the gaze axis; pupil to 8, iris to 22
EYE_SEGMENTS = 16
EYE_SWELL = 1.012  # makes up for the shrinking of Loop subdivision

Row = dict[int, float]  # raw vertex -> weight


@dataclass
class Cut:
    """The base mesh as combinations of raw vertices; `part` is SKIN, INNER_LID, BAG or EYEBALL."""

    operator: csr_array  # [V, N]
    triangles: NDArray[np.int64]  # [T, 3]
    part: NDArray[np.int64]  # [V]
    mirror: NDArray[np.int64]  # [V] the vertex across the sagittal plane


def inside(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Signed field over raw positions [..., 3] in mm, positive where the template is kept.

    A plane behind the ears that leans forward to the hairline, an upright one through the neck, and the level lower end
    of the neck, joined by a smooth minimum so that the cut has no corner.
    """
    y, z = points[..., 1], points[..., 2]
    hair = (z - 4.0) * 0.93 - (y - 690.0) * 0.37
    fields = np.stack([hair, z - 6.0, y - 602.0])
    return -12.0 * np.log(np.exp(-fields / 12.0).sum(0))


class HalfMesh:
    """Triangles over rows of raw vertices, for the half x >= 0."""

    def __init__(self, raw: MakeHuman) -> None:
        self.raw = raw
        self.rows: list[Row] = []
        self.part: list[int] = []
        self.triangles: list[tuple[int, int, int]] = []
        self._index: dict[tuple[tuple[int, float], ...], int] = {}

    def vertex(self, row: Row, part: int) -> int:
        """Returns the index of the vertex with these weights, adding it if it is new; parts share vertices."""
        key = tuple(sorted((vertex, round(weight, 9)) for vertex, weight in row.items()))
        if key not in self._index:
            self._index[key] = len(self.rows)
            self.rows.append(row)
            self.part.append(part)
        return self._index[key]

    def quad(self, corners: list[Row], part: int) -> None:
        """Adds a quad as two triangles along its shorter diagonal."""
        a, b, c, d = (self.position(corner) for corner in corners)
        split = ((0, 1, 2), (0, 2, 3)) if np.linalg.norm(a - c) <= np.linalg.norm(b - d) else ((0, 1, 3), (1, 2, 3))
        for triangle in split:
            self.triangle([corners[k] for k in triangle], part)

    def triangle(self, corners: list[Row], part: int) -> None:
        """Adds one triangle."""
        i, j, k = (self.vertex(corner, part) for corner in corners)
        self.triangles.append((i, j, k))

    def position(self, row: Row) -> NDArray[np.float64]:
        """Computes the position of a row on the raw rest shape, mm."""
        return sum((weight * self.raw.vertices[v] for v, weight in row.items()), start=np.zeros(3))


def blend(first: Row, second: Row, weight: float) -> Row:
    """Computes (1 - weight) * first + weight * second."""
    row = {v: (1.0 - weight) * w for v, w in first.items()}
    for v, w in second.items():
        row[v] = row.get(v, 0.0) + weight * w
    return row


def cut_face(raw: MakeHuman) -> Cut:
    """Builds the symmetric template: skin, inner lids, mouth bag and eyeballs."""
    half = HalfMesh(raw)
    labels, body = raw.quad_labels(), raw.groups == "body"
    left = (raw.vertices[raw.quads][:, :, 0] > -1e-6).all(1)
    mouth, socket = body & (labels == MOUTH_CAVITY), body & (labels == LEFT_EYE_CAVITY)
    head = body & left & ~mouth & ~socket & (raw.vertices[raw.quads][:, :, 1] > 540.0).all(1)
    add_skin(half, raw.quads[head])
    add_rings(half, raw.quads[socket], body & ~socket, LID_RINGS, INNER_LID)
    last = add_rings(half, raw.quads[mouth], body & ~mouth, BAG_RINGS, BAG)
    add_bag_end(half, last, raw.quads[mouth])
    add_eyeball(half, np.unique(raw.quads[raw.groups == "helper-l-eye"]))
    return mirrored(half)


def add_skin(half: HalfMesh, quads: NDArray[np.int64]) -> None:
    """Adds the quads clipped at `inside` = 0: near vertices slide onto the curve, the other crossings are new."""
    raw = half.raw
    level = dict(zip(np.unique(quads).tolist(), inside(raw.vertices[np.unique(quads)]).tolist(), strict=True))
    rows: dict[int, Row] = {v: {v: 1.0} for v in level}
    edges = np.unique(np.sort(np.concatenate([quads[:, [k, (k + 1) % 4]] for k in range(4)]), axis=1), axis=0)
    moves = []
    for a, b in edges.tolist():
        if level[a] * level[b] < 0.0:
            t = level[a] / (level[a] - level[b])
            moves += [(t, a, b), (1.0 - t, b, a)]
    for t, vertex, other in sorted(moves):
        on_plane = abs(raw.vertices[vertex][0]) < 1e-6
        if (
            t < 0.4
            and level[vertex] != 0.0
            and level[other] != 0.0
            and not (on_plane and abs(raw.vertices[other][0]) > 1e-6)
        ):
            rows[vertex], level[vertex] = blend(rows[vertex], rows[other], t), 0.0
    for quad in quads.tolist():
        a, b, c, d = (half.position(rows[v]) for v in quad)
        short = np.linalg.norm(a - c) <= np.linalg.norm(b - d)
        for split in ((0, 1, 2), (0, 2, 3)) if short else ((0, 1, 3), (1, 2, 3)):
            clip_triangle(half, [rows[quad[k]] for k in split], [level[quad[k]] for k in split])


def clip_triangle(half: HalfMesh, corners: list[Row], level: list[float]) -> None:
    """Adds the part of a triangle where `level` is positive."""
    if max(level) <= 0.0:
        return
    polygon: list[Row] = []
    for k in range(3):
        n = (k + 1) % 3
        if level[k] >= 0.0:
            polygon.append(corners[k])
        if level[k] * level[n] < 0.0:
            polygon.append(blend(corners[k], corners[n], level[k] / (level[k] - level[n])))
    if len(polygon) == 4:
        half.quad(polygon, SKIN)
    else:
        half.triangle(polygon, SKIN)


def add_rings(
    half: HalfMesh, quads: NDArray[np.int64], outside: NDArray[np.bool_], keep: tuple[int, ...], part: int
) -> list[int]:
    """Adds a tube of the rings in `keep` that starts at the border between `quads` and the outside.

    Every ring of the cavity has the same number of vertices, one below the other. Returns the last kept ring.
    """
    raw = half.raw
    ring = {int(v): 0 for v in np.intersect1d(quads, raw.quads[outside])}
    column = {v: v for v in ring}  # the ring-0 vertex above each vertex
    below = {(v, 0): v for v in ring}
    for depth in range(1, keep[-1] + 1):
        for quad in quads.tolist():
            for k in range(4):
                a, b = quad[k], quad[(k + 1) % 4]
                for up, down in ((a, b), (b, a)):
                    if ring.get(up) == depth - 1 and down not in ring:
                        column[down] = column[up]
                        below[column[up], depth] = down
        ring.update({v: depth for (_, d), v in below.items() if d == depth})
    strip = [quad for quad in quads.tolist() if sorted(ring.get(v, 99) for v in quad) == [0, 0, 1, 1]]
    for quad in strip:
        for upper, lower in zip(keep[:-1], keep[1:], strict=True):
            corners = [below[column[v], upper if ring[v] == 0 else lower] for v in quad]
            if all(raw.vertices[v][0] > -1e-6 for v in corners):
                half.quad([{v: 1.0} for v in corners], part)
    return [v for (_, depth), v in below.items() if depth == keep[-1]]


def add_bag_end(half: HalfMesh, last: list[int], quads: NDArray[np.int64]) -> None:
    """Closes the mouth bag with a fan around the centre of its last ring."""
    raw = half.raw
    center = {v: 1.0 / len(last) for v in sorted(last)}
    members = set(last)
    for quad in quads.tolist():
        deeper = [v for v in quad if v not in members]
        edge = [(quad[k], quad[(k + 1) % 4]) for k in range(4)]
        for a, b in edge:
            on_ring = a in members and b in members and min(raw.vertices[a][0], raw.vertices[b][0]) > -1e-6
            # each edge of the ring belongs to two quads; the one further back orients the fan
            if on_ring and raw.vertices[deeper][:, 2].mean() < raw.vertices[[a, b]][:, 2].mean():
                half.triangle([{a: 1.0}, {b: 1.0}, center], BAG)


def add_eyeball(half: HalfMesh, eye: NDArray[np.int64]) -> None:
    """Adds a ball open at the back, dense around the iris, of affine combinations of the raw eyeball's vertices."""
    points = half.raw.vertices[eye]
    center = points.mean(0)
    radius = np.linalg.norm(points - center, axis=1).mean() * EYE_SWELL
    affine = np.linalg.pinv(np.c_[points, np.ones(len(points))])  # [4, n]

    def row(point: NDArray[np.float64]) -> Row:
        return dict(zip(eye.tolist(), (np.append(point, 1.0) @ affine).tolist(), strict=True))

    pole = row(center + np.array([0.0, 0.0, radius]))
    rings = []
    for polar in np.radians(EYE_RINGS):
        turns = 2.0 * np.pi * np.arange(EYE_SEGMENTS) / EYE_SEGMENTS
        across = np.sin(polar) * np.stack([np.cos(turns), np.sin(turns)], 1)
        rings.append([row(center + radius * np.array([x, y, np.cos(polar)])) for x, y in across])
    for k in range(EYE_SEGMENTS):
        n = (k + 1) % EYE_SEGMENTS
        half.triangle([pole, rings[0][k], rings[0][n]], EYEBALL)
        for upper, lower in zip(rings[:-1], rings[1:], strict=True):
            half.quad([upper[k], lower[k], lower[n], upper[n]], EYEBALL)


def mirrored(half: HalfMesh) -> Cut:
    """Joins the half mesh and its mirror image along the sagittal plane."""
    raw = half.raw
    count = len(half.rows)
    entries = [(i, vertex, weight) for i, row in enumerate(half.rows) for vertex, weight in row.items()]
    rows, columns, weights = (np.array(part) for part in zip(*entries, strict=True))
    operator = csr_array(coo_array((weights, (rows, columns)), shape=(count, len(raw.vertices))))
    on_plane = np.abs(operator @ raw.vertices[:, 0]) < 1e-6
    opposite = np.where(on_plane, np.arange(count), count + np.cumsum(~on_plane) - 1)  # [count]
    other = operator[~on_plane][:, raw.mirror]
    triangles = np.array(half.triangles)
    total = count + other.shape[0]
    mirror = np.empty(total, np.int64)
    mirror[:count], mirror[opposite] = opposite, np.arange(count)
    part = np.array(half.part)
    return Cut(
        operator=csr_array(vstack([operator, other])),
        triangles=np.concatenate([triangles, opposite[triangles][:, [0, 2, 1]]]),
        part=np.concatenate([part, part[~on_plane]]),
        mirror=mirror,
    )
