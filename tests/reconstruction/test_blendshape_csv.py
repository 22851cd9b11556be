import csv
from pathlib import Path

import numpy as np
import pytest
import torch

from fmlfast.reconstruction.blendshape_csv import write_blendshape_csv
from fmlfast.reconstruction.gaze import eye_rotations
from fmlfast.rotation import rotation_from_axis_angle
from fmlfast.template.face_template import FaceTemplate

TEMPLATE = FaceTemplate.default(0)
NAMES = TEMPLATE.expression_names
FRONTAL = torch.diag(torch.tensor([1.0, -1.0, -1.0]))


def read(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    return list(reader.fieldnames or []), rows


def test_the_columns_are_those_of_face_capture_apps(tmp_path: Path) -> None:
    weights = torch.rand(2, len(NAMES), generator=torch.Generator().manual_seed(0))
    write_blendshape_csv(tmp_path / "face.csv", np.array([0.0, 3725.5125]), NAMES, weights, FRONTAL.repeat(2, 1, 1))
    columns, rows = read(tmp_path / "face.csv")
    assert len(columns) == 63
    assert columns[:4] == ["Timecode", "BlendShapeCount", "EyeBlinkLeft", "EyeLookDownLeft"]
    assert columns[16:20] == ["JawForward", "JawRight", "JawLeft", "JawOpen"]
    assert columns[-11:-7] == ["NoseSneerRight", "TongueOut", "HeadYaw", "HeadPitch"]
    assert columns[-6:] == ["LeftEyeYaw", "LeftEyePitch", "LeftEyeRoll", "RightEyeYaw", "RightEyePitch", "RightEyeRoll"]
    assert [row["Timecode"] for row in rows] == ["00:00:00:00.000", "01:02:05:30.750"]
    for row, weight in zip(rows, weights, strict=True):
        assert row["BlendShapeCount"] == "61" and float(row["TongueOut"]) == 0
        stored = [float(row[name[0].upper() + name[1:]]) for name in NAMES]
        np.testing.assert_allclose(stored, weight.numpy(), atol=1e-6)
        assert [abs(float(row[name])) for name in columns[-9:]] == [0.0] * 9


@pytest.mark.parametrize("column", ["HeadYaw", "HeadPitch", "HeadRoll"])
def test_head_angles_are_about_the_axes_of_the_face(tmp_path: Path, column: str) -> None:
    axis = {"HeadPitch": 0, "HeadYaw": 1, "HeadRoll": 2}[column]
    turned = FRONTAL @ rotation_from_axis_angle(0.4 * torch.eye(3)[axis])
    nose, crown = turned @ torch.tensor([0.0, 0.0, 1.0]), turned @ torch.tensor([0.0, 1.0, 0.0])
    if column == "HeadYaw":
        assert nose[0] > 0.3  # to the subject's left, the camera's right
    elif column == "HeadPitch":
        assert nose[1] > 0.3  # downwards
    else:
        assert crown[0] < -0.3  # to the subject's right shoulder
    write_blendshape_csv(tmp_path / "face.csv", np.zeros(1), (), np.zeros((1, 0)), turned[None])
    (row,) = read(tmp_path / "face.csv")[1]
    for name in ("HeadYaw", "HeadPitch", "HeadRoll"):
        assert float(row[name]) == pytest.approx(0.4 if name == column else 0.0, abs=1e-5)


def test_eye_angles_follow_the_gaze(tmp_path: Path) -> None:
    weights = torch.zeros(2, len(NAMES))
    for frame, shapes in enumerate([("eyeLookOutLeft", "eyeLookInRight"), ("eyeLookDownLeft", "eyeLookDownRight")]):
        weights[frame, [NAMES.index(shape) for shape in shapes]] = 1.0
    eyes = eye_rotations(TEMPLATE, weights)
    write_blendshape_csv(tmp_path / "face.csv", np.arange(2) / 30, NAMES, weights, FRONTAL.repeat(2, 1, 1), eyes)
    aside, down = read(tmp_path / "face.csv")[1]
    for side in ("Left", "Right"):
        assert float(aside[f"{side}EyeYaw"]) == pytest.approx(np.radians(30), abs=1e-4)
        assert float(aside[f"{side}EyePitch"]) == pytest.approx(0, abs=1e-4)
        assert float(down[f"{side}EyePitch"]) == pytest.approx(np.radians(30), abs=1e-4)
        assert float(down[f"{side}EyeYaw"]) == pytest.approx(0, abs=1e-4)


def test_sides_spelled_as_in_ict_facekit_are_understood(tmp_path: Path) -> None:
    names = ["mouthSmile_L", "browInnerUp_L"]
    write_blendshape_csv(tmp_path / "face.csv", np.zeros(1), names, np.array([[0.3, 0.4]]), FRONTAL[None])
    (row,) = read(tmp_path / "face.csv")[1]
    assert (float(row["MouthSmileLeft"]), float(row["BrowInnerUp"])) == (0.3, 0.0)


def test_arrays_that_disagree_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"2 times and 51 names need weights \[2, 51\]"):
        write_blendshape_csv(tmp_path / "face.csv", np.arange(2.0), NAMES, np.zeros((2, 50)), np.zeros((2, 3, 3)))
    assert list(tmp_path.iterdir()) == []
