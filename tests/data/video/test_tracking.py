"""Following, judging and choosing faces."""

import numpy as np
import pytest
from PIL import Image, ImageFilter

from fmlfast.data.face_detector import Face
from fmlfast.data.video.tracking import Tracker, pick_diverse, rejection_reason, sharpness
from tests.helpers.drawn_faces import FRONTAL, make_face, textured, turn


def test_two_people_who_move_keep_their_tracks() -> None:
    tracker = Tracker()
    first, second = set(), set()
    for step in range(40):
        a = make_face(100 + 8 * step, 100, 80)
        b = make_face(500 - 6 * step, 260, 60)
        faces = [a, b] if step % 3 else [b, a]  # the detector's order means nothing
        tracks = dict(zip(map(id, faces), tracker.update(step / 6, faces), strict=True))
        first.add(tracks[id(a)].number)
        second.add(tracks[id(b)].number)
    assert len(first) == len(second) == 1
    assert first != second


def test_a_track_ends_by_absence_jump_or_cut() -> None:
    tracker = Tracker()
    face = make_face(100, 100, 80)

    def number(time: float, seen: Face) -> int:
        return tracker.update(time, [seen])[0].number

    assert number(0.0, face) == number(0.2, face) == 0
    tracker.update(0.4, [])
    assert number(0.6, face) == 0  # a short absence is forgiven
    assert number(1.4, face) == 1
    assert number(1.5, make_face(200, 100, 80)) == 2
    tracker.cut()
    (track,) = tracker.update(1.6, [make_face(200, 100, 80)])
    assert (track.number, track.scene) == (3, 1)
    assert track.weight == 80


def test_one_face_is_not_given_to_two_tracks() -> None:
    tracker = Tracker()
    tracker.update(0, [make_face(100, 100, 100), make_face(130, 100, 100)])
    tracks = tracker.update(0.2, [make_face(102, 100, 100), make_face(104, 100, 100)])
    assert sorted(track.number for track in tracks) == [0, 1]


def test_sharpness_sees_blur_but_neither_size_nor_contrast() -> None:
    image = textured(np.random.default_rng(0), 512)
    landmarks = make_face(256, 256, 300).landmarks
    sharp = sharpness(image, landmarks)
    values = [sharp]
    for radius in (2.5, 5, 10):
        soft = Image.fromarray(image).filter(ImageFilter.GaussianBlur(radius))
        values.append(sharpness(np.array(soft), landmarks))
    assert all(before > 1.5 * after for before, after in zip(values, values[1:], strict=False)), values
    half = np.array(Image.fromarray(image).resize((256, 256), Image.Resampling.BICUBIC))
    assert sharpness(half, landmarks / 2) == pytest.approx(sharp, rel=0.25)
    assert sharpness((image * 0.5).astype(np.uint8), landmarks) == pytest.approx(sharp, rel=0.1)
    assert sharpness(np.full_like(image, 128), landmarks) == 0


def test_every_flaw_has_its_name() -> None:
    image = textured(np.random.default_rng(1), 400)
    good = make_face(200, 200, 220)
    limits = {"min_face": 200, "max_doubt": 0.015, "min_sharpness": 0.02}
    reason, value = rejection_reason(image, good, **limits)
    assert reason == ""
    assert value == sharpness(image, good.landmarks) > 0.02
    assert rejection_reason(image, make_face(200, 200, 199), **limits)[0] == "small"
    assert rejection_reason(image, make_face(60, 200, 220), **limits)[0] == "cut off"
    assert rejection_reason(image, make_face(200, 330, 220), **limits)[0] == "cut off"
    assert rejection_reason(image, make_face(200, 200, 220, doubt=0.016), **limits)[0] == "unsure"
    soft = np.array(Image.fromarray(image).filter(ImageFilter.GaussianBlur(9)))
    assert rejection_reason(soft, good, **limits)[0] == "blurred"


def test_the_most_different_poses_are_picked() -> None:
    rng = np.random.default_rng(2)
    poses = rng.uniform(-3, 3, (60, 2))  # nearly frontal, but for three frames
    poses[[7, 31, 50]] = [(40, 0), (-40, 5), (0, 25)]
    rotations = np.stack([turn(*pose) for pose in poses])
    doubts = rng.uniform(0.004, 0.01, 60)
    doubts[20] = 0.003
    assert pick_diverse(rotations, np.linspace(0, 0.5, 60), doubts, 4) == [7, 20, 31, 50]


def test_equal_poses_are_spread_in_time() -> None:
    rotations = np.repeat(FRONTAL[None], 21, axis=0)
    doubts = np.full(21, 0.005)
    doubts[0] = 0.004
    assert pick_diverse(rotations, np.arange(21) * 0.2, doubts, 3) == [0, 10, 20]


def test_no_frame_is_picked_twice() -> None:
    rotations = np.repeat(FRONTAL[None], 3, axis=0)
    assert pick_diverse(rotations, np.zeros(3), np.zeros(3), 5) == [0, 1, 2]
