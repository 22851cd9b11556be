"""Writes meshes as PLY."""

from pathlib import Path

import numpy as np

from fmlfast.common.atomic import atomic_path
from fmlfast.mesh_io.mesh import Mesh


def write_ply(path: Path, mesh: Mesh) -> None:
    """Writes a mesh as binary little-endian PLY, in millimetres; colours as sRGB bytes, uv as `s`, `t`."""
    columns: list[tuple[str, str, str, np.ndarray]] = [
        (name, "<f4", "float", values)
        for name, values in zip(("x", "y", "z", "nx", "ny", "nz"), (*mesh.points.T, *mesh.normals.T), strict=True)
    ]
    if mesh.uv is not None:
        columns += [("s", "<f4", "float", mesh.uv[:, 0]), ("t", "<f4", "float", mesh.uv[:, 1])]
    if mesh.colors is not None:
        byte = np.rint(mesh.srgb() * 255.0)
        columns += [(name, "u1", "uchar", byte[:, i]) for i, name in enumerate(("red", "green", "blue"))]
    vertex = np.empty(len(mesh.points), dtype=[(name, kind) for name, kind, _, _ in columns])
    for name, _, _, values in columns:
        vertex[name] = values
    face = np.empty(len(mesh.triangles), dtype=[("count", "u1"), ("corners", "<i4", 3)])
    face["count"], face["corners"] = 3, mesh.triangles
    header = [
        "ply",
        "format binary_little_endian 1.0",
        "comment millimetres, +y up; vertex colours are sRGB",
        f"element vertex {len(mesh.points)}",
        *(f"property {kind} {name}" for name, _, kind, _ in columns),
        f"element face {len(mesh.triangles)}",
        "property list uchar int vertex_indices",
        "end_header",
    ]
    with atomic_path(path) as temporary:
        temporary.write_bytes(("\n".join(header) + "\n").encode() + vertex.tobytes() + face.tobytes())
