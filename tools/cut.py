"""Cuts the face template out of the raw body mesh, every vertex a linear combination of raw vertices.

One operator [V, N] therefore applies to the rest shape and to every target. Only the half x >= 0 is built; the other
half is its mirror image, so the result is exactly symmetric.
"""

from dataclasses import dataclass

import numpy as np
from inner_parts import add_lashes, add_teeth, add_tongue
from makehuman import MakeHuman
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array, vstack

MOUTH_CAVITY, LEFT_EYE_CAVITY = 0x70ACFF, 0xF96C88  # labels of MakeHuman.quad_labels
SKIN, INNER_LID, BAG, EYEBALL, THROAT, TOOTH, TOOTH_GAP, GUM, TONGUE, LASH = range(10)
BAG_RINGS = (0, 2, 4, 6, 8, 9)  # rings of the mouth cavity that are kept, counted from the inner lips
OUTER_BAG_RINGS = 4  # of them, those before the teeth, whose vertices come before the inner parts
LID_RINGS = (0, 1, 3)  # rings of the eye socket that are kept, counted from the lid margin
EYE_RINGS = (8.0, 11.0, 22.0, 26.0, 45.0, 70.0, 95.0)  # degrees from the gaze axis; pupil to 8, iris to 22
EYE_SEGMENTS = 16
TIE = 1e-6  # mm; diagonals that differ by rounding alone are equal
EYE_SWELL = 1.012  # makes up for the shrinking of Loop subdivision

Row = dict[int, float]  # raw vertex -> weight


@dataclass
class Cut:
    """The base mesh as combinations of raw vertices; `part` is one of SKIN ... LASH."""

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


@dataclass(frozen=True)
class Cavity:
    """A cavity of the body mesh in rings, ring 0 at its border."""

    quads: NDArray[np.int64]  # [Q, 4]
    ring: dict[int, int]  # raw vertex -> ring
    column: dict[int, int]  # raw vertex -> the vertex of ring 0 above it
    below: dict[tuple[int, int], int]  # vertex of ring 0, ring -> raw vertex


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
        short = np.linalg.norm(a - c) <= np.linalg.norm(b - d) + TIE
        split = ((0, 1, 2), (0, 2, 3)) if short else ((0, 1, 3), (1, 2, 3))
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
    """Builds the symmetric template: skin, inner lids, front of the mouth bag, eyeballs; then the rest."""
    half = HalfMesh(raw)
    labels, body = raw.quad_labels(), raw.groups == "body"
    left = (raw.vertices[raw.quads][:, :, 0] > -1e-6).all(1)
    mouth, socket = body & (labels == MOUTH_CAVITY), body & (labels == LEFT_EYE_CAVITY)
    head = body & left & ~mouth & ~socket & (raw.vertices[raw.quads][:, :, 1] > 540.0).all(1)
    add_skin(half, raw.quads[head])
    add_rings(half, find_rings(raw, raw.quads[socket], body & ~socket, LID_RINGS[-1]), LID_RINGS, INNER_LID)
    bag = find_rings(raw, raw.quads[mouth], body & ~mouth, BAG_RINGS[-1])
    add_rings(half, bag, BAG_RINGS[:OUTER_BAG_RINGS], BAG)
    half.vertex(bag_end(bag)[1], THROAT)
    add_eyeball(half, np.unique(raw.quads[raw.groups == "helper-l-eye"]))
    first = len(half.rows)
    add_rings(half, bag, BAG_RINGS[OUTER_BAG_RINGS - 1 :], THROAT)
    add_bag_end(half, bag)
    add_teeth(half, "helper-upper-teeth", (TOOTH, TOOTH_GAP, GUM))
    add_teeth(half, "helper-lower-teeth", (TOOTH, TOOTH_GAP, GUM))
    add_tongue(half, TONGUE)
    add_lashes(half, LASH)
    return mirrored(half, first)


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


