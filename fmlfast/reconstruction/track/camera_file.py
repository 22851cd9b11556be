"""Reads calibrated cameras from JSON."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fmlfast.common.text_files import parse_json, read_text
from fmlfast.reconstruction.track.source import VideoFacts
from fmlfast.reconstruction.track.views import Camera

DISTORTION = ("k1", "k2", "k3", "k4", "p1", "p2")
LARGEST = 10**6  # pixels a side
SAME_SHAPE = 0.01  # largest difference of the sides' ratio of calibration and video


def read_camera(path: Path, video: Path) -> np.ndarray:  # [3, 3] px
    """Reads the intrinsics for the frames of `video`, scaled to their size.

    The file holds `K`, 3 by 3, or `fl_x`, `fl_y`, `cx`, `cy` as in transforms.json; and `width`, `height` (or `w`, `h`)
    of the pictures it was calibrated with, where these are not of the video's size.

    Raises FileNotFoundError, or ValueError naming the file, where it is malformed, distorts, or does not fit the video.
    """
    return _scaled(path, _read(path), video)


def read_rig(path: Path, videos: Sequence[Path]) -> list[Camera]:
    """Reads the calibrated cameras of synchronous videos, in their order.

    The file holds `cameras`, a list: each has intrinsics as of `read_camera`, and `R` (3 by 3) and `t` (3, mm) with
    X_camera = R X_world + t, camera +x right, +y down, +z forward.

    Raises FileNotFoundError, or ValueError naming the file, where it is malformed or does not fit the videos.
    """
    listed = _read(path).get("cameras")
    if not isinstance(listed, list) or len(listed) != len(videos):
        raise ValueError(f"{path}: needs `cameras`, a list of one camera for each of the {len(videos)} videos")
    found = []
    for number, (stored, video) in enumerate(zip(listed, videos, strict=True)):
        try:
            R, t = np.array(stored["R"], np.float64), np.array(stored["t"], np.float64)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"{path}: camera {number} needs R (3 x 3) and t (3, mm): {error}") from error
        turned = R.shape == (3, 3) and np.allclose(R @ R.T, np.eye(3), atol=1e-3) and np.linalg.det(R) > 0
        if not turned or t.shape != (3,) or not np.isfinite(t).all():
            raise ValueError(f"{path}: camera {number} needs a rotation R (3 x 3) and a place t (3 numbers, mm)")
        found.append(Camera(_scaled(path, stored, video), R, t))
    return found


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such camera file")
    try:
        stored = parse_json(read_text(path), path)
    except ValueError as error:
        raise ValueError(f"{path}: is not JSON: {error}") from error
    if not isinstance(stored, dict):
        raise ValueError(f"{path}: needs an object with K (3 x 3), or fl_x, fl_y, cx, cy, in pixels")
    return stored


def _scaled(path: Path, stored: dict[str, Any], video: Path) -> np.ndarray:
    """Checks intrinsics and scales them to the frames of `video`."""
    try:
        K = _intrinsics(stored)
        width, height = (stored.get(long, stored.get(short)) for long, short in (("width", "w"), ("height", "h")))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ValueError(f"{path}: needs K (3 x 3) or fl_x, fl_y, cx, cy in pixels: {error}") from error
    if K.shape != (3, 3) or not np.isfinite(K).all() or K[0, 0] <= 0 or K[1, 1] <= 0 or K[2].tolist() != [0, 0, 1]:
        raise ValueError(f"{path}: K must be [[fx, s, cx], [0, fy, cy], [0, 0, 1]] with positive focal lengths")
    if K[0, 1] or K[1, 0]:
        raise ValueError(f"{path}: K has skew, which is not supported")
    if any(stored.get(name) for name in DISTORTION):
        raise ValueError(
            f"{path}: lens distortion is not supported; undistort the video first, and leave k1, p1, ... out"
        )
    seen = VideoFacts.of(video).size
    sides = [told or side for told, side in zip((width, height), seen, strict=True)]
    if not all(isinstance(side, int | float) and 0 < side < LARGEST for side in sides):
        got = f"got {width!r} and {height!r}"
        raise ValueError(f"{path}: width and height must be positive numbers below {LARGEST}, {got}")
    scale = np.array(seen) / np.array(sides, np.float64)
    if abs(scale[0] / scale[1] - 1) > SAME_SHAPE:
        raise ValueError(f"{path}: calibrated for {width} x {height} pixels, but {video} has {seen[0]} x {seen[1]}")
    K[:2] *= scale[:, None]
    return K


def _intrinsics(stored: dict[str, Any]) -> np.ndarray:
    if "K" in stored:
        return np.array(stored["K"], np.float64)
    focal = float(stored["fl_x"]), float(stored.get("fl_y", stored["fl_x"]))
    return np.array([[focal[0], 0, float(stored["cx"])], [0, focal[1], float(stored["cy"])], [0, 0, 1]])
