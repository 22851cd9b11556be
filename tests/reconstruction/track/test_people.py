"""Which tracks show one person, and from which frames it is reconstructed."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fmlfast.data.detection import Detection
from fmlfast.data.shards import Clip, ShardWriter, list_clips, read_clip
from fmlfast.data.video.decode import Video
from fmlfast.model.fml import FML
from fmlfast.reconstruction.track import people as module
from fmlfast.reconstruction.track.observe import Segment, Sight
from fmlfast.reconstruction.track.people import Tracks, group_tracks, join_clips, person_photos
from tests.helpers.drawn_faces import turn
from tests.helpers.videos import smooth, write_video

RATE = 10


def sight(frame: int, **changed: object) -> Sight:
    about = {"uncertainty": 0.01, "sharpness": 0.3, "side": 100.0, "rotation": tuple(turn(0, 0).flatten().tolist())}
    return Sight(frame, frame / RATE, **{**about, **changed})  # type: ignore[arg-type]


def repeated(clip: Clip, count: int, key: str) -> Clip:
    """The clip's frames over and over."""
    order = [i % clip.frames for i in range(count)]
    assert clip.detection is not None
    arrays = ("images", "landmarks", "confidence", "Ks", "crop_to_source", "times")
    chosen = {name: getattr(clip, name)[order] for name in arrays}
    detection = Detection.stack([clip.detection.part(i, i + 1) for i in order])
    return replace(clip, key=key, subject=key, detection=detection, surface_labels=None, expression_labels=None,
                   color_labels=None, **chosen)  # fmt: skip


def observed(folder: Path, tracks: dict[int, tuple[Clip, Sequence[Sight]]], count: int = 60) -> Tracks:
    with ShardWriter(folder, "s00000") as writer:
        for number, (clip, sights) in tracks.items():
            writer.add(repeated(clip, len(sights), f"track-{number}"))
    times = tuple(i / RATE for i in range(count))
    return Tracks(folder, [Segment(0, 0, times, {n: tuple(s) for n, (_, s) in tracks.items()}, (), {})])


@pytest.fixture
def clips(detected_folder: Path) -> list[Clip]:
    """Two people."""
    return [read_clip(ref) for ref in list_clips(detected_folder, "train")[:2]]


def distance(model: FML, tracks: Tracks) -> float:
    """Distance of the neutral faces of tracks 0 and 1, mm, and what decides that they are one person."""
    found = {}
    region = model.template.regions["face"] > 0.5
    for number in (0, 1):
        frames = module.Frames.from_clips([join_clips([c for _, c in tracks.best([number], 4)])], 64)
        with torch.no_grad():
            found[number] = model.neutral(model.encode(frames))[0][region]
    return float((found[0] - found[1]).norm(dim=1).mean())


@torch.no_grad()
def test_tracks_of_one_person_after_another_are_one_person(model: FML, clips: list[Clip], tmp_path: Path) -> None:
    early, late = [sight(i) for i in range(20)], [sight(i) for i in range(30, 45)]
    tracks = observed(tmp_path, {0: (clips[0], early), 1: (clips[0], late)})
    assert distance(model, tracks) < module.ONE_PERSON
    assert group_tracks(tracks, model) == [[0, 1]]


@torch.no_grad()
def test_tracks_seen_at_one_time_are_two_people_however_alike(model: FML, clips: list[Clip], tmp_path: Path) -> None:
    early, late = [sight(i) for i in range(20)], [sight(i) for i in range(19, 45)]
    tracks = observed(tmp_path, {0: (clips[0], early), 1: (clips[0], late)})
    assert group_tracks(tracks, model) == [[1], [0]]


@torch.no_grad()
def test_tracks_of_unlike_faces_are_two_people(model: FML, clips: list[Clip], tmp_path: Path) -> None:
    early, late = [sight(i) for i in range(20)], [sight(i) for i in range(30, 45)]
    tracks = observed(tmp_path, {0: (clips[0], early), 1: (clips[1], late)})
    assert distance(model, tracks) > module.ONE_PERSON
    assert group_tracks(tracks, model) == [[0], [1]]


