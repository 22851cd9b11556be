"""Reads OBJ meshes, and writes meshes and animated scenes as OBJ, PLY, GLB and USDZ.

trimesh is not used, as its GLB export stores sRGB bytes where glTF 2.0 demands linear COLOR_0 values.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np

from fmlfast.mesh_io.glb import write_glb
from fmlfast.mesh_io.mesh import Array, Mesh, check_texture
from fmlfast.mesh_io.obj import Obj as Obj
from fmlfast.mesh_io.obj import obj_lines as obj_lines
from fmlfast.mesh_io.obj import read_obj as read_obj
from fmlfast.mesh_io.obj import write_obj
from fmlfast.mesh_io.ply import write_ply
from fmlfast.mesh_io.scene import Node, Scene

MILLIMETRES = {"mm": 1.0, "cm": 10.0, "dm": 100.0, "m": 1000.0}
"""Length units of files, in millimetres."""
SUFFIXES = (".obj", ".ply", ".glb")
"""What `write_mesh` can write."""


def write_mesh(
    path: str | Path,
    vertices: Array,  # [V, 3]
    triangles: Array,  # [T, 3]
    colors: Array | None = None,  # [V, 3]
    uv: Array | None = None,  # [V, 2]
    texture: Array | None = None,  # [H, W, 3]
) -> None:
    """Writes a mesh as OBJ, PLY or GLB, by the suffix of `path`, whole or not at all.

    Args:
        path: ends in .obj, .ply (binary little endian) or .glb (glTF 2.0 binary); an existing file is replaced.
        vertices: float [V, 3] mm, +y up. OBJ and PLY keep mm; GLB is in metres, the unit of glTF.
        triangles: integer [T, 3], counter-clockwise seen from outside.
        colors: float [V, 3] linear RGB, clamped to [0, 1]. OBJ (`v x y z r g b`) and PLY (uchar) hold them as sRGB,
            GLB (COLOR_0, float) linear, as readers of each expect. With a texture, PLY alone holds them.
        uv: float [V, 2], origin at the lower left; `vt` in OBJ, `s`, `t` in PLY, TEXCOORD_0 (v flipped) in GLB.
        texture: uint8 [H, W, 3] sRGB base colour for the uv, row (1 - v) * H; embedded in GLB, beside OBJ as `NAME.png`
            with the material `NAME.mtl`, not in PLY.

    Unit vertex normals, weighted by area, are written in all three.

    Raises ValueError on an unknown suffix, wrong shapes, non-finite values, triangles that index missing vertices, or a
    texture without uv.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"{path}: unknown mesh format; end the name in one of {', '.join(SUFFIXES)}")
    mesh = Mesh.of(vertices, triangles, colors, uv)
    pixels = None if texture is None else check_texture(texture)
    if pixels is not None and uv is None:
        raise ValueError("texture needs uv, the place of each vertex in it")
    if suffix == ".obj":
        write_obj(path, mesh, pixels)
    elif suffix == ".ply":
        write_ply(path, mesh)
    else:
        metres = mesh.points * np.float32(0.001)
        shown = replace(mesh, points=metres, colors=mesh.colors if pixels is None else None)
        write_glb(path, Scene(path.stem, (Node("mesh", shown),), texture=pixels))
