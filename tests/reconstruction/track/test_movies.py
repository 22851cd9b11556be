"""The videos of a tracked face: every frame drawn once, at its time, also after an interruption."""

from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fmlfast.data.crop import assumed_K
from fmlfast.data.video.decode import Video
from fmlfast.data.video.encode import VideoPiece
from fmlfast.reconstruction.head import Head
from fmlfast.reconstruction.track import movies as module
from fmlfast.reconstruction.track.estimate import Track
from fmlfast.reconstruction.track.movies import draw_turntable, draw_videos
from fmlfast.reconstruction.track.observe import Segment
from fmlfast.reconstruction.track.project import Project
from fmlfast.rotation import FRONTAL
from fmlfast.template.face_template import FaceTemplate
from fmlfast.visualization.appearance import standard_light
from fmlfast.visualization.panels import PAPER
from tests.helpers.interruptions import Interrupted
from tests.helpers.videos import smooth, write_video

pytest.importorskip("av")
COUNT, RATE, WIDTH, HEIGHT = 12, 10, 96, 80
SEEN = range(3, 9)


@pytest.fixture
def head() -> Head:
    template = FaceTemplate.default(0)
    return Head(template, template.vertices, template.colors)


@pytest.fixture
def given(tmp_path: Path, head: Head) -> dict[str, Any]:
    """A video whose frames get brighter, with a head in frames 3 to 8, in segments of four frames."""
    picture = smooth(np.random.default_rng(0), HEIGHT, WIDTH) // 3
    images = [(picture + 8 * i).astype(np.uint8) for i in range(COUNT)]
    video = Video(write_video(tmp_path / "v.mkv", images, rate=RATE))
    times = [frame.time for frame in video.frames()]
    segments = [Segment(i, 4 * i, tuple(times[4 * i : 4 * i + 4]), {}, (), {}) for i in range(3)]
    count = len(SEEN)
    track = Track(
        torch.tensor(list(SEEN)),
        torch.tensor([times[i] for i in SEEN], dtype=torch.float64),
        torch.ones(count, dtype=torch.bool),
        torch.tensor(FRONTAL).expand(count, 3, 3),
        torch.tensor([[0.0, 10, 480]]).expand(count, 3),
        torch.zeros(count, len(head.template.expressions)),
        standard_light().expand(count, 9, 3),
        torch.zeros(count, 68, 2),
    )
    person = SimpleNamespace(K=assumed_K(WIDTH, HEIGHT).astype(np.float32), size=(WIDTH, HEIGHT), track=track)
    return {
        "video": video,
        "project": Project(tmp_path / "out.partial"),
        "segments": segments,
        "people": [person],
        "heads": [head],
        "rate": Fraction(RATE),
        "progress": False,
    }


def read(path: Path) -> tuple[list[np.ndarray], np.ndarray]:
    frames = [(frame.image(), frame.time) for frame in Video(path).frames()]
    return [image for image, _ in frames], np.array([time for _, time in frames])


def test_every_frame_is_drawn_at_its_time_and_heads_where_they_are(given: dict[str, Any]) -> None:
    draw_videos(**given)
    source, times = read(given["video"].path)
    over, found = read(given["project"].folder / "overlay.mp4")
    beside, also = read(given["project"].folder / "comparison.mp4")
    np.testing.assert_allclose(found, times, atol=1e-3)
    np.testing.assert_allclose(also, times, atol=1e-3)
    small = 64, 54  # px of each picture beside the others: two thirds, even
    assert over[0].shape == (HEIGHT, WIDTH, 3) and beside[0].shape == (small[1], 3 * small[0], 3)
    middle = (slice(30, 60), slice(35, 60))
    for i in range(COUNT):
        changed = np.abs(over[i].astype(int) - source[i])
        assert (changed[middle].mean() > 15) == (i in SEEN)
        assert changed[:, :6].mean() < 10  # beside the head the frame stays
        panels = np.split(beside[i], 3, 1)
        assert np.abs(panels[0].astype(int) - np.asarray(Image.fromarray(source[i]).resize(small))).mean() < 8
        for panel in panels[1:]:
            large = np.asarray(Image.fromarray(panel).resize((WIDTH, HEIGHT)))
            assert (np.abs(large[middle].astype(int) - np.array(PAPER)).mean() > 15) == (i in SEEN)


def test_an_interrupted_drawing_goes_on_after_its_last_piece(
    given: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    add, count = VideoPiece.add, 0

    def counted(self: VideoPiece, image: np.ndarray, time: float) -> None:
        nonlocal count
        count += 1
        if count > 13:
            raise Interrupted
        add(self, image, time)

    monkeypatch.setattr(VideoPiece, "add", counted)
    with pytest.raises(Interrupted):
        draw_videos(**given)
    pieces = sorted(p.name for p in (given["project"].folder / "pieces").iterdir())
    assert pieces == ["comparison-00000.mp4", "overlay-00000.mp4"]
    count = -100
    draw_videos(**given)
    assert count == -100 + 2 * 8
    source, times = read(given["video"].path)
    over, found = read(given["project"].folder / "overlay.mp4")
    np.testing.assert_allclose(found, times, atol=1e-3)
    for i in set(range(COUNT)) - set(SEEN):
        assert np.abs(over[i].astype(int) - source[i]).mean() < 8


def test_a_piece_that_fails_at_its_end_is_drawn_again(given: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    leave = VideoPiece.__exit__

    def full(self: VideoPiece, kind: Any, error: Any, tb: Any) -> None:
        if self._path.name == "overlay-00001.mp4" and kind is None:
            leave(self, Interrupted, Interrupted(), None)
            raise Interrupted  # as where the disk is full
        leave(self, kind, error, tb)

    monkeypatch.setattr(VideoPiece, "__exit__", full)
    with pytest.raises(Interrupted):
        draw_videos(**given)
    monkeypatch.setattr(VideoPiece, "__exit__", leave)
    draw_videos(**given)
    assert len(read(given["project"].folder / "overlay.mp4")[0]) == COUNT


def test_wide_videos_are_compared_in_panels_of_limited_width(
    given: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PANEL", 48)
    draw_videos(**given)
    beside, _ = read(given["project"].folder / "comparison.mp4")
    assert beside[0].shape == (40, 3 * 48, 3)


def test_the_turntable_shows_the_head_from_both_sides(
    head: Head, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TURN_SIZE", 96)
    monkeypatch.setattr(module, "TURN_SECONDS", 0.5)
    draw_turntable(head, tmp_path / "turn.mp4")
    images, times = read(tmp_path / "turn.mp4")
    assert len(images) == 12 and times[-1] == pytest.approx(11 / 24, abs=1e-3)
    shown = [np.abs(image.astype(int) - np.array(PAPER)).max(-1) > 30 for image in images]
    assert all(300 < mask.sum() for mask in shown)
    assert all(not mask[[0, -1]].any() and not mask[:, [0, -1]].any() for mask in shown)  # whole, within the picture
    right, left, front = images[3].astype(int), images[9].astype(int), images[0].astype(int)
    assert np.abs(right - left).mean() > 5 and np.abs(right - front).mean() > 5
    assert np.abs(right - left[:, ::-1]).mean() < np.abs(right - left).mean()  # mirrored, but for the lamp
