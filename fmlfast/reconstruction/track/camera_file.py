"""Reads the intrinsics of a calibrated camera from JSON."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from fmlfast.data.video.decode import Video

DISTORTION = ("k1", "k2", "k3", "k4", "p1", "p2")
SAME_SHAPE = 0.01  # largest difference of the sides' ratio of calibration and video


def read_camera(path: Path, video: Path) -> np.ndarray:  # [3, 3] px
    """Reads the intrinsics for the frames of `video`, scaled to their size.

    The file holds `K`, 3 by 3, or `fl_x`, `fl_y`, `cx`, `cy` as in transforms.json; and `width`, `height` (or `w`, `h`)
    of the pictures it was calibrated with, where these are not of the video's size.

    Raises FileNotFoundError, or ValueError naming the file, where it is malformed, distorts, or does not fit the video.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such camera file")
    try:
        stored = json.loads(path.read_text())
        K = _intrinsics(stored)
        width, height = (stored.get(long, stored.get(short)) for long, short in (("width", "w"), ("height", "h")))
    except (json.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path}: needs K (3 x 3) or fl_x, fl_y, cx, cy in pixels: {error}") from error
    if K.shape != (3, 3) or not np.isfinite(K).all() or K[0, 0] <= 0 or K[1, 1] <= 0 or K[2].tolist() != [0, 0, 1]:
        raise ValueError(f"{path}: K must be [[fx, s, cx], [0, fy, cy], [0, 0, 1]] with positive focal lengths")
    if K[0, 1] or K[1, 0]:
        raise ValueError(f"{path}: K has skew, which is not supported")
    if any(stored.get(name) for name in DISTORTION):
        raise ValueError(
            f"{path}: lens distortion is not supported; undistort the video first, and leave k1, p1, ... out"
        )
    frame = next(iter(Video(video).frames())).image()
    scale = np.array([frame.shape[1] / (width or frame.shape[1]), frame.shape[0] / (height or frame.shape[0])])
    if abs(scale[0] / scale[1] - 1) > SAME_SHAPE:
        raise ValueError(
            f"{path}: calibrated for {width} x {height} pixels, but {video} has {frame.shape[1]} x {frame.shape[0]}"
        )
    K[:2] *= scale[:, None]
    return K


def _intrinsics(stored: dict[str, Any]) -> np.ndarray:
    if "K" in stored:
        return np.array(stored["K"], np.float64)
    focal = float(stored["fl_x"]), float(stored.get("fl_y", stored["fl_x"]))
    return np.array([[focal[0], 0, float(stored["cx"])], [0, focal[1], float(stored["cy"])], [0, 0, 1]])
