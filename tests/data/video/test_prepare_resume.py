"""Clips in a folder that holds some already, and what an end in the middle leaves there."""

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from fmlfast.common.termination import Terminated
from fmlfast.data.shards import Clip
from fmlfast.data.video import prepare as module
from fmlfast.data.video.clips import Rules, Source, SourceRecord
from fmlfast.data.video.prepare import prepare
from tests.helpers.drawn_faces import BLUE, SquareDetector, moving
from tests.helpers.preparing import clips_of, configure
from tests.helpers.videos import write_video
from tools.torture.children import forked

pytest.importorskip("av")


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


@pytest.mark.parametrize(("number", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)])
def test_an_interruption_keeps_what_is_finished(
    number: signal.Signals,
    raised: type[BaseException],
    tmp_path: Path,
    detector: SquareDetector,
    grey: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, out = tmp_path / "v", tmp_path / "out"
    for name in ("a", "b", "c"):
        write_video(folder / f"{name}.mkv", moving(grey, 12))
    work = module._work

    def interrupted(source: Source, rules: Rules, model: Path):
        if source.path.name == "c.mkv":
            os.kill(os.getpid(), number)
            time.sleep(60)
        return work(source, rules, model)

    monkeypatch.setattr(module, "_work", interrupted)
    with pytest.raises(raised):
        prepare(configure(out, folder))
    assert len(clips_of(out)) == 2
    monkeypatch.setattr(module, "_work", work)
    report = prepare(configure(out, folder))
    assert report.new == 1
    assert sorted(clip.source for clip in clips_of(out)) == ["v/a.mkv", "v/b.mkv", "v/c.mkv"]


def test_killed_before_the_folder_says_what_it_is_the_same_command_goes_on(
    tmp_path: Path, detector: SquareDetector, grey: np.ndarray
) -> None:
    path, out = write_video(tmp_path / "v.mkv", moving(grey, 12)), tmp_path / "out"

    def killed() -> None:
        def look(event: str, arguments: tuple) -> None:
            if event == "os.rename" and str(arguments[1]).endswith("meta.json"):
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(look)
        prepare(configure(out, path))

    assert forked(killed) == -signal.SIGKILL and list(out.iterdir())
    assert prepare(configure(out, path)).new == 1
    assert sorted(file.name for file in out.iterdir()) == ["meta.json", "report.json", "train-000000.tar"]


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
