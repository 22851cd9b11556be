"""Reads OBJ meshes, and writes meshes with vertex colours as OBJ, PLY and GLB.

trimesh is not used, as its GLB export stores sRGB bytes where glTF 2.0 demands linear COLOR_0 values.
"""

import json
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fmlfast.color import linear_to_srgb
from fmlfast.common.atomic import atomic_path
from fmlfast.renderer import vertex_normals
from fmlfast.common.version import __version__


@dataclass
class Obj:
    """A triangle mesh with vertices in the file's order and unit."""

    vertices: NDArray[np.float64]  # [V, 3]
    triangles: NDArray[np.int64]  # [T, 3]
    colors: NDArray[np.float64] | None  # [V, 3] if the vertices carry colours
    uv: NDArray[np.float64]  # [V, 2], zeros where the file has none


def read_obj(path: Path) -> Obj:
    """Reads an OBJ mesh; polygons become triangle fans, in order.

    A vertex takes its first texture coordinate.

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
    """Converts an OBJ index (from 1, or negative from the end) to an index from 0."""
    index = int(text)
    if index == 0 or index < -count:
        raise ValueError(f"index {index} is out of range")
    return index - 1 if index > 0 else count + index


Array = np.ndarray | Tensor
MILLIMETRES = {"mm": 1.0, "cm": 10.0, "dm": 100.0, "m": 1000.0}
"""Length units of files, in millimetres."""
SUFFIXES = (".obj", ".ply", ".glb")


@dataclass(frozen=True)
class _Mesh:
    points: np.ndarray  # [V, 3] float32
    faces: np.ndarray  # [T, 3] int32
    normals: np.ndarray  # [V, 3] float32, unit
    colors: np.ndarray | None  # [V, 3] float32 linear in 0..1
    uv: np.ndarray | None  # [V, 2] float32


def write_mesh(
    path: str | Path,
    vertices: Array,  # [V, 3]
    triangles: Array,  # [T, 3]
    colors: Array | None = None,  # [V, 3]
    uv: Array | None = None,  # [V, 2]
) -> None:
    """Writes a mesh as OBJ, PLY or GLB, by the suffix of `path`, whole or not at all.

    Args:
        path: ends in .obj, .ply (binary little endian) or .glb (glTF 2.0 binary); an existing file is replaced.
        vertices: float [V, 3] mm, +y up. OBJ and PLY keep mm; GLB is in metres, the unit of glTF.
        triangles: integer [T, 3], counter-clockwise seen from outside.
        colors: float [V, 3] linear RGB, clamped to [0, 1]. OBJ (`v x y z r g b`) and PLY (uchar) hold them as sRGB,
            GLB (COLOR_0, float) linear, as readers of each expect.
        uv: float [V, 2], origin at the lower left; `vt` in OBJ, `s`, `t` in PLY, TEXCOORD_0 (v flipped) in GLB.

    Unit vertex normals, weighted by area, are written in all three.

    Raises ValueError on an unknown suffix, wrong shapes, non-finite values or triangles that index missing vertices.
    """
    path = Path(path)
    writers = {".obj": _obj, ".ply": _ply, ".glb": _glb}
    if path.suffix.lower() not in writers:
        raise ValueError(f"{path}: unknown mesh format; end the name in one of {', '.join(SUFFIXES)}")
    points = _floats(vertices, "vertices", None, 3)
    faces = _indices(triangles, len(points))
    if colors is not None and not torch.is_floating_point(torch.as_tensor(colors)):
        raise ValueError("colors must be linear floats in [0, 1], not integers")
    linear = None if colors is None else _floats(colors, "colors", len(points), 3).clip(0.0, 1.0)
    coordinates = None if uv is None else _floats(uv, "uv", len(points), 2)
    data = writers[path.suffix.lower()](_Mesh(points, faces, _normals(points, faces), linear, coordinates))
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def _floats(values: Array, name: str, rows: int | None, columns: int) -> np.ndarray:
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    if array.ndim != 2 or array.shape[1] != columns or (rows is not None and len(array) != rows):
        wanted = f"[{'V' if rows is None else rows}, {columns}]"
        raise ValueError(f"{name} must have shape {wanted}, got {list(array.shape)}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite")
    return np.ascontiguousarray(array, dtype=np.float32)


def _indices(values: Array, vertices: int) -> np.ndarray:
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    if array.ndim != 2 or array.shape[1] != 3 or array.dtype.kind not in "iu" or len(array) == 0:
        raise ValueError(f"triangles must be integers of shape [T, 3], T > 0, got {array.dtype} {list(array.shape)}")
    if array.min() < 0 or array.max() >= vertices:
        raise ValueError(f"triangles must index the {vertices} vertices, got {array.min()} to {array.max()}")
    return np.ascontiguousarray(array, dtype=np.int32)


def _normals(points: np.ndarray, faces: np.ndarray) -> np.ndarray:
    normals = vertex_normals(torch.from_numpy(points)[None], torch.from_numpy(faces))[0].numpy().copy()
    normals[np.linalg.norm(normals, axis=1) < 0.5] = (0.0, 0.0, 1.0)  # glTF wants unit length of loose vertices too
    return normals


def _srgb(linear: np.ndarray) -> np.ndarray:
    return linear_to_srgb(torch.from_numpy(linear)).numpy()


def _rows(keyword: str, form: str, *columns: np.ndarray) -> str:
    """Formats an OBJ line per row; %-formatting of the whole array is ten times faster than line by line."""
    table = np.concatenate(columns, axis=1)
    line = " ".join([keyword] + [form] * table.shape[1]) + "\n"
    return (line * len(table)) % tuple(table.ravel().tolist())


def _obj(mesh: _Mesh) -> bytes:
    lines = ["# millimetres, +y up; vertex colours are sRGB\n"]
    lines.append(
        _rows("v", "%.9g", mesh.points) if mesh.colors is None else _rows("v", "%.9g", mesh.points, _srgb(mesh.colors))
    )
    if mesh.uv is not None:
        lines.append(_rows("vt", "%.9g", mesh.uv))
    lines.append(_rows("vn", "%.5g", mesh.normals))
    corner = "%d//%d" if mesh.uv is None else "%d/%d/%d"
    repeated = np.repeat(mesh.faces.astype(np.int64) + 1, 2 if mesh.uv is None else 3, axis=1)
    line = " ".join(["f"] + [corner] * 3) + "\n"
    lines.append((line * len(mesh.faces)) % tuple(repeated.ravel().tolist()))
    return "".join(lines).encode()


def _ply(mesh: _Mesh) -> bytes:
    columns: list[tuple[str, str, str, np.ndarray]] = [
        (name, "<f4", "float", values)
        for name, values in zip(("x", "y", "z", "nx", "ny", "nz"), (*mesh.points.T, *mesh.normals.T), strict=True)
    ]
    if mesh.uv is not None:
        columns += [("s", "<f4", "float", mesh.uv[:, 0]), ("t", "<f4", "float", mesh.uv[:, 1])]
    if mesh.colors is not None:
        byte = np.rint(_srgb(mesh.colors) * 255.0)
        columns += [(name, "u1", "uchar", byte[:, i]) for i, name in enumerate(("red", "green", "blue"))]
    vertex = np.empty(len(mesh.points), dtype=[(name, kind) for name, kind, _, _ in columns])
    for name, _, _, values in columns:
        vertex[name] = values
    face = np.empty(len(mesh.faces), dtype=[("count", "u1"), ("corners", "<i4", 3)])
    face["count"], face["corners"] = 3, mesh.faces
    header = [
        "ply",
        "format binary_little_endian 1.0",
        "comment millimetres, +y up; vertex colours are sRGB",
        f"element vertex {len(mesh.points)}",
        *(f"property {kind} {name}" for name, _, kind, _ in columns),
        f"element face {len(mesh.faces)}",
        "property list uchar int vertex_indices",
        "end_header",
    ]
    return ("\n".join(header) + "\n").encode() + vertex.tobytes() + face.tobytes()


def _glb(mesh: _Mesh) -> bytes:
    """Encodes glTF 2.0 binary: header, JSON chunk padded with spaces, BIN chunk; these types are 4-byte aligned."""
    metres = mesh.points * np.float32(0.001)
    attributes = {"POSITION": metres, "NORMAL": mesh.normals}
    if mesh.colors is not None:
        attributes["COLOR_0"] = mesh.colors
    if mesh.uv is not None:
        attributes["TEXCOORD_0"] = np.stack([mesh.uv[:, 0], 1 - mesh.uv[:, 1]], axis=1)
    arrays = [*attributes.values(), mesh.faces.reshape(-1, 1).astype(np.uint32)]
    accessors, views, offset = [], [], 0
    for array in arrays:
        indices = array.dtype == np.uint32
        views.append(
            {"buffer": 0, "byteOffset": offset, "byteLength": array.nbytes, "target": 34963 if indices else 34962}
        )
        accessors.append(
            {
                "bufferView": len(accessors),
                "componentType": 5125 if indices else 5126,  # uint32, float32
                "count": len(array),
                "type": "SCALAR" if indices else f"VEC{array.shape[1]}",
            }
        )
        offset += array.nbytes
    accessors[0] |= {"min": metres.min(0).tolist(), "max": metres.max(0).tolist()}  # glTF requires the bounds
    surface = {"metallicFactor": 0.0, "roughnessFactor": 0.7}  # the default, metal, would render skin nearly black
    document = {
        "asset": {"version": "2.0", "generator": f"fmlfast {__version__}"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "materials": [{"pbrMetallicRoughness": surface}],
        "meshes": [
            {
                "primitives": [
                    {
                        "attributes": {name: i for i, name in enumerate(attributes)},
                        "indices": len(attributes),
                        "material": 0,
                    }
                ]
            }
        ],
        "accessors": accessors,
        "bufferViews": views,
        "buffers": [{"byteLength": offset}],
    }
    text = json.dumps(document, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    binary = b"".join(np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<")).tobytes() for array in arrays)
    total = 12 + 8 + len(text) + 8 + len(binary)
    return (
        struct.pack("<4sII", b"glTF", 2, total)
        + struct.pack("<I4s", len(text), b"JSON")
        + text
        + struct.pack("<I4s", len(binary), b"BIN\0")
        + binary
    )
