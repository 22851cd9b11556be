"""Holds what GLB and USDZ files can show: named meshes under one root, their morph targets and an animation."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fmlfast.mesh_io.mesh import Mesh

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Node:
    """A mesh with a name and a place to turn about."""

    name: str
    mesh: Mesh
    """In metres, the root's frame, +y up, whatever the pivot."""
    pivot: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Metres, the root's frame: origin of the node."""
    displacements: Floats | None = None
    """[M, V, 3] metres, of the scene's morph targets at weight 1; None where none of them moves the mesh."""
    normal_changes: Floats | None = None
    """[M, V, 3] normals at weight 1 less those at 0; None with `displacements`."""
    double_sided: bool = False
    extras: dict[str, object] = field(default_factory=dict)
    """JSON values for other programs; GLB only."""


@dataclass(frozen=True)
class Animation:
    """Motion of a scene, in T frames."""

    times: NDArray[np.float64]
    """[T] seconds, not negative and rising."""
    weights: Floats
    """[T, M] of the morph targets."""
    rotation: Floats
    """[T, 3, 3] of the root."""
    translation: Floats
    """[T, 3] of the root, metres."""
    turns: dict[str, Floats] = field(default_factory=dict)
    """[T, 3, 3] rotations about their pivots of the nodes that have one, by name."""


@dataclass(frozen=True)
class Scene:
    """Meshes under one root, with one texture for all."""

    name: str
    """Of the root."""
    nodes: tuple[Node, ...]
    morph_names: tuple[str, ...] = ()
    """[M]."""
    texture: NDArray[np.uint8] | None = None
    """[H, W, 3] sRGB base colour, row (1 - v) * H; the meshes' colours are used where there is none."""
    unlit: bool = False
    """Show colours as they are, whatever the light."""
    animation: Animation | None = None


def sparse_rows(
    values: Floats,  # [V, 3]
    tolerance: float,
) -> NDArray[np.int64]:
    """Lists the rows whose length exceeds a tolerance."""
    return np.flatnonzero(np.square(values).sum(1) > tolerance**2)


def quaternions(
    rotations: NDArray[np.floating],  # [T, 3, 3]
) -> NDArray[np.float32]:  # [T, 4]
    """Converts rotation matrices to unit quaternions (x, y, z, w) whose signs do not jump from frame to frame."""
    matrix = rotations.astype(np.float64)
    symmetric = np.zeros((len(matrix), 4, 4))  # whose eigenvector of the largest eigenvalue is the quaternion
    trace = np.trace(matrix, axis1=1, axis2=2)
    symmetric[:, :3, :3] = matrix + matrix.transpose(0, 2, 1) - trace[:, None, None] * np.eye(3)
    skewed = np.stack([matrix[:, 2, 1] - matrix[:, 1, 2], matrix[:, 0, 2] - matrix[:, 2, 0]], 1)
    symmetric[:, :3, 3] = np.concatenate([skewed, (matrix[:, 1, 0] - matrix[:, 0, 1])[:, None]], 1)
    symmetric[:, 3, :3] = symmetric[:, :3, 3]
    symmetric[:, 3, 3] = trace
    answer = np.linalg.eigh(symmetric)[1][..., -1]  # [T, 4]
    answer *= np.where(answer[:1, 3:] < 0, -1.0, 1.0)
    flips = np.where((answer[1:] * answer[:-1]).sum(1) < 0, -1.0, 1.0)
    answer[1:] *= np.cumprod(flips)[:, None]
    return answer.astype(np.float32)
