"""Writes the weights of ARKit's face shapes over time, in the layout of face-capture apps."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fmlfast.common.atomic import atomic_path
from fmlfast.template.arkit_names import ARKIT_NAMES, arkit_name

_SWAPPED = {"jawLeft": "jawRight", "jawRight": "jawLeft", "mouthLeft": "mouthRight", "mouthRight": "mouthLeft"}
CSV_SHAPES = tuple(_SWAPPED.get(name, name) for name in ARKIT_NAMES)
"""The order of the columns that Live Link Face exports."""
CSV_ANGLES = tuple(f"{part}{angle}" for part in ("Head", "LeftEye", "RightEye") for angle in ("Yaw", "Pitch", "Roll"))
TIMECODE_RATE = 60  # frames a second: what the app records at, and what importers assume


def write_blendshape_csv(
    path: str | Path,
    times: NDArray[np.float64],  # [T]
    names: Sequence[str],  # [E]
    weights: Tensor | NDArray[np.floating],  # [T, E]
    rotation: Tensor | NDArray[np.floating],  # [T, 3, 3]
    eye_rotations: Mapping[str, NDArray[np.floating]] | None = None,  # of [T, 3, 3]
) -> None:
    """Writes weights and angles per frame as CSV with the columns of Epic's Live Link Face app.

    The columns are `Timecode,BlendShapeCount,EyeBlinkLeft,...,TongueOut,HeadYaw,HeadPitch,HeadRoll,LeftEyeYaw,...`.
    Shapes that `names` lacks, such as tongueOut, are 0; names that ARKit lacks are left out. Time codes are
    `HH:MM:SS:FF.fff` at 60 frames a second from 0. Angles are radians about the axes of ARKit's face (+x to the
    subject's left, +y up, +z out of the face), rotation = yaw (about y) * pitch (x) * roll (z): positive when the face
    or eye turns to the subject's left, looks down, or tilts towards the right shoulder. Those of the head are relative
    to the camera, 0 in a frontal view; those of the eyes are relative to the head.

    Args:
        path: an existing file is replaced.
        times: seconds, rising.
        names: of the expressions.
        weights: of the expressions, 0..1.
        rotation: R of the head, X_camera = R X_model + t, camera +x right, +y down, +z forward.
        eye_rotations: of `eye_left` and `eye_right` in the model frame, from `gaze.eye_rotations`; 0 where missing.

    Raises ValueError when shapes disagree.
    """
    values, heads = np.asarray(weights, np.float64), np.asarray(rotation, np.float64)
    frames = len(times)
    eyes = {name: np.asarray(turns, np.float64) for name, turns in (eye_rotations or {}).items()}
    if values.shape != (frames, len(names)) or any(x.shape != (frames, 3, 3) for x in (heads, *eyes.values())):
        raise ValueError(
            f"{frames} times and {len(names)} names need weights [{frames}, {len(names)}] and rotations "
            f"[{frames}, 3, 3], got {list(values.shape)} and {[list(x.shape) for x in (heads, *eyes.values())]}"
        )
    column = {arkit_name(name): values[:, i] for i, name in enumerate(names)}
    nothing = np.zeros(frames)
    shapes = [column.get(name, nothing) for name in CSV_SHAPES]
    still = np.tile(np.eye(3), (frames, 1, 1))
    turns = [np.diag([1.0, -1.0, -1.0]) @ heads, eyes.get("eye_left", still), eyes.get("eye_right", still)]
    table = np.concatenate([np.stack(shapes, 1), *(_angles(turn) for turn in turns)], 1)
    titles = [name[0].upper() + name[1:] for name in CSV_SHAPES]
    rows = [",".join(["Timecode", "BlendShapeCount", *titles, *CSV_ANGLES])]
    for time, row in zip(times, table, strict=True):
        rows.append(",".join([_timecode(float(time)), str(table.shape[1]), *(f"{x:.6f}" for x in row)]))
    with atomic_path(path) as temporary:
        temporary.write_text("\n".join(rows) + "\n")


def _timecode(seconds: float) -> str:
    thousandths = round(seconds * TIMECODE_RATE * 1000)
    whole, frame = divmod(thousandths, TIMECODE_RATE * 1000)
    return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}:{frame // 1000:02d}.{frame % 1000:03d}"


def _angles(rotations: NDArray[np.float64]) -> NDArray[np.float64]:  # [T, 3, 3] -> [T, 3]
    """Splits rotations into yaw, pitch and roll, radians: R = R_y(yaw) R_x(pitch) R_z(roll)."""
    yaw = np.arctan2(rotations[:, 0, 2], rotations[:, 2, 2])
    pitch = np.arcsin(np.clip(-rotations[:, 1, 2], -1.0, 1.0))
    roll = np.arctan2(rotations[:, 1, 0], rotations[:, 1, 1])
    return np.stack([yaw, pitch, roll], 1)
