import json
from pathlib import Path

import numpy as np
import pytest
import torch

from fmlfast.reconstruction.transforms_json import write_transforms_json
from tests.helpers.heads import make_motion

K = np.array([[900.0, 0, 310], [0, 905, 250], [0, 0, 1]])
MOTION = make_motion(torch.zeros(3, 0))
FILES = [f"frames/{i:04d}.png" for i in range(3)]


def write(path: Path, Ks: np.ndarray = K) -> dict:
    poses = MOTION.rotation, MOTION.translation
    write_transforms_json(path, FILES, MOTION.times, *poses, Ks, 640, 480)
    return json.loads(path.read_text())


def test_a_point_of_the_head_projects_where_the_video_shows_it(tmp_path: Path) -> None:
    document = write(tmp_path / "transforms.json")
    point = np.array([31.0, 12.0, -9.0])  # mm, model frame
    for frame, R, t in zip(document["frames"], MOTION.rotation.numpy(), MOTION.translation.numpy(), strict=True):
        camera_to_head = np.array(frame["transform_matrix"])
        seen = np.linalg.inv(camera_to_head) @ np.append(point / 1000, 1)  # OpenGL: looks along -z, +y up
        u = document["fl_x"] * seen[0] / -seen[2] + document["cx"]
        v = document["fl_y"] * -seen[1] / -seen[2] + document["cy"]
        truth = K @ (R @ point + t)
        np.testing.assert_allclose([u, v], truth[:2] / truth[2], atol=1e-3)


def test_the_keys_are_those_of_instant_ngp(tmp_path: Path) -> None:
    document = write(tmp_path / "transforms.json")
    assert (document["w"], document["h"]) == (640, 480)
    assert document["camera_angle_x"] == pytest.approx(2 * np.arctan(640 / 1800))
    assert [frame["file_path"] for frame in document["frames"]] == FILES
    assert [frame["time"] for frame in document["frames"]] == pytest.approx(MOTION.times)


def test_cameras_that_differ_stand_in_their_frames(tmp_path: Path) -> None:
    Ks = np.stack([K, K * [[2, 2, 1], [2, 2, 1], [1, 1, 1]], K])
    document = write(tmp_path / "transforms.json", Ks)
    assert "fl_x" not in document
    assert [frame["fl_x"] for frame in document["frames"]] == [900, 1800, 900]


def test_what_the_format_cannot_hold_is_refused(tmp_path: Path) -> None:
    skewed = K + [[0, 1, 0], [0, 0, 0], [0, 0, 0]]
    with pytest.raises(ValueError, match="skew"):
        write(tmp_path / "transforms.json", skewed)
    with pytest.raises(ValueError, match=r"K must be \[3, 3\] or \[3, 3, 3\]"):
        write(tmp_path / "transforms.json", np.stack([K, K]))
    with pytest.raises(ValueError, match="2 file_paths need as many times"):
        poses = MOTION.rotation, MOTION.translation
        write_transforms_json(tmp_path / "transforms.json", FILES[:2], MOTION.times, *poses, K, 640, 480)
    assert list(tmp_path.iterdir()) == []
