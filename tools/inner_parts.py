"""Adds teeth, tongue and lashes to the half mesh, as combinations of the base mesh's helper vertices."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from cut import HalfMesh, Row

Array = NDArray[np.float64]

UPPER_WIDTHS = (8.4, 6.6, 7.4, 6.8, 6.6, 9.6, 9.2)  # mm, from the middle incisor to the second molar
LOWER_WIDTHS = (5.4, 5.8, 6.6, 6.8, 6.8, 10.0, 9.4)
FLANKS = (0.14, 0.86)  # where the face of a tooth begins and ends, between its gaps
# rows of a tooth from the gum over the edge to the tongue's side: height over the edge, depth behind the front, mm
UPPER_ROWS = ((15.5, 2.6), (9.2, 0.6), (5.0, 0.0), (0.5, 0.5), (0.6, 2.6), (8.0, 5.5))
LOWER_ROWS = ((-13.5, 2.8), (-8.2, 0.9), (-4.2, 0.0), (-0.4, 0.5), (-0.5, 2.4), (-7.0, 5.0))
UPPER_EDGE, LOWER_EDGE = (659.2, 150.4), (659.2, 147.8)  # y and z of the middle incisors' edges at rest
ARCH = (31.0, 54.0, 3.2)  # half width, depth, and exponent of the dental arch
RISE = 0.14  # of the teeth's edges, mm a mm of depth, from the incisors to the molars
GAP_DEPTH, GAP_NOTCH = 0.7, 0.7  # mm that gaps lie behind the teeth's faces, and shorter at the edge
GUM_ROWS = (0, 5)  # rows of gum; the last one is the tongue's side

TONGUE_BACK, TONGUE_UNDERSIDE = 76.0, 108.0  # z at rest; only what lies before is kept, the underside from there on

UPPER_LASHES, LOWER_LASHES = 32, 18
LASH_WIDTH, LASH_ROOT, LASH_TIP = 0.8, -0.4, 1.25  # mm; root and tip in lengths of the helper's lashes
LOWER_LASH_TIP = 0.8


def arch_depth(x: Array) -> Array:
    """Computes how far behind the incisors the dental arch is at half width x, mm."""
    half, depth, power = ARCH
    return depth * (x / half) ** power


def tooth_columns(widths: tuple[float, ...], scale: float) -> tuple[Array, NDArray[np.bool_]]:
    """Computes x and z offset [C, 2] of the columns of half a row of teeth along the arch, and which are gaps."""
    x = np.linspace(0.0, 0.985 * ARCH[0], 4000)
    z = -arch_depth(x)
    length = np.r_[0.0, np.cumsum(np.hypot(np.diff(x), np.diff(z)))]
    stations, gaps, start = [0.0], [True], 0.0
    for width in widths:
        stations += [start + flank * width for flank in FLANKS] + [start + width]
        gaps += [False, False, True]
        start += width
    place = np.stack([np.interp(stations, length, x), np.interp(stations, length, z)], 1)
    return place * [scale, scale], np.array(gaps)


def add_teeth(half: "HalfMesh", group: str, parts: tuple[int, int, int]) -> None:
    """Adds half a row of teeth with its gums: affine combinations of the helper's teeth, which fit any jaw.

    parts: labels of crowns, of the gaps between them, and of gums.
    """
    upper = "upper" in group
    ids = np.unique(half.raw.quads[half.raw.groups == group])
    points = half.raw.vertices[ids]
    affine = np.linalg.pinv(np.c_[points, np.ones(len(points))])  # [4, n]
    place, gaps = tooth_columns(*((UPPER_WIDTHS, 1.0) if upper else (LOWER_WIDTHS, 0.94)))
    profile, (edge_y, edge_z) = (UPPER_ROWS, UPPER_EDGE) if upper else (LOWER_ROWS, LOWER_EDGE)
    tangent = np.gradient(place, axis=0)
    tangent[0] = 1.0, 0.0  # square to the middle
    inward = np.stack([tangent[:, 1], -tangent[:, 0]], 1) / np.linalg.norm(tangent, axis=1, keepdims=True)
    grid: list[list[Row]] = []
    for k, (height, depth) in enumerate(profile):
        crown = k not in GUM_ROWS and k != 1
        line: list[Row] = []
        for (x, z), (inward_x, inward_z), gap in zip(place, inward, gaps, strict=True):
            back = depth + (GAP_DEPTH if gap and crown and k < 4 else 0.0)
            notch = np.sign(height) * GAP_NOTCH if gap and k in (3, 4) else 0.0
            point = np.array([x + back * inward_x, edge_y + height + notch - RISE * z, edge_z + z + back * inward_z])
            weights = np.append(point, 1.0) @ affine
            line.append(dict(zip(ids.tolist(), weights.tolist(), strict=True)))
            half.vertex(line[-1], parts[2] if k in GUM_ROWS else parts[1] if gap else parts[0])
        grid.append(line)
    for upper_row, lower_row in zip(grid[:-1], grid[1:], strict=True):
        for c in range(len(gaps) - 1):
            corners = [upper_row[c], lower_row[c], lower_row[c + 1], upper_row[c + 1]]
            half.quad(corners if upper else corners[::-1], parts[0])


def add_tongue(half: "HalfMesh", part: int) -> None:
    """Adds half the tongue: its back and tip; its root and the hidden underside are left out."""
    raw = half.raw
    for quad in raw.quads[raw.groups == "helper-tongue"].tolist():
        points = raw.vertices[quad]
        normal = np.cross(points[2] - points[0], points[3] - points[1])
        hidden = points[:, 2].max() < TONGUE_BACK or (normal[1] < 0.0 and points[:, 2].mean() < TONGUE_UNDERSIDE)
        if points[:, 0].min() > -1e-6 and not hidden:
            half.quad([{v: 1.0} for v in quad], part)


def add_lashes(half: "HalfMesh", part: int) -> None:
    """Adds the left eye's lashes: one slender triangle each, along the helper's sheets."""
    for group, count, tip in (
        ("helper-l-eyelashes-1", LOWER_LASHES, LOWER_LASH_TIP),
        ("helper-l-eyelashes-2", UPPER_LASHES, LASH_TIP),
    ):
        roots, tips = lash_rows(half, group)
        for k in range(count):
            place = 0.04 + 0.92 * (k + 0.5) / count
            root, end = along(half, roots, place), along(half, tips, place)
            span = half.position(along(half, roots, min(place + 0.02, 1.0))) - half.position(root)
            step = 0.02 * 0.5 * LASH_WIDTH / np.linalg.norm(span)
            shift = [difference(along(half, roots, place + s), root) for s in (-step, step)]
            direction = difference(end, root)
            base = combine((1.0, root), (LASH_ROOT, direction))
            corners = [combine((1.0, base), (1.0, move)) for move in shift]
            half.triangle([corners[0], corners[1], combine((1.0, root), (tip, direction))], part)


def lash_rows(half: "HalfMesh", group: str) -> tuple[list["Row"], list["Row"]]:
    """Lists the sheet's first and last row of vertices, from the nose outwards."""
    raw = half.raw
    quads = raw.quads[raw.groups == group]
    sides = np.sort(np.concatenate([quads[:, [k, (k + 1) % 4]] for k in range(4)]), axis=1)
    edges, uses = np.unique(sides, axis=0, return_counts=True)
    rim = edges[uses == 1]
    corners = np.flatnonzero(np.bincount(quads.ravel(), minlength=len(raw.vertices)) == 1)
    neighbours: dict[int, list[int]] = {}
    for a, b in rim.tolist():
        neighbours.setdefault(a, []).append(b)
        neighbours.setdefault(b, []).append(a)
    paths = []
    for start in corners.tolist():
        for following in neighbours[start]:
            path = [start, following]
            while path[-1] not in corners:
                path.append(next(v for v in neighbours[path[-1]] if v != path[-2]))
            if raw.vertices[path[0], 0] < raw.vertices[path[-1], 0] and len(path) > 8:
                paths.append(path)
    paths.sort(key=lambda path: float(raw.vertices[path, 2].mean()))  # the roots lie deeper
    root, tip = ([{v: 1.0} for v in path] for path in paths)
    return root, tip


def along(half: "HalfMesh", rows: list["Row"], place: float | np.floating) -> "Row":
    """Interpolates a polyline of rows at a share 0..1 of its length at rest."""
    points = np.stack([half.position(row) for row in rows])
    length = np.r_[0.0, np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))]
    position = float(np.interp(place, length / length[-1], np.arange(len(rows))))
    k = min(int(position), len(rows) - 2)
    return combine((1.0 - (position - k), rows[k]), (position - k, rows[k + 1]))


def combine(*terms: tuple[float, "Row"]) -> "Row":
    """Computes a weighted sum of rows."""
    total: Row = {}
    for weight, row in terms:
        for v, w in row.items():
            total[v] = total.get(v, 0.0) + weight * w
    return total


def difference(first: "Row", second: "Row") -> "Row":
    """Computes first - second."""
    return combine((1.0, first), (-1.0, second))
