"""Videos to clips, on drawn faces that a simple detector finds."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter

from fmlfast.data.face_detector import Face
from fmlfast.data.shards import Clip, list_clips, read_clip, read_meta
from fmlfast.data.video import prepare as module
from fmlfast.data.video.clips import Rules, Source, SourceRecord
from fmlfast.data.video.prepare import PrepareConfig, PrepareReport, prepare
from tests.data.video.test_decode import smooth, write_video
from tests.data.video.test_tracking import make_face, textured, turn

HEIGHT, WIDTH = 120, 200
RED, BLUE = (1.0, 0.25, 0.25), (0.25, 0.25, 1.0)


def draw(background: np.ndarray, *faces: tuple[float, float, float, tuple[float, float, float]]) -> np.ndarray:
    """Textured squares (centre x, y, side, colour) on a picture: the faces of this file."""
    image = background.copy()
    for x, y, side, colour in faces:
        skin = textured(np.random.default_rng(int(side)), 128)
        patch = np.array(Image.fromarray(skin).resize((int(side), int(side)), Image.Resampling.LANCZOS))
        left, top = int(x - side / 2), int(y - side / 2)
        tinted = ((40 + patch * 0.84) * colour).astype(np.uint8)
        image[top : top + int(side), left : left + int(side)] = tinted
    return image


class SquareDetector:
    """Finds the squares that `draw` made; the pose is read from where they are, doubt from a mark in the corner."""

    def __init__(self) -> None:
        self.calls = 0

    def detect(self, image: np.ndarray, min_face: float = 0) -> list[Face]:
        self.calls += 1
        values = image.astype(int)
        faces = []
        for strong, weak in ((0, 2), (2, 0)):
            ys, xs = np.nonzero(values[..., strong] > 2.2 * values[..., weak] + 5)
            if len(xs) > 50:
                side = float(np.ptp(xs) + 1)
                x = float(xs.mean()) + 0.5
                doubt = 0.03 if image[:4, :4].mean() > 250 else 0.004
                face = make_face(x, float(ys.mean()) + 0.5, side, doubt)
                faces.append(replace(face, rotation=turn(0.4 * (x - WIDTH / 2), 0).astype(np.float32)))
        return sorted(faces, key=lambda face: -face.size)


@pytest.fixture
def detector(monkeypatch: pytest.MonkeyPatch) -> SquareDetector:
    """The drawn squares' detector, in place of MediaPipe."""
    drawn = SquareDetector()
    monkeypatch.setattr(module, "_detector", lambda model: drawn)
    monkeypatch.setattr(module, "face_landmarker_file", lambda path: Path("unused"))
    return drawn


@pytest.fixture
def grey() -> np.ndarray:
    """A background without colour."""
    return np.repeat(smooth(np.random.default_rng(0), HEIGHT, WIDTH)[..., :1] // 2 + 60, 3, axis=2)


def moving(background: np.ndarray, count: int = 24, side: float = 60, colour: tuple = RED) -> list[np.ndarray]:
    """A square that wanders from left to right."""
    return [draw(background, (x, 60, side, colour)) for x in np.linspace(50, 150, count)]


def configure(out: Path, *inputs: Path, **options: Any) -> PrepareConfig:
    settings: dict[str, Any] = {"min_face": 40, "size": 64, "min_sharpness": 0.01, "workers": 1}
    return PrepareConfig(inputs, out, **(settings | options))


def clips_of(out: Path) -> list[Clip]:
    return [read_clip(ref) for ref in list_clips(out, "train")]


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


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()}


def test_a_second_run_does_only_what_is_missing(tmp_path: Path, detector: SquareDetector, grey: np.ndarray) -> None:
    folder, out = tmp_path / "v", tmp_path / "out"
    write_video(folder / "a.mkv", moving(grey, 12))
    (folder / "broken.mp4").write_bytes(b"no video")
    first = prepare(configure(out, folder))
    before, calls = snapshot(out), detector.calls
    again = prepare(configure(out, folder, folder / "a.mkv"))
    assert detector.calls == calls
    assert snapshot(out) == before
    assert (first.new, again.new) == (2, 0)
    assert again.sources == first.sources
    assert "2 of them done before" in str(again)

    write_video(folder / "b.mkv", moving(grey, 12, colour=BLUE))
    third = prepare(configure(out, folder))
    assert third.new == 1
    assert detector.calls == 2 * calls
    assert [clip.subject for clip in clips_of(out)] == ["v/a.mkv#0", "v/b.mkv#0"]
    assert snapshot(out)["train-000000.tar"] == before["train-000000.tar"]


