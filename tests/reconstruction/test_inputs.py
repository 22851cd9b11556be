"""Which pictures a face is reconstructed from; tests/reconstruction/test_pipeline.py has the photos."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fmlfast.data.face_detector import Face
from fmlfast.reconstruction.inputs import is_video, read_everyone, read_photos, read_video
from tests.helpers.detections import face_detection
from tests.helpers.videos import write_video

SIDE = 160  # px


def face(x: float = 0.0, doubt: float = 0.005, size: float = 100.0) -> Face:
    """`x` px right of the middle."""
    angles = np.linspace(0, 2 * np.pi, 68, endpoint=False)
    points = SIDE / 2 + np.stack([x + size / 2 * np.cos(angles), size / 2 * np.sin(angles)], 1)
    (x0, y0), (x1, y1) = points.min(0), points.max(0)
    box = (float(x0), float(y0), float(x1), float(y1))
    detection = face_detection(points, np.eye(3))
    return Face(points.astype(np.float32), np.ones(68, np.float32), box, detection, doubt)


class Detector:
    """Finds what a picture's brightness stands for."""

    def __init__(self, faces: dict[int, list[Face]]) -> None:
        self.faces, self.seen = faces, 0

    def detect(self, image: np.ndarray, min_face: float = 0) -> list[Face]:
        self.seen += 1
        return self.faces[min(self.faces, key=lambda level: abs(level - float(image.mean())))]


def video(path: Path, levels: list[int]) -> Path:
    """One frame of noise, sharp enough, of each brightness, ten a second."""
    noise = np.random.default_rng(0).integers(-20, 21, (SIDE, SIDE, 1))
    noise = noise.repeat(3, 2)
    return write_video(path, [(noise + level).clip(0, 255).astype(np.uint8) for level in levels], rate=10)


def test_the_surest_frame_of_each_stretch_is_taken(tmp_path: Path) -> None:
    # Stretches of three frames: in the first the second is sure, the second has no face, the third only bad ones
    # and one with another size, the fourth is as good everywhere.
    levels = [50, 90, 50, 130, 130, 130, 170, 210, 90, 50, 50, 50]
    detector = Detector(
        {50: [face()], 90: [face(doubt=0.001)], 130: [], 170: [face(doubt=0.016)], 210: [face(size=70)]}
    )
    found = read_video(video(tmp_path / "clip.mp4", levels), detector, None, 4)
    assert [photo.name for photo in found] == ["clip-00", "clip-01", "clip-02"]
    assert [photo.time for photo in found] == pytest.approx([0.1, 0.8, 0.9])
    assert all(photo.image.shape == (SIDE, SIDE, 3) for photo in found)
    assert detector.seen == 12
    fewer = read_video(tmp_path / "clip.mp4", detector, None, 1)
    assert [photo.time for photo in fewer] == pytest.approx([0.2])  # frames 2, 6 and 10 are looked at
    many = read_video(tmp_path / "clip.mp4", detector, None, 100)
    assert len(many) == 7  # every good frame, once


def test_one_of_several_faces(tmp_path: Path) -> None:
    pair = [face(5.0), face(-5.0)]  # not from the left
    detector = Detector({50: [face()], 200: pair})
    path = video(tmp_path / "clip.mp4", [50, 200, 50, 200])
    assert [photo.time for photo in read_video(path, detector, None, 4)] == pytest.approx([0, 0.2])
    chosen = read_video(path, detector, 1, 4)  # where there is one face only, nobody knows whose it is
    assert [photo.time for photo in chosen] == pytest.approx([0.1, 0.3])
    assert all(photo.face is pair[0] for photo in chosen)
    alone = video(tmp_path / "alone.mp4", [50, 50])
    assert len(read_video(alone, detector, 1, 2)) == 2  # never more than one: the number is for other pictures


def test_photos_and_videos_together(tmp_path: Path) -> None:
    detector = Detector({50: [face()], 200: []})
    path = video(tmp_path / "a.mp4", [50, 50])
    Image.fromarray(np.full((SIDE, SIDE, 3), 50, np.uint8)).save(tmp_path / "a-01.png")
    Image.fromarray(np.full((SIDE, SIDE, 3), 50, np.uint8)).save(tmp_path / "a.gif")
    array = np.full((SIDE, SIDE, 3), 50, np.uint8)
    found = read_photos([tmp_path / "a-01.png", str(path), tmp_path / "a.gif", array], detector, None, 2)
    assert [photo.name for photo in found] == ["a-01", "a-00", "a-01-2", "a", "image-3"]
    assert [photo.time is None for photo in found] == [True, False, False, True, True]
    assert is_video("a.MOV") and is_video(Path("b.webm")) and not is_video("a.gif") and not is_video("a.jpg")


def test_names_are_those_that_files_and_json_can_have(tmp_path: Path) -> None:
    if os.name == "nt":
        pytest.skip("Windows has other names")
    picture, names = tmp_path / "a.png", [os.fsdecode(b"a\xff\xfeb"), "x" * 251, "é" * 125, "a\nb"]
    Image.fromarray(np.full((SIDE, SIDE, 3), 50, np.uint8)).save(picture)
    photos = [picture.rename(tmp_path / f"{name}.png") for name in names[:1]]
    for name in names[1:]:
        photos.append(tmp_path / f"{name}.png")
        photos[-1].write_bytes(photos[0].read_bytes())
    detector = Detector({50: [face()]})
    found = [photo.name for photo in read_photos([*photos, photos[1]], detector, None, 2)]
    assert found == ["a__b", "x" * 200, "é" * 100, "a\nb", "x" * 200 + "-2"]
    assert read_everyone(photos[0], detector)[0].name == "a__b"
    film = video(tmp_path / "a.mp4", [50, 50])
    assert [photo.name for photo in read_video(film.rename(tmp_path / f"{'é' * 125}.mp4"), detector, None, 1)] == [
        "é" * 100 + "-00"
    ]


def test_videos_that_give_nothing(tmp_path: Path) -> None:
    path = video(tmp_path / "clip.mp4", [50, 100, 150, 200])
    detector = Detector({50: [], 100: [face(), face(9.0)], 150: [face(doubt=0.02)], 200: []})
    with pytest.raises(ValueError, match="no good frame of 4 looked at: 2 without a face") as caught:
        read_photos([path], detector, None, 4)
    assert "clip.mp4" in str(caught.value) and "1 with 2 faces, choose one with --face N" in str(caught.value)
    assert "1 with a face that is unsure" in str(caught.value)
    with pytest.raises(ValueError, match="1 with 2 faces, choose one"):
        read_photos([path], detector, 2, 4)
    with pytest.raises(ValueError, match="frames must be at least 1, got 0"):
        read_photos([path], detector, None, 0)
    with pytest.raises(FileNotFoundError, match="absent.mp4: no such video"):
        read_photos([tmp_path / "absent.mp4"], detector, None, 4)
    (tmp_path / "text.mp4").write_text("text")
    with pytest.raises(ValueError, match="text.mp4: cannot be opened as a video"):
        read_photos([tmp_path / "text.mp4"], detector, None, 4)
