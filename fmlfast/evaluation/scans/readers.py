"""Reads points of meshes and point clouds in several formats, and 3D landmarks."""

import io
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from fmlfast.common.extras import require
from fmlfast.common.given_files import check_file
from fmlfast.common.text_files import read_text
from fmlfast.mesh_io import obj_lines

Points = NDArray[np.float64]  # [P, 3]
# The nodes Coordinate (VRML 2) and Coordinate3 (VRML 1), not TextureCoordinate.
_VRML_POINTS = re.compile(r"(?<!Texture)Coordinate3?\s*\{\s*point\s*\[([^\[\]]*)\]")


def read_points(path: Path) -> Points:
    """Reads the vertices [P, 3] of a scan, in the file's order and unit.

    Formats: OBJ, VRML (.wrl), the first shape of a FaceWarehouse .bs file, and all that trimesh reads. Raises
    ValueError, naming the file, if it is malformed, empty or not finite.
    """
    suffix = check_file(path).suffix.lower()
    if suffix == ".obj":
        points = _obj(path)
    elif suffix == ".wrl":
        points = _vrml(path)
    elif suffix == ".bs":
        points = _blendshapes(path)
    else:
        trimesh = require("trimesh", "eval")
        try:
            loaded = trimesh.load(path, process=False)
            merged = loaded.to_mesh() if isinstance(loaded, trimesh.Scene) else loaded
            points = np.asarray(merged.vertices, np.float64)
        except Exception as error:  # each of trimesh's readers raises its own
            raise ValueError(f"{path} cannot be read as a scan: {error}") from error
    if points.ndim != 2 or len(points) == 0 or not np.isfinite(points).all():
        raise ValueError(f"{path}: a scan needs finite points, found {list(points.shape)}")
    return points


def read_landmarks(path: Path, points: Points) -> Points:
    """Reads the 7 or 68 landmarks of a scan, [K, 3]; BU-3DFE's 83 are reduced to 7.

    Formats: .pp (MeshLab), .bnd (BU-3DFE), or text with `x y z` or a vertex number from 0 in each line; lines starting
    with # are ignored. Raises ValueError, naming the file, for anything else.
    """
    suffix = check_file(path).suffix.lower()
    try:
        if suffix == ".pp":
            picked = ElementTree.parse(path).getroot().iter("point")
            placed = [point.attrib for point in picked if point.get("active", "1") != "0"]  # others lie at the origin
            table = np.array([[float(point[axis]) for axis in "xyz"] for point in placed])
        else:
            text = read_text(path)
            table = np.loadtxt(io.StringIO(text), ndmin=2, delimiter="," if "," in text else None)
    except (ElementTree.ParseError, LookupError, ValueError, OverflowError) as error:
        raise ValueError(f"{path} is no list of landmarks: {error}") from error
    if suffix == ".bnd":
        if table.shape != (83, 4):
            raise ValueError(f"{path}: BU-3DFE has 83 lines of `vertex x y z`, found {list(table.shape)}")
        return bu3dfe_to_seven(table[:, 1:])
    if table.ndim == 2 and table.shape[1] == 1:
        table = _vertices(path, table[:, 0], points)
    if table.shape not in ((7, 3), (68, 3)) or not np.isfinite(table).all():
        raise ValueError(f"{path}: needs 7 or 68 landmarks `x y z`, found {list(table.shape)}; see docs/evaluation.md")
    return table


def bu3dfe_to_seven(marks: Points) -> Points:
    """Reduces BU-3DFE's 83 landmarks [83, 3] to the 7 [7, 3] that NoW uses.

    Points 0-7 and 8-15 ring the eyes, 36-47 run down one side of the nose, along its base and up the other, 48-59 ring
    the mouth. Eye and mouth corners are the outermost points of their rings along the line between the eyes; the base
    of the nose is the mean of the two points in the middle of its line. Left and right follow from the shape (the
    nose's base lies before the plane of eyes and mouth), not from the order in the file.
    """
    rings = [marks[:8], marks[8:16]]
    centers = np.array([ring.mean(0) for ring in rings])
    base, mouth = marks[41:43].mean(0), marks[48:60]
    up = centers.mean(0) - mouth.mean(0)
    outwards = base - (centers.mean(0) + mouth.mean(0)) / 2
    if (centers[1] - centers[0]) @ np.cross(up, outwards) < 0:  # +x left, +y up, +z out
        rings, centers = rings[::-1], centers[::-1]
    across = centers[1] - centers[0]

    def ends(ring: Points) -> tuple[Points, Points]:
        along = ring @ across
        return ring[along.argmin()], ring[along.argmax()]

    return np.stack([*ends(rings[0]), *ends(rings[1]), base, *ends(mouth)])


def _vertices(path: Path, numbers: NDArray[np.float64], points: Points) -> Points:
    chosen = numbers.astype(np.int64)
    if (chosen != numbers).any() or chosen.min() < 0 or chosen.max() >= len(points):
        raise ValueError(f"{path}: vertex numbers must be integers from 0 to {len(points) - 1}")
    return points[chosen]


def _obj(path: Path) -> Points:
    """Reads the vertices of an OBJ mesh or point cloud; values after the coordinates are ignored."""
    rows = [values[:3] for _, kind, values in obj_lines(path) if kind == "v"]
    try:
        return np.array(rows, np.float64)
    except ValueError as error:
        raise ValueError(f"{path}: not all vertices read `v x y z`: {error}") from error


def _vrml(path: Path) -> Points:
    text = re.sub(r"#[^\n]*", "", path.read_text(errors="replace"))
    found = _VRML_POINTS.search(text)
    if found is None:
        raise ValueError(f"{path}: no `Coordinate {{ point [...] }}` in this VRML file")
    try:
        numbers = np.array(found[1].replace(",", " ").split(), np.float64)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if len(numbers) % 3:
        raise ValueError(f"{path}: {len(numbers)} coordinates are no whole number of points")
    return numbers.reshape(-1, 3)


def _blendshapes(path: Path) -> Points:
    """Reads the neutral shape of FaceWarehouse's shape.bs.

    Layout: int32 numbers of shapes, vertices and faces, then float32 xyz of each shape, neutral first.
    """
    data = path.read_bytes()
    header = np.frombuffer(data[:12].ljust(12, b"\0"), "<i4")
    if min(header) <= 0 or len(data) < 12 + 12 * int(header[1]) * (int(header[0]) + 1):
        raise ValueError(f"{path} is no FaceWarehouse blendshape file, or is cut short")
    return np.frombuffer(data, "<f4", 3 * int(header[1]), 12).reshape(-1, 3).astype(np.float64)
