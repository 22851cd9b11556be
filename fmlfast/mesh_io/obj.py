"""Reads OBJ meshes, and writes them with vertex colours, or with a material and its texture beside them."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fmlfast.common.atomic import atomic_path
from fmlfast.common.given_files import check_file
from fmlfast.mesh_io.mesh import Mesh

MATERIAL = "surface"


@dataclass
class Obj:
    """A triangle mesh with vertices in the file's order and unit."""

    vertices: NDArray[np.float64]  # [V, 3]
    triangles: NDArray[np.int64]  # [T, 3]
    colors: NDArray[np.float64] | None  # [V, 3] if the vertices carry colours
    uv: NDArray[np.float64]  # [V, 2], zeros where the file has none


def obj_lines(path: Path) -> Iterator[tuple[int, str, list[str]]]:
    """Yields number, keyword and values of an OBJ file's statements, comments left out and continued lines joined."""
    joined = ""
    for number, line in enumerate([*check_file(path).read_text("utf-8-sig", "replace").splitlines(), ""], 1):
        joined += line.split("#")[0].rstrip()
        if joined.endswith("\\"):
            joined = joined[:-1] + " "
            continue
        kind, *values = joined.split() or [""]
        yield number, kind, values
        joined = ""


def read_obj(path: Path) -> Obj:
    """Reads an OBJ mesh; polygons become triangle fans, in order.

    A vertex takes its first texture coordinate; the alpha of its colour is dropped.

    Raises:
        ValueError: naming the file and the line, if it is malformed or an index is out of range.
    """
    vertices: list[list[float]] = []
    texture: list[list[float]] = []
    triangles: list[tuple[int, int, int]] = []
    uv_of: dict[int, int] = {}
    for number, kind, fields in obj_lines(path):
        try:
            if kind == "v":
                vertices.append([float(x) for x in fields])
            elif kind == "vt":
                if not fields:
                    raise ValueError("a texture coordinate needs numbers")
                texture.append([float(x) for x in [*fields, "0"][:2]])
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
    if not vertices or not triangles or len(widths) > 1 or min(widths) not in (3, 4, 6, 7):
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
    return Obj(table[:, :3], corners_used, table[:, 3:6] if table.shape[1] > 4 else None, uv)


def _absolute(text: str, count: int) -> int:
    """Converts an OBJ index (from 1, or negative from the end) to an index from 0."""
    index = int(text)
    if index == 0 or index < -count:
        raise ValueError(f"index {index} is out of range")
    return index - 1 if index > 0 else count + index


def write_obj(path: Path, mesh: Mesh, texture: NDArray[np.uint8] | None = None, unlit: bool = False) -> None:
    """Writes an OBJ mesh in millimetres; with a texture also `NAME.mtl` and `NAME.png` beside it.

    Colours are written where there is no texture (readers would multiply both); uv always.

    Args:
        path: ends in .obj.
        mesh: must have uv if there is a texture.
        texture: [H, W, 3] sRGB, row (1 - v) * H.
        unlit: ask viewers for the texture as it is (`illum 0`).
    """
    colored = texture is None and mesh.colors is not None
    lines = ["# millimetres, +y up; vertex colours are sRGB\n"]
    if texture is not None:
        lines.append(f"mtllib {path.stem}.mtl\nusemtl {MATERIAL}\n")
    lines.append(_rows("v", "%.9g", mesh.points, mesh.srgb()) if colored else _rows("v", "%.9g", mesh.points))
    if mesh.uv is not None:
        lines.append(_rows("vt", "%.9g", mesh.uv))
    lines.append(_rows("vn", "%.5g", mesh.normals))
    corner = "%d//%d" if mesh.uv is None else "%d/%d/%d"
    repeated = np.repeat(mesh.triangles.astype(np.int64) + 1, 2 if mesh.uv is None else 3, axis=1)
    line = " ".join(["f"] + [corner] * 3) + "\n"
    lines.append((line * len(mesh.triangles)) % tuple(repeated.ravel().tolist()))
    if texture is None:
        with atomic_path(path) as temporary:
            temporary.write_text("".join(lines), "utf-8")
        return
    illumination = 0 if unlit else 1
    material = f"newmtl {MATERIAL}\nKa 1 1 1\nKd 1 1 1\nKs 0 0 0\nillum {illumination}\nmap_Kd {path.stem}.png\n"
    with (
        atomic_path(path) as mesh_file,
        atomic_path(path.with_suffix(".mtl")) as material_file,
        atomic_path(path.with_suffix(".png")) as image_file,
    ):
        mesh_file.write_text("".join(lines), "utf-8")
        material_file.write_text(material, "utf-8")
        Image.fromarray(texture).save(image_file)


def _rows(keyword: str, form: str, *columns: np.ndarray) -> str:
    """Formats an OBJ line per row; %-formatting of the whole array is ten times faster than line by line."""
    table = np.concatenate(columns, axis=1)
    line = " ".join([keyword] + [form] * table.shape[1]) + "\n"
    return (line * len(table)) % tuple(table.ravel().tolist())
