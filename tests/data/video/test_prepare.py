"""Videos to clips, on drawn faces that a simple detector finds."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from fmlfast.data.frames import Frames
from fmlfast.data.shards import read_meta
from fmlfast.data.video.clips import SourceRecord
from fmlfast.data.video.prepare import PrepareReport, prepare
from tests.helpers.drawn_faces import BLUE, HEIGHT, RED, WIDTH, SquareDetector, draw, moving
from tests.helpers.preparing import clips_of, configure
from tests.helpers.videos import write_video

pytest.importorskip("av")


def only(report: PrepareReport) -> SourceRecord:
    (record,) = report.sources.values()
    return record


def test_one_face(tmp_path: Path, detector: SquareDetector, grey: np.ndarray) -> None:
    path = write_video(tmp_path / "films" / "a film.mkv", moving(grey))
    report = prepare(configure(tmp_path / "out", path))
    (clip,) = clips_of(tmp_path / "out")
    assert clip.subject == "films/a film.mkv#0"
    assert clip.source == "films/a film.mkv"
    assert clip.key.startswith("a_film-")
    assert clip.images.shape == (4, 64, 64, 3)
    assert clip.focal_source == "assumed"
    assert clip.times[0] == 0  # the ends have the most different poses
    assert clip.times[-1] > 1.7
    assert (np.diff(clip.times) > 0.3).all()
    for m, time in enumerate(clip.times):
        x = 50 + 100 * time * 12 / 23  # where the square was drawn
        transform = clip.crop_to_source[m].astype(float)
        source = clip.landmarks[m] @ transform[:, :2].T + transform[:, 2]
        assert np.abs(source.min(axis=0) - (x - 30, 30)).max() < 1.5
        assert np.abs(source.max(axis=0) - (x + 30, 90)).max() < 1.5
        centre = clip.Ks[m, :2, 2] @ transform[:, :2].T + transform[:, 2]
        np.testing.assert_allclose(centre, (WIDTH / 2, HEIGHT / 2), atol=0.01)
        np.testing.assert_allclose(clip.Ks[m, 0, 0] * transform[0, 0], 1.2 * WIDTH, rtol=1e-4)
        assert clip.images[m, 28:36, 28:36, 0].mean() > 2 * clip.images[m, 28:36, 28:36, 2].mean()
    record = only(report)
    assert (record.looked_at, record.kept, record.trouble) == (12, 1, "")
    assert "kept 4 (8 to spare)" in str(report)
    assert "1 clip from 1 video" in str(report)
    assert read_meta(tmp_path / "out")["settings"]["size"] == 64


def test_clips_hold_what_the_detector_said(tmp_path: Path, detector: SquareDetector, grey: np.ndarray) -> None:
    prepare(configure(tmp_path / "out", write_video(tmp_path / "a.mkv", moving(grey))))
    (clip,) = clips_of(tmp_path / "out")
    seen = clip.detection
    assert seen is not None and seen.found.all() and clip.surface_labels is None
    np.testing.assert_allclose(seen.surface[:, 478:], clip.landmarks, atol=1e-3)
    for m, time in enumerate(clip.times):
        x = 50 + 100 * time * 12 / 23  # where the square was drawn
        transform = clip.crop_to_source[m].astype(float)
        source = seen.points[m] @ transform[:, :2].T + transform[:, 2]
        assert np.abs(source - (x, 60)).max() < 33 and np.abs(source.mean(axis=0) - (x, 60)).max() < 5
    assert (np.diff(seen.rotation[:, 0, 2]) < -0.1).all()
    frames = Frames.from_clips([clip], 64)
    assert frames.precision.all() and not frames.surface_known.any()
    # Landmarks of real clips are the detector's, so that training compares with all its points.
    assert torch.equal(frames.labelled().precision, frames.precision)


def test_two_faces_are_two_people(tmp_path: Path, detector: SquareDetector, grey: np.ndarray) -> None:
    xs = np.linspace(0, 30, 24)
    frames = [draw(grey, (45 + x, 60, 50, RED), (155 - x, 60, 44, BLUE)) for x in xs]
    prepare(configure(tmp_path / "out", write_video(tmp_path / "v" / "two.mkv", frames)))
    red, blue = sorted(clips_of(tmp_path / "out"), key=lambda clip: clip.subject)
    assert (red.subject, blue.subject) == ("v/two.mkv#0", "v/two.mkv#1")
    centre = np.s_[:, 24:40, 24:40]
    assert (red.images[centre][..., 0].mean((1, 2)) > 2 * red.images[centre][..., 2].mean((1, 2))).all()
    assert (blue.images[centre][..., 2].mean((1, 2)) > 2 * blue.images[centre][..., 0].mean((1, 2))).all()


def test_a_cut_separates_people(tmp_path: Path, detector: SquareDetector, grey: np.ndarray) -> None:
    other = 255 - grey
    frames = moving(grey)[:12] + [draw(other, (100, 60, 60, RED))] * 12
    report = prepare(configure(tmp_path / "out", write_video(tmp_path / "v" / "cut.mkv", frames)))
    first, second = clips_of(tmp_path / "out")
    assert (first.subject, second.subject) == ("v/cut.mkv#0", "v/cut.mkv#1")
    assert first.times.max() < 1.0 <= second.times.min()
    assert [clip.start for clip in only(report).clips] == [0.0, pytest.approx(1.0, abs=1e-3)]


def test_a_long_track_gives_several_clips_of_one_person(
    tmp_path: Path, detector: SquareDetector, grey: np.ndarray
) -> None:
    path = write_video(tmp_path / "v" / "long.mkv", moving(grey, 48))
    prepare(configure(tmp_path / "out", path, clip_seconds=1.4))
    clips = clips_of(tmp_path / "out")
    assert len(clips) == 3
    assert {clip.subject for clip in clips} == {"v/long.mkv#0"}
    assert all(np.ptp(clip.times) <= 1.4 for clip in clips)


def test_frames_are_rejected_with_reasons(tmp_path: Path, detector: SquareDetector, grey: np.ndarray) -> None:
    good = draw(grey, (100, 60, 60, RED))
    marked = good.copy()
    marked[:8, :8] = 255
    soft = np.array(Image.fromarray(good).filter(ImageFilter.GaussianBlur(4)))
    small = draw(grey, (100, 60, 36, RED))
    frames = [good] * 8 + [marked] * 4 + [soft] * 6 + [small] * 2
    report = prepare(configure(tmp_path / "out", write_video(tmp_path / "v.mkv", frames), rate=12))
    (clip,) = only(report).clips
    assert (clip.looked_at, clip.kept) == (20, 4)
    assert clip.rejected == {"blurred": 6, "unsure": 4, "small": 2}
    assert "6 blurred, 4 unsure, 2 small, 4 to spare" in str(report)
    assert clips_of(tmp_path / "out")[0].times.max() < 8 / 12


def test_too_few_frames_and_no_face_are_explained(tmp_path: Path, detector: SquareDetector, grey: np.ndarray) -> None:
    folder = tmp_path / "v"
    write_video(folder / "short.mkv", [grey] * 4 + [draw(grey, (100, 60, 60, RED))] + [grey] * 20)
    write_video(folder / "none.mkv", [grey] * 12)
    report = prepare(configure(tmp_path / "out", folder, rate=12))
    assert "none.mkv: no face in" in str(report)
    assert "nothing kept: 1 usable frame, 2 needed" in str(report)
    assert report.clips == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["meta.json", "report.json"]
    assert prepare(configure(tmp_path / "one", folder, rate=12, min_frames=1)).clips == 1


def test_voxceleb_ids_are_subjects(tmp_path: Path, detector: SquareDetector, grey: np.ndarray) -> None:
    root = tmp_path / "vox"
    for name in ("id00012/abc/00001.mkv", "id00012/abc/00002.mkv", "id00012/xyz/00001.mkv", "id00077/q/00001.mkv"):
        write_video(root / name, moving(grey, 12))
    crowd = [draw(grey, (45 + x, 60, 44, BLUE), (145 + x, 60, 60, RED)) for x in range(6)]
    write_video(root / "id00099/r/00001.mkv", crowd)
    prepare(configure(tmp_path / "out", root))
    subjects = [clip.subject for clip in clips_of(tmp_path / "out")]
    expected = ["id00012"] * 3 + ["id00077", "id00099", "vox/id00099/r/00001.mkv#1"]
    assert sorted(subjects) == sorted(expected)
    large = next(clip for clip in clips_of(tmp_path / "out") if clip.subject == "id00099")
    assert large.images[..., 0].mean() > large.images[..., 2].mean()  # the larger face is the speaker


def test_broken_files_are_reported_and_not_fatal(tmp_path: Path, detector: SquareDetector, grey: np.ndarray) -> None:
    folder = tmp_path / "v"
    whole = write_video(folder / "good.mp4", moving(grey, 48), codec="mpeg4", movflags="+faststart").read_bytes()
    (folder / "truncated.mp4").write_bytes(whole[: len(whole) * 2 // 3])
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "noise.avi").write_bytes(np.random.default_rng(1).bytes(3000))
    report = prepare(configure(tmp_path / "out", folder))
    records = {record.name: record for record in report.sources.values()}
    assert records["v/good.mp4"].trouble == ""
    assert "cannot be opened" in records["v/empty.mp4"].trouble
    assert "cannot be opened" in records["v/noise.avi"].trouble
    assert records["v/truncated.mp4"].trouble
    assert records["v/truncated.mp4"].kept == 1
    assert 1 < records["v/truncated.mp4"].seconds < records["v/good.mp4"].seconds
    assert "trouble: " in str(report)


def test_bad_input_is_refused_and_leaves_nothing(tmp_path: Path, detector: SquareDetector, grey: np.ndarray) -> None:
    out, empty = tmp_path / "out", tmp_path / "empty"
    empty.mkdir()
    (empty / "notes.txt").write_text("no video")
    good = write_video(tmp_path / "v.mkv", moving(grey, 12))
    for inputs, message in [
        ((tmp_path / "missing",), "no such file"),
        ((good, tmp_path / "missing.mp4"), "no such file"),
        ((empty,), "no videos in this folder"),
        ((), "no videos given"),
    ]:
        with pytest.raises(ValueError, match=message):
            prepare(configure(out, *inputs))
        assert not out.exists()
    with pytest.raises(ValueError, match="not empty"):
        prepare(configure(empty, good))
    with pytest.raises(ValueError, match="is a file"):
        prepare(configure(good, good))
    assert detector.calls == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": 8},
        {"min_frames": 0},
        {"min_frames": 5},
        {"rate": 0},
        {"workers": -1},
        {"max_doubt": 0},
        {"min_face": -1},
        {"clip_seconds": float("nan")},
    ],
)
def test_wrong_settings_are_refused(tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        configure(tmp_path / "out", tmp_path, **wrong)
