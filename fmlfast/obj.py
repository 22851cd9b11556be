"""Reads OBJ files: as much of them as a template needs."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


@dataclass
class Obj:
    """A triangle mesh as it stands in the file: the order and the unit of its vertices are kept."""

    vertices: NDArray[np.float64]  # [V, 3]
    triangles: NDArray[np.int64]  # [T, 3]
    colors: NDArray[np.float64] | None  # [V, 3] if the vertices carry colours
    uv: NDArray[np.float64]  # [V, 2], zeros where the file has none


def read_obj(path: Path) -> Obj:
    """Reads a mesh. Polygons become fans of triangles, in order; a vertex takes its first texture coordinate.

    Raises:
        ValueError: naming the file and the line, if it is malformed or an index is out of range.
    """
    vertices: list[list[float]] = []
    texture: list[list[float]] = []
    triangles: list[tuple[int, int, int]] = []
    uv_of: dict[int, int] = {}
    for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
        kind, *fields = line.split("#")[0].split() or [""]
        try:
            if kind == "v":
                vertices.append([float(x) for x in fields])
            elif kind == "vt":
                if len(fields) < 2:
                    raise ValueError("a texture coordinate needs two numbers")
                texture.append([float(x) for x in fields[:2]])
            elif kind == "f":
                corners = [corner.split("/") for corner in fields]
                ids = [_absolute(corner[0], len(vertices)) for corner in corners]
                if len(ids) < 3:
                    raise ValueError("a face needs three corners")
                triangles += [(ids[0], ids[k], ids[k + 1]) for k in range(1, len(ids) - 1)]
                for vertex, corner in zip(ids, corners, strict=True):
                    if len(corner) > 1 and corner[1]:
                        uv_of.setdefault(vertex, _absolute(corner[1], len(texture)))
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from error
    widths = {len(vertex) for vertex in vertices}
    if not vertices or not triangles or len(widths) > 1 or min(widths) not in (3, 4, 6):
        raise ValueError(f"{path}: needs faces, and vertices that all read `v x y z` or `v x y z r g b`")
    table = np.array(vertices)
    if not np.isfinite(table).all():
        raise ValueError(f"{path}: a vertex is not finite")
    corners_used = np.array(triangles)
    if corners_used.max() >= len(table):
        raise ValueError(f"{path}: a face uses vertex {corners_used.max() + 1}, but there are only {len(table)}")
    uv = np.zeros((len(table), 2))
    if uv_of:
        if max(uv_of.values()) >= len(texture):
            raise ValueError(f"{path}: a face uses texture coordinate {max(uv_of.values()) + 1} of {len(texture)}")
        uv[list(uv_of)] = np.array(texture)[list(uv_of.values())]
    return Obj(table[:, :3], corners_used, table[:, 3:] if table.shape[1] == 6 else None, uv)


def _absolute(text: str, count: int) -> int:
    """An OBJ index (from 1, or negative from the end) as an index from 0."""
    index = int(text)
    if index == 0 or index < -count:
        raise ValueError(f"index {index} is out of range")
    return index - 1 if index > 0 else count + index
