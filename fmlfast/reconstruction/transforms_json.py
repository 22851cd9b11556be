"""Writes cameras as the transforms.json of NeRF, Instant-NGP and Nerfstudio."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fmlfast.common.atomic import atomic_path


def write_transforms_json(
    path: str | Path,
    file_paths: Sequence[str],  # [T]
    times: NDArray[np.float64],  # [T]
    rotation: Tensor | NDArray[np.floating],  # [T, 3, 3]
    translation: Tensor | NDArray[np.floating],  # [T, 3]
    K: Tensor | NDArray[np.floating],  # [3, 3] or [T, 3, 3]
    width: int,
    height: int,
) -> None:
    """Writes the camera of each frame in the head's frame: as if the head were still and the camera moved around it.

    `transform_matrix` is camera to head in OpenGL's convention (camera +x right, +y up, -z forward) and metres, like
    GLB files of the same head; `fl_x`, `fl_y`, `cx`, `cy`, `w`, `h` are pixels, on top where one K holds for all frames
    and else in each frame; `time` is in seconds.

    Args:
        path: an existing file is replaced.
        file_paths: each frame's image, relative to the JSON file.
        times: seconds.
        rotation, translation: X_camera = R X_model + t in mm, camera +x right, +y down, +z forward.
        K: intrinsics of one or all frames, pixels, without skew.
        width, height: of the images, pixels.

    Raises ValueError when shapes disagree, or K has skew, which the format cannot hold.
    """
    R, t, Ks = (np.asarray(x, np.float64) for x in (rotation, translation, K))
    frames = len(file_paths)
    if R.shape != (frames, 3, 3) or t.shape != (frames, 3) or len(times) != frames:
        raise ValueError(
            f"{frames} file_paths need as many times, rotations [{frames}, 3, 3] and translations [{frames}, 3]; got "
            f"{len(times)}, {list(R.shape)} and {list(t.shape)}"
        )
    if Ks.shape not in ((3, 3), (frames, 3, 3)):
        raise ValueError(f"K must be [3, 3] or [{frames}, 3, 3], got {list(Ks.shape)}")
    if np.any(Ks[..., 0, 1] != 0):
        raise ValueError("K has skew, which transforms.json cannot hold")
    matrices = np.tile(np.eye(4), (frames, 1, 1))
    matrices[:, :3, :3] = R.transpose(0, 2, 1) * [1.0, -1.0, -1.0]
    matrices[:, :3, 3] = -np.einsum("tji,tj->ti", R, t) / 1000
    shared = Ks.ndim == 2
    entries = [
        {
            "file_path": name,
            "time": float(time),
            **({} if shared else _intrinsics(Ks[i], width)),
            "transform_matrix": matrix.tolist(),
        }
        for i, (name, time, matrix) in enumerate(zip(file_paths, times, matrices, strict=True))
    ]
    document = {**(_intrinsics(Ks, width) if shared else {}), "w": width, "h": height, "frames": entries}
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(document, indent=1) + "\n")


def _intrinsics(K: NDArray[np.float64], width: int) -> dict[str, float]:
    angle = 2 * math.atan(width / (2 * K[0, 0]))
    names = {"fl_x": K[0, 0], "fl_y": K[1, 1], "cx": K[0, 2], "cy": K[1, 2], "camera_angle_x": angle}
    return {name: float(value) for name, value in names.items()}
