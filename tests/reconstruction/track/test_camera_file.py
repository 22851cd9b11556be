"""Cameras that were calibrated, and files that hold none."""

import json
from pathlib import Path

import numpy as np
import pytest

from fmlfast.reconstruction.track.camera_file import read_camera, read_rig
from tests.helpers.videos import smooth, write_video

K = [[100.0, 0, 33], [0, 110.0, 25], [0, 0, 1]]


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return write_video(tmp_path / "v.mkv", [smooth(np.random.default_rng(0), 48, 64)])


def write(folder: Path, content: object) -> Path:
    path = folder / "camera.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_a_matrix_is_read(tmp_path: Path, video: Path) -> None:
    found = read_camera(write(tmp_path, {"K": K}), video)
    np.testing.assert_array_equal(found, K)


def test_focal_lengths_and_centre_are_read(tmp_path: Path, video: Path) -> None:
    found = read_camera(write(tmp_path, {"fl_x": 100, "fl_y": 110, "cx": 33, "cy": 25}), video)
    np.testing.assert_array_equal(found, K)
    square = read_camera(write(tmp_path, {"fl_x": 100, "cx": 33, "cy": 25}), video)
    assert square[1, 1] == 100


@pytest.mark.parametrize("names", [("width", "height"), ("w", "h")])
def test_a_camera_is_scaled_to_the_video(tmp_path: Path, video: Path, names: tuple[str, str]) -> None:
    found = read_camera(write(tmp_path, {"K": K, names[0]: 128, names[1]: 96, "k1": 0.0}), video)
    np.testing.assert_allclose(found, np.array(K) * [[0.5], [0.5], [1]])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "is not JSON"),
        ("[1, 2]", "needs an object with K"),
        ("7", "needs an object with K"),
        ({}, "needs K"),
        ({"fl_x": 100, "cx": 33}, "needs K"),
        ({"fl_x": "wide", "cx": 33, "cy": 25}, "needs K"),
        ({"K": [[1, 2], [3]]}, "needs K"),
        ({"K": "matrix"}, "needs K"),
        ({"K": [[1, 2], [3, 4]]}, r"K must be"),
        ({"K": [[-100, 0, 33], [0, 110, 25], [0, 0, 1]]}, r"K must be"),
        ({"K": [[100, 0, 33], [0, 0, 25], [0, 0, 1]]}, r"K must be"),
        ({"K": [[100, 0, 33], [0, 110, 25], [0, 0, 2]]}, r"K must be"),
        ('{"K": [[NaN, 0, 33], [0, 110, 25], [0, 0, 1]]}', r"K must be"),
        ({"K": [[100, 3, 33], [0, 110, 25], [0, 0, 1]]}, "skew"),
        ({"K": K, "k1": 0.1}, "distortion"),
        ({"K": K, "p2": -0.01}, "distortion"),
        ({"K": K, "width": 100, "height": 100}, "calibrated for 100 x 100 pixels, but .* has 64 x 48"),
        ({"K": K, "width": "wide", "height": 48}, "width"),
        ({"K": K, "width": -64, "height": -48}, "width"),
    ],
)
def test_what_is_no_camera_is_refused_by_name(tmp_path: Path, video: Path, content: object, said: str) -> None:
    with pytest.raises(ValueError, match=rf"camera\.json.*{said}"):
        read_camera(write(tmp_path, content), video)


def test_a_missing_file_is_named(tmp_path: Path, video: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.json: no such camera file"):
        read_camera(tmp_path / "none.json", video)


def test_a_video_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    with pytest.raises(ValueError, match=r"broken\.mp4"):
        read_camera(write(tmp_path, {"K": K}), tmp_path / "broken.mp4")


TURN = [[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]]
EYE = np.eye(3).tolist()
FIRST, SECOND = {"K": K, "R": EYE, "t": [0, 0, 0]}, {"K": K, "R": TURN, "t": [1.5, -2, 300]}


def test_a_rig_has_a_camera_for_each_video_in_their_order(tmp_path: Path, video: Path) -> None:
    large = write_video(tmp_path / "large.mkv", [smooth(np.random.default_rng(0), 96, 128)])
    other = {"fl_x": 100, "fl_y": 110, "cx": 33, "cy": 25, "w": 64, "h": 48, "R": TURN, "t": [1.5, -2, 300]}
    first, second = read_rig(write(tmp_path, {"cameras": [FIRST, other]}), [video, large])
    np.testing.assert_array_equal(first.K, K)
    np.testing.assert_array_equal(first.R, EYE)
    np.testing.assert_array_equal(first.t, [0, 0, 0])
    np.testing.assert_allclose(second.K, np.array(K) * [[2], [2], [1]])
    np.testing.assert_array_equal(second.R, TURN)
    np.testing.assert_array_equal(second.t, [1.5, -2, 300])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "is not JSON"),
        ([FIRST, SECOND], "needs an object"),
        (FIRST, "needs `cameras`, a list of one camera for each of the 2 videos"),
        ({"cameras": {"a": FIRST, "b": SECOND}}, "needs `cameras`"),
        ({"cameras": [FIRST]}, "one camera for each of the 2 videos"),
        ({"cameras": [FIRST, SECOND, SECOND]}, "one camera for each of the 2 videos"),
        ({"cameras": [FIRST, 7]}, "camera 1 needs R"),
        ({"cameras": [FIRST, {"K": K}]}, "camera 1 needs R"),
        ({"cameras": [{"K": K, "R": EYE}, SECOND]}, "camera 0 needs R .* t"),
        ({"cameras": [FIRST, {**SECOND, "R": "turned"}]}, "camera 1 needs R"),
        ({"cameras": [FIRST, {**SECOND, "R": [[1, 0], [0, 1]]}]}, "camera 1 needs a rotation"),
        ({"cameras": [FIRST, {**SECOND, "R": [[2, 0, 0], [0, 2, 0], [0, 0, 2]]}]}, "camera 1 needs a rotation"),
        ({"cameras": [FIRST, {**SECOND, "R": [[1, 0, 0], [0, 1, 0], [0, 0, -1]]}]}, "camera 1 needs a rotation"),
        ({"cameras": [FIRST, {**SECOND, "t": [1, 2]}]}, "camera 1 needs .* a place t"),
        ('{"cameras": [{"K": 1, "R": [[1,0,0],[0,1,0],[0,0,1]], "t": [0, 0, NaN]}, 1]}', "camera 0 needs .* place t"),
        ({"cameras": [FIRST, {"R": EYE, "t": [0, 0, 0]}]}, "needs K"),
        ({"cameras": [FIRST, {**SECOND, "k1": 0.2}]}, "distortion"),
        ({"cameras": [FIRST, {**SECOND, "width": 100, "height": 100}]}, "calibrated for 100 x 100"),
    ],
)
def test_what_is_no_rig_is_refused_by_name(tmp_path: Path, video: Path, content: object, said: str) -> None:
    with pytest.raises(ValueError, match=rf"camera\.json.*{said}"):
        read_rig(write(tmp_path, content), [video, video])


def test_a_missing_rig_is_named(tmp_path: Path, video: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.json: no such camera file"):
        read_rig(tmp_path / "none.json", [video, video])