def find_rings(raw: MakeHuman, quads: NDArray[np.int64], outside: NDArray[np.bool_], depth: int) -> Cavity:
    """Sorts a cavity's vertices into rings, from its border with the outside inwards.

    Every ring of the cavity has the same number of vertices, one below the other.
    """
    ring = {int(v): 0 for v in np.intersect1d(quads, raw.quads[outside])}
    column = {v: v for v in ring}  # the ring-0 vertex above each vertex
    below = {(v, 0): v for v in ring}
    for level in range(1, depth + 1):
        for quad in quads.tolist():
            for k in range(4):
                a, b = quad[k], quad[(k + 1) % 4]
                for up, down in ((a, b), (b, a)):
                    if ring.get(up) == level - 1 and down not in ring:
                        column[down] = column[up]
                        below[column[up], level] = down
        ring.update({v: level for (_, d), v in below.items() if d == level})
    return Cavity(quads, ring, column, below)


def add_rings(half: HalfMesh, cavity: Cavity, keep: tuple[int, ...], part: int) -> None:
    """Adds a tube of the rings in `keep`."""
    ring, column, below = cavity.ring, cavity.column, cavity.below
    strip = [quad for quad in cavity.quads.tolist() if sorted(ring.get(v, 99) for v in quad) == [0, 0, 1, 1]]
    for quad in strip:
        for upper, lower in zip(keep[:-1], keep[1:], strict=True):
            corners = [below[column[v], upper if ring[v] == 0 else lower] for v in quad]
            if all(half.raw.vertices[v][0] > -1e-6 for v in corners):
                half.quad([{v: 1.0} for v in corners], part)


def bag_end(bag: Cavity) -> tuple[list[int], Row]:
    """Returns the last ring of the mouth bag, and its centre."""
    last = [v for (_, depth), v in bag.below.items() if depth == BAG_RINGS[-1]]
    return last, {v: 1.0 / len(last) for v in sorted(last)}


def add_bag_end(half: HalfMesh, bag: Cavity) -> None:
    """Closes the mouth bag with a fan around the centre of its last ring."""
    last, center = bag_end(bag)
    members = set(last)
    for quad in bag.quads.tolist():
        if max(bag.ring.get(v, 99) for v in quad) > BAG_RINGS[-1]:
            continue
        for a, b in ((quad[k], quad[(k + 1) % 4]) for k in range(4)):
            if a in members and b in members and min(half.raw.vertices[[a, b], 0]) > -1e-6:
                half.triangle([{b: 1.0}, {a: 1.0}, center], THROAT)


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


def mirrored(half: HalfMesh, first: int) -> Cut:
    """Joins the half mesh and its mirror image along the sagittal plane; the `first` rows' vertices come first."""
    raw = half.raw
    count = len(half.rows)
    entries = [(i, vertex, weight) for i, row in enumerate(half.rows) for vertex, weight in row.items()]
    rows, columns, weights = (np.array(part) for part in zip(*entries, strict=True))
    operator = csr_array(coo_array((weights, (rows, columns)), shape=(count, len(raw.vertices))))
    on_plane = np.abs(operator @ raw.vertices[:, 0]) < 1e-6
    own = np.concatenate([np.arange(count), np.flatnonzero(~on_plane)])  # [V] row of each vertex
    order = np.argsort(own >= first, kind="stable")
    place = np.argsort(order)  # new id by old one
    opposite = np.where(on_plane, np.arange(count), count + np.cumsum(~on_plane) - 1)  # [count]
    triangles = np.array(half.triangles)
    mirror = np.concatenate([opposite, np.flatnonzero(~on_plane)])
    operator = csr_array(vstack([operator, operator[~on_plane][:, raw.mirror]]))
    return Cut(
        operator=operator[order],
        triangles=place[np.concatenate([triangles, opposite[triangles][:, [0, 2, 1]]])],
        part=np.array(half.part)[own[order]],
        mirror=place[mirror[order]],
    )
