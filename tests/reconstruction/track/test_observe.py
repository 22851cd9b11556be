"""The first pass over drawn videos: what is written of each face, and how an interrupted pass goes on."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fmlfast.data.crop import assumed_K
from fmlfast.data.face_detector import Glimpse
from fmlfast.data.mediapipe478 import NUM_POINTS
from fmlfast.data.video.decode import Video
from fmlfast.reconstruction.track import observe as module
from fmlfast.reconstruction.track.observe import Segment, observe_video, observed_segments, read_sights
from tests.helpers.drawn_faces import BLUE, HEIGHT, RED, WIDTH, SquareDetector, draw
from tests.helpers.interruptions import Interrupted
from tests.helpers.videos import smooth, write_video

COUNT, SIZE, RATE = 36, 32, 12


class FollowingDetector(SquareDetector):
    """Finds the squares, also where they were a moment ago; breaks off at a glimpse that is told."""

    def __init__(self, last: int | None = None) -> None:
        super().__init__()
        self.glimpses, self.last = 0, last

    def follow(self, image: np.ndarray, landmarks: np.ndarray) -> Glimpse | None:
        self.glimpses += 1
        if self.last is not None and self.glimpses > self.last:
            raise Interrupted
        faces = [face for face in super().detect(image) if np.abs(face.landmarks - landmarks).max() < 40]
        if not faces:
            return None
        face = min(faces, key=lambda face: float(np.abs(face.landmarks - landmarks).max()))
        return Glimpse(face.landmarks.astype(np.float64), lambda: face.detection)


@pytest.fixture
def background() -> np.ndarray:
    return np.repeat(smooth(np.random.default_rng(0), HEIGHT, WIDTH)[..., :1] // 2 + 60, 3, axis=2)


@pytest.fixture
def video(tmp_path: Path, background: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A red square that wanders, and a blue one that comes at frame 14 and goes at frame 30."""
    monkeypatch.setattr(module, "SEGMENT", 10)
    images = []
    for step in range(COUNT):
        blue = [(150.0, 60.0, 46.0, BLUE)] if 14 <= step < 30 else []
        images.append(draw(background, (45 + step, 60, 60, RED), *blue))
    return write_video(tmp_path / "v.mkv", images, rate=RATE)


