"""Videos of real people to clips."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np

from fmlfast.data.shards import list_clips, read_clip
from fmlfast.data.video.decode import Video
from fmlfast.data.video.prepare import PrepareConfig, prepare
from tests.helpers.real_media import landmarker, real_media
from tests.helpers.videos import write_video


def test_real_videos_in_two_processes(tmp_path: Path) -> None:
    media, model = real_media(), landmarker()
    folder = tmp_path / "films"
    folder.mkdir()
    for name in ("single_face.mp4", "face_noface.mov", "noface_face.mov", "no_face.mp4"):
        shutil.copy(media / name, folder)
    config = PrepareConfig((folder,), tmp_path / "out", rate=3, workers=2, face_landmarker=model)
    report = prepare(config)
    records = {record.name: record for record in report.sources.values()}
    assert records["films/no_face.mp4"].clips == []
    (small,) = records["films/single_face.mp4"].clips  # its face has 193 pixels
    assert small.key is None
    assert small.rejected == {"small": small.looked_at}
    (before,) = [clip for clip in records["films/face_noface.mov"].clips if clip.key]
    assert before.end < 2.5
    (after,) = [clip for clip in records["films/noface_face.mov"].clips if clip.key]
    assert after.start > 3.5
    clips = [read_clip(ref) for ref in list_clips(tmp_path / "out", "train")]
    assert len(clips) == 2
    for clip in clips:
        assert clip.images.shape == (4, 256, 256, 3)
        assert clip.confidence[:, 17:].mean() > 0.8
        x, y = clip.landmarks.mean(axis=1).T
        np.testing.assert_allclose(x, 128, atol=1)
        np.testing.assert_allclose(y, 128, atol=1)
        eyes = np.linalg.norm(clip.landmarks[:, 36] - clip.landmarks[:, 45], axis=1)
        assert ((eyes > 70) & (eyes < 130)).all()
    lower = replace(config, inputs=(folder / "single_face.mp4",), out=tmp_path / "lower", min_face=150, workers=1)
    assert prepare(lower).clips == 1


def test_two_real_faces_side_by_side(tmp_path: Path) -> None:
    media, model = real_media(), landmarker()
    left = [frame.image() for frame in Video(media / "single_face.mp4").frames()][:40]
    right = [frame.image() for frame in Video(media / "WolfgangLanger_Pexels.mp4").frames()][:40]
    frames = [np.concatenate([a[:, 120:480], b[:, 240:]], axis=1) for a, b in zip(left, right, strict=True)]
    path = write_video(tmp_path / "v" / "pair.mp4", frames, rate=24, codec="libx264")
    report = prepare(PrepareConfig((path,), tmp_path / "out", min_face=150, workers=1, face_landmarker=model))
    assert len(next(iter(report.sources.values())).clips) == 2
    clips = [read_clip(ref) for ref in list_clips(tmp_path / "out", "train")]
    assert {clip.subject for clip in clips} == {"v/pair.mp4#0", "v/pair.mp4#1"}
    for clip in clips:
        sides = clip.crop_to_source[:, 0, 2] + clip.crop_to_source[:, 0, 0] * 128 > 360
        assert sides.all() or not sides.any()