def test_a_changed_file_is_another_one(tmp_path: Path, detector: SquareDetector, grey: np.ndarray) -> None:
    path = write_video(tmp_path / "v" / "a.mkv", moving(grey, 12))
    prepare(configure(tmp_path / "out", path))
    write_video(path, moving(grey, 16, colour=BLUE))
    prepare(configure(tmp_path / "out", path))
    first, second = clips_of(tmp_path / "out")
    assert first.subject == "v/a.mkv#0"
    assert second.subject != first.subject  # nobody says it shows the same person


def test_a_lost_report_makes_no_copies(tmp_path: Path, detector: SquareDetector, grey: np.ndarray) -> None:
    path = write_video(tmp_path / "v" / "a.mkv", moving(grey, 12))
    first = prepare(configure(tmp_path / "out", path))
    (tmp_path / "out" / "report.json").unlink()
    assert prepare(configure(tmp_path / "out", path)).sources == first.sources
    assert len(clips_of(tmp_path / "out")) == 1


def test_an_interruption_keeps_what_is_finished(
    tmp_path: Path, detector: SquareDetector, grey: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = tmp_path / "v", tmp_path / "out"
    for name in ("a", "b", "c"):
        write_video(folder / f"{name}.mkv", moving(grey, 12))
    work = module._work

    def interrupted(source: Source, rules: Rules, model: Path):
        if source.path.name == "c.mkv":
            raise KeyboardInterrupt
        return work(source, rules, model)

    monkeypatch.setattr(module, "_work", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare(configure(out, folder))
    assert len(clips_of(out)) == 2
    monkeypatch.setattr(module, "_work", work)
    report = prepare(configure(out, folder))
    assert report.new == 1
    assert sorted(clip.source for clip in clips_of(out)) == ["v/a.mkv", "v/b.mkv", "v/c.mkv"]


def test_a_full_disk_leaves_no_half_and_no_false_record(
    tmp_path: Path, detector: SquareDetector, grey: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = tmp_path / "v", tmp_path / "out"
    for name in ("a", "b"):
        write_video(folder / f"{name}.mkv", moving(grey, 12))
    replace_file = os.replace

    def full(source: Path, target: Path) -> None:
        if str(target).endswith(".tar"):
            raise OSError(28, "No space left on device")
        replace_file(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        prepare(configure(out, folder))
    assert [path.name for path in out.iterdir()] == ["meta.json"]
    monkeypatch.setattr(os, "replace", replace_file)
    assert prepare(configure(out, folder)).new == 2
    assert len(clips_of(out)) == 2


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


def test_a_folder_made_otherwise_is_left_alone(tmp_path: Path, detector: SquareDetector, grey: np.ndarray) -> None:
    out, path = tmp_path / "out", write_video(tmp_path / "v.mkv", moving(grey, 12))
    prepare(configure(out, path))
    before = snapshot(out)
    with pytest.raises(ValueError, match="made in another way"):
        prepare(configure(out, path, size=96))
    assert snapshot(out) == before
    (out / "report.json").write_text('{"sources": {"x": {"prior_loss": 1}}}')
    with pytest.raises(ValueError, match="damaged"):
        prepare(configure(out, path))
    (out / "meta.json").write_text('{"generator": "synthetic", "settings": {}}')
    with pytest.raises(ValueError, match="synthetic"):
        prepare(configure(out, path))


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


def crash_on_b(source: Source, rules: Rules, model: Path) -> tuple[SourceRecord, list[Clip]]:
    """A worker that dies, as a decoder may, on one of the files."""
    if source.path.name == "b.mkv":
        os.abort()
    return SourceRecord(source.name, looked_at=1), []


def test_a_file_that_kills_its_worker_is_reported(
    tmp_path: Path, detector: SquareDetector, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b", "c", "d"):
        (tmp_path / "v").mkdir(exist_ok=True)
        (tmp_path / "v" / f"{name}.mkv").write_bytes(b"")
    monkeypatch.setattr(module, "_work", crash_on_b)
    report = prepare(configure(tmp_path / "out", tmp_path / "v", workers=2))
    troubles = {record.name: record.trouble for record in report.sources.values()}
    assert troubles == {"v/a.mkv": "", "v/b.mkv": "reading it crashed the process", "v/c.mkv": "", "v/d.mkv": ""}
    monkeypatch.setattr(module, "_work", lambda source, *_: (SourceRecord(source.name, looked_at=2), []))
    report = prepare(configure(tmp_path / "out", tmp_path / "v", workers=1))
    assert report.new == 1 and sorted(record.looked_at for record in report.sources.values()) == [1, 1, 1, 2]