@pytest.fixture
def alone(tmp_path: Path, background: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The red square alone."""
    monkeypatch.setattr(module, "SEGMENT", 10)
    images = [draw(background, (45 + step, 60, 60, RED)) for step in range(COUNT)]
    return write_video(tmp_path / "alone.mkv", images, rate=RATE)


def observed(
    video: Path,
    folder: Path,
    detector: SquareDetector,
    last: float | None = None,
    count: Callable[[int], object] = lambda n: None,
) -> list[Segment]:
    K = assumed_K(WIDTH, HEIGHT)
    return list(observe_video(Video(video), folder, K, SIZE, detector, last, count))  # pyright: ignore[reportArgumentType]


def without_sharpness(segments: list[Segment]) -> list[Segment]:
    def plain(segment: Segment) -> Segment:
        tracks = {n: tuple(replace(s, sharpness=0.0, rotation=()) for s in t) for n, t in segment.tracks.items()}
        return replace(segment, tracks=tracks)

    return [plain(segment) for segment in segments]


def test_every_frame_has_its_time_and_every_face_its_track(video: Path, tmp_path: Path) -> None:
    counted: list[int] = []
    segments = observed(video, tmp_path / "o", FollowingDetector(), count=counted.append)
    assert [len(s.times) for s in segments] == [10, 10, 10, 6] and sum(counted) == COUNT
    assert [s.first for s in segments] == [0, 10, 20, 30] and segments[-1].end == COUNT
    np.testing.assert_allclose(np.concatenate([s.times for s in segments]), np.arange(COUNT) / RATE, atol=1e-3)
    red = [sight for s in segments for sight in s.tracks.get(0, ())]
    blue = [sight for s in segments for sight in s.tracks.get(1, ())]
    assert [sight.frame for sight in red] == list(range(COUNT))
    assert blue[-1].frame == 29 and 14 <= blue[0].frame <= 14 + RATE
    for sight in (*red, *blue):
        assert sight.time == pytest.approx(sight.frame / RATE, abs=1e-3)
    assert without_sharpness(observed_segments(tmp_path / "o")) == without_sharpness(segments)


def test_what_is_read_is_what_was_written(alone: Path, tmp_path: Path) -> None:
    segments = observed(alone, tmp_path / "o", FollowingDetector())
    assert observed_segments(tmp_path / "o") == segments


def test_clips_show_the_faces_where_they_were(video: Path, tmp_path: Path, background: np.ndarray) -> None:
    segments = observed(video, tmp_path / "o", FollowingDetector())
    for segment in segments:
        for track, sights in segment.tracks.items():
            clip = read_sights(tmp_path / "o", segment, track)
            assert len(clip.images) == len(sights) and clip.images.shape[1:] == (SIZE, SIZE, 3)
            assert clip.detection is not None
            scale, offset = clip.crop_to_source[:, 0, 0], clip.crop_to_source[:, :, 2]
            marks = clip.detection.surface[:, NUM_POINTS:] * scale[:, None, None] + offset[:, None]
            middle = (marks.min(1) + marks.max(1)) / 2
            wanted = [45 + s.frame if track == 0 else 150 for s in sights]
            np.testing.assert_allclose(middle[:, 0], wanted, atol=1.5)
            strong = 0 if track == 0 else 2
            assert (clip.images[:, 10:22, 10:22, strong] > 1.5 * clip.images[:, 10:22, 10:22, 2 - strong]).mean() > 0.9
            np.testing.assert_allclose(clip.times, [s.time for s in sights], atol=1e-4)


def test_sharpness_and_pose_are_measured_now_and_then(video: Path, tmp_path: Path) -> None:
    segments = observed(video, tmp_path / "o", FollowingDetector())
    red = [sight for s in segments for sight in s.tracks[0]]
    measured = [sight.frame for sight in red if sight.sharpness >= 0]
    assert measured == list(range(0, COUNT, 3))
    assert all((len(sight.rotation) == 9) == (sight.sharpness >= 0) for sight in red)


def test_an_interrupted_pass_ends_as_if_it_had_not_been(alone: Path, tmp_path: Path) -> None:
    whole = observed(alone, tmp_path / "whole", FollowingDetector())
    with pytest.raises(Interrupted):
        observed(alone, tmp_path / "o", FollowingDetector(last=26))
    done = observed_segments(tmp_path / "o")
    assert 1 <= len(done) < len(whole)
    counted: list[int] = []
    rest = observed(alone, tmp_path / "o", FollowingDetector(), count=counted.append)
    assert sum(counted) == COUNT - done[-1].end
    assert without_sharpness([*done, *rest]) == without_sharpness(whole)
    assert observed_segments(tmp_path / "o")[-1].end == COUNT
    for segment in whole:
        for track in segment.tracks:
            a, b = (read_sights(tmp_path / name, segment, track) for name in ("whole", "o"))
            assert a.detection is not None and b.detection is not None
            np.testing.assert_array_equal(a.images, b.images)
            np.testing.assert_array_equal(a.detection.surface, b.detection.surface)
            np.testing.assert_array_equal(a.crop_to_source, b.crop_to_source)


def test_an_interrupted_pass_measures_the_same_frames(alone: Path, tmp_path: Path) -> None:
    whole = observed(alone, tmp_path / "whole", FollowingDetector())
    with pytest.raises(Interrupted):
        observed(alone, tmp_path / "o", FollowingDetector(last=14))
    observed(alone, tmp_path / "o", FollowingDetector())
    measured = [
        [s.frame for seg in segments for s in seg.tracks[0] if s.sharpness >= 0]
        for segments in (whole, observed_segments(tmp_path / "o"))
    ]
    assert measured[0] == measured[1]


def test_an_interrupted_pass_searches_when_it_would_have(
    video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SEGMENT", 18)  # ends between two searches, with the blue square there
    whole = observed(video, tmp_path / "whole", FollowingDetector())
    assert whole[0].tracks.keys() == {0}
    with pytest.raises(Interrupted):
        observed(video, tmp_path / "o", FollowingDetector(last=22))
    observed(video, tmp_path / "o", FollowingDetector())
    found = [
        [s.frame for seg in observed_segments(tmp_path / name) for s in seg.tracks.get(1, ())]
        for name in ("whole", "o")
    ]
    assert found[0] == found[1]


def test_clips_of_an_unfinished_segment_are_replaced(alone: Path, tmp_path: Path) -> None:
    folder = tmp_path / "o"
    segments = observed(alone, folder, FollowingDetector())
    (folder / "s00002.json").unlink()
    (folder / "s00003.json").unlink()
    tar = folder / "s00002-000000.tar"
    tar.write_bytes(tar.read_bytes()[:1000])
    (folder / "s00002-000001.tar").write_bytes(b"left over")
    observed(alone, folder, FollowingDetector())
    assert without_sharpness(observed_segments(folder)) == without_sharpness(segments)
    assert len(read_sights(folder, segments[2], 0).images) == 10


def test_a_finished_pass_is_not_done_again(video: Path, tmp_path: Path) -> None:
    observed(video, tmp_path / "o", FollowingDetector())
    detector = FollowingDetector()
    assert observed(video, tmp_path / "o", detector) == [] and detector.calls == detector.glimpses == 0


def test_a_pass_ends_at_the_last_second(video: Path, tmp_path: Path) -> None:
    segments = observed(video, tmp_path / "o", FollowingDetector(), last=1.3)
    assert segments[-1].end == 16 and segments[-1].times[-1] <= 1.3


def test_cuts_are_noted_and_begin_new_tracks(tmp_path: Path, background: np.ndarray) -> None:
    other = 255 - background
    images = [draw(background, (100, 60, 60, RED))] * 8 + [draw(other, (100, 60, 60, RED))] * 8
    (segment,) = observed(write_video(tmp_path / "c.mkv", images, rate=RATE), tmp_path / "o", FollowingDetector())
    assert segment.cuts == (8,)
    assert [sight.frame for sight in segment.tracks[0]] == list(range(8))
    assert [sight.frame for sight in segment.tracks[1]] == list(range(8, 16))


def test_an_error_of_a_look_is_not_swallowed(video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> float:
        raise ValueError("no sharpness")

    monkeypatch.setattr(module, "sharpness", broken)
    with pytest.raises(ValueError, match="no sharpness"):
        observed(video, tmp_path / "o", FollowingDetector())
    assert observed_segments(tmp_path / "o") == []
