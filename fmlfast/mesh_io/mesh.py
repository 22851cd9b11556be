"""Checks the arrays of a mesh, and holds them as every writer of a file takes them."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fmlfast.color import linear_to_srgb
from fmlfast.renderer import vertex_normals

Array = np.ndarray | Tensor


@dataclass(frozen=True)
class Mesh:
    """A triangle mesh, checked."""

    points: NDArray[np.float32]  # [V, 3]
    triangles: NDArray[np.int32]  # [T, 3], counter-clockwise seen from outside
    normals: NDArray[np.float32]  # [V, 3], unit length
    colors: NDArray[np.float32] | None = None  # [V, 3] linear RGB in 0..1
    uv: NDArray[np.float32] | None = None  # [V, 2], origin at the lower left

    @classmethod
    def of(
        cls,
        vertices: Array,  # [V, 3]
        triangles: Array,  # [T, 3]
        colors: Array | None = None,  # [V, 3]
        uv: Array | None = None,  # [V, 2]
    ) -> "Mesh":
        """Checks arrays and computes normals, weighted by area.

        Raises ValueError on wrong shapes or types, non-finite values, or triangles that index missing vertices.
        """
        points = _floats(vertices, "vertices", None, 3)
        faces = _indices(triangles, len(points))
        if colors is not None and _numpy(colors).dtype.kind != "f":
            raise ValueError("colors must be linear floats in [0, 1], not integers")
        linear = None if colors is None else _floats(colors, "colors", len(points), 3).clip(0.0, 1.0)
        coordinates = None if uv is None else _floats(uv, "uv", len(points), 2)
        return cls(points, faces, unit_normals(points[None], faces)[0], linear, coordinates)

    def srgb(self) -> NDArray[np.float32]:
        """Returns the colours as sRGB [V, 3] in 0..1."""
        assert self.colors is not None
        return linear_to_srgb(torch.from_numpy(self.colors)).numpy()


def check_texture(texture: Array) -> NDArray[np.uint8]:
    """Returns a texture as an array; raises ValueError unless it is uint8 [H, W, 3]."""
    texture = _numpy(texture)
    if texture.dtype != np.uint8 or texture.ndim != 3 or texture.shape[2] != 3 or 0 in texture.shape:
        raise ValueError(f"texture must be uint8 [H, W, 3] sRGB, got {texture.dtype} {list(texture.shape)}")
    return texture


def unit_normals(
    points: NDArray[np.float32],  # [N, V, 3]
    triangles: NDArray[np.int32],  # [T, 3]
) -> NDArray[np.float32]:  # [N, V, 3]
    """Computes vertex normals weighted by area; those of loose vertices point along +z."""
    normals = vertex_normals(torch.from_numpy(points), torch.from_numpy(triangles)).numpy().copy()
    normals[np.linalg.norm(normals, axis=-1) < 0.5] = (0.0, 0.0, 1.0)  # glTF wants unit length of loose vertices too
    return normals


def _numpy(values: Array) -> np.ndarray:
    if not isinstance(values, Tensor):
        return np.asarray(values)
    values = values.detach().cpu()
    values = values if values.layout == torch.strided else values.to_dense()
    if values.is_floating_point() and values.itemsize < 4:  # NumPy has no bfloat16
        values = values.float()
    return values.resolve_conj().resolve_neg().numpy()


def _floats(values: Array, name: str, rows: int | None, columns: int) -> NDArray[np.float32]:
    array = _numpy(values)
    if array.ndim != 2 or array.shape[1] != columns or (rows is not None and len(array) != rows):
        wanted = f"[{'V' if rows is None else rows}, {columns}]"
        raise ValueError(f"{name} must have shape {wanted}, got {list(array.shape)}")
    if array.dtype.kind not in "fiu":
        raise ValueError(f"{name} must be real numbers, not {array.dtype}")
    with np.errstate(over="ignore"):  # what float32 cannot hold is not finite
        single = np.ascontiguousarray(array, dtype=np.float32)
    if not np.isfinite(single).all():
        raise ValueError(f"{name} must be finite")
    return single


def _indices(values: Array, vertices: int) -> NDArray[np.int32]:
    array = _numpy(values)
    if array.ndim != 2 or array.shape[1] != 3 or array.dtype.kind not in "iu" or len(array) == 0:
        raise ValueError(f"triangles must be integers of shape [T, 3], T > 0, got {array.dtype} {list(array.shape)}")
    if array.min() < 0 or array.max() >= vertices:
        raise ValueError(f"triangles must index the {vertices} vertices, got {array.min()} to {array.max()}")
    return np.ascontiguousarray(array, dtype=np.int32)