@torch.no_grad()
def test_short_tracks_are_nobody(model: FML, clips: list[Clip], tmp_path: Path) -> None:
    tracks = observed(
        tmp_path, {0: (clips[0], [sight(i) for i in range(4)]), 1: (clips[1], [sight(i) for i in range(9)])}
    )
    assert tracks.numbers() == [1]
    assert group_tracks(tracks, model) == [[1]]


@torch.no_grad()
def test_tracks_of_one_person_do_not_interleave(model: FML, clips: list[Clip], tmp_path: Path) -> None:
    """A gap of a track is filled by interpolation, so no other track of the person may be there."""
    outer, inner = [sight(i) for i in (*range(10), *range(17, 25))], [sight(i) for i in range(10, 17)]
    tracks = observed(tmp_path, {0: (clips[0], outer), 1: (clips[0], inner)})
    assert distance(model, tracks) < module.ONE_PERSON
    assert group_tracks(tracks, model) == [[0], [1]]


def test_best_frames_are_sharp_sure_and_large(clips: list[Clip], tmp_path: Path) -> None:
    sights = [sight(i) for i in range(30)]
    sights[3] = sight(3, sharpness=0.05)  # of which 0.3 is usual
    sights[6] = sight(6, uncertainty=0.02)
    sights[9] = sight(9, side=40.0)
    sights[12] = sight(12, sharpness=-1.0, rotation=())
    tracks = observed(tmp_path, {0: (clips[0], sights)})
    chosen = [s.frame for s, _ in tracks.best([0], 30)]
    assert chosen == [i for i in range(30) if i not in (3, 6, 9, 12)]


def test_best_frames_show_different_poses(clips: list[Clip], tmp_path: Path) -> None:
    angles = np.zeros(40)
    angles[[5, 17, 33]] = (-30, 25, 50)
    sights = [sight(i, rotation=tuple(turn(angle, 0).flatten().tolist())) for i, angle in enumerate(angles)]
    tracks = observed(tmp_path, {0: (clips[0], sights)})
    chosen = [s.frame for s, _ in tracks.best([0], 4)]
    assert {5, 17, 33} < set(chosen) and len(chosen) == 4 and chosen == sorted(chosen)


def test_where_no_frame_is_good_the_surest_is_taken(clips: list[Clip], tmp_path: Path) -> None:
    sights = [sight(i, sharpness=0.001, uncertainty=0.01 if i == 4 else 0.011) for i in range(10)]
    assert [s.frame for s, _ in observed(tmp_path, {0: (clips[0], sights)}).best([0], 4)] == [4]
    assert observed(tmp_path / "none", {0: (clips[0], [sight(0, sharpness=-1.0, rotation=())])}).best([0], 4) == []


def test_each_best_frame_comes_with_its_own_crop(clips: list[Clip], tmp_path: Path) -> None:
    tracks = observed(tmp_path, {0: (clips[0], [sight(i) for i in range(8)])})
    for seen, clip in tracks.best([0], 8):
        assert clip.frames == 1 and clip.detection is not None and clips[0].detection is not None
        np.testing.assert_array_equal(clip.landmarks[0], clips[0].landmarks[seen.frame % clips[0].frames])


def test_photos_of_a_person_are_the_frames_of_the_video(clips: list[Clip], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = [smooth(rng, 64, 80) for _ in range(20)]
    video = Video(write_video(tmp_path / "film.mkv", images, rate=RATE))
    tracks = observed(tmp_path / "o", {0: (clips[0], [sight(i) for i in range(20)])})
    photos = person_photos(tracks, [0], video, 12)
    assert len(photos) == 12
    for photo in photos:
        frame = int(photo.name.removeprefix("film-"))
        assert photo.time == pytest.approx(frame / RATE)
        assert np.abs(photo.image.astype(int) - images[frame]).max() <= 4
        clip = clips[0]
        scale, offset = clip.crop_to_source[frame % clip.frames, 0, 0], clip.crop_to_source[frame % clip.frames, :, 2]
        assert clip.detection is not None
        marks = clip.detection.surface[frame % clip.frames, 478:] * scale + offset
        np.testing.assert_allclose(photo.face.landmarks, marks, atol=0.1)
