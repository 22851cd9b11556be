"""Two processes that write one folder: the second is refused before its work, whatever the command."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import train as training
from fmlfast.cli.reconstruct import reconstruct
from fmlfast.data.synthetic.generate import SyntheticConfig, generate
from fmlfast.data.video.prepare import PrepareConfig, prepare
from fmlfast.reconstruction.track.run import track
from fmlfast.reconstruction.track.views import Camera, track_views
from tests.helpers.interruptions import Interrupted
from tests.helpers.training_runs import short_run
from tools.torture.children import refused

pytest.importorskip("fcntl")
pytest.importorskip("av")


def prepare_videos(home: Path, **options: Any) -> None:
    video, detector = home / "videos" / "a.mp4", home / "videos" / "detector"
    video.parent.mkdir(exist_ok=True)
    video.write_bytes(b"x")
    detector.write_bytes(b"x")
    prepare(PrepareConfig((video,), home / "out", face_landmarker=detector, **options))


def merge_parts(home: Path) -> None:
    for name in ("meta.json", "report.json"):
        path = home / "out" / "parts" / "1-of-1" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    prepare_videos(home, merge=True)


def prepare_a_part_beside_the_merge(home: Path) -> None:
    prepare_videos(home, part="1/1")


def track_two_views(home: Path) -> None:
    track_views(["a.mp4", "b.mp4"], [Camera(np.eye(3), np.eye(3), np.zeros(3))] * 2, home / "out")


STARTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "prepare": (prepare_videos, "fmlfast.data.video.prepare.open_folder"),
    "prepare --part": (lambda home: prepare_videos(home, part="1/1"), "fmlfast.data.video.prepare.open_folder"),
    "prepare --merge": (merge_parts, "fmlfast.data.video.parts.open_folder"),
    "synthesize": (
        lambda home: generate(SyntheticConfig(home / "out", detect=False)),
        "fmlfast.data.synthetic.generate.write_meta",
    ),
    "train": (lambda home: training.train(short_run(home / "data", home / "out", 4)), "train.make_clips"),
    "reconstruct": (
        lambda home: reconstruct((Path("a.jpg"),), out=home / "out"),
        "fmlfast.reconstruction.pipeline.reconstruct",
    ),
    "track": (lambda home: track("a.mp4", home / "out"), "fmlfast.reconstruction.track.run.Reconstructor.of"),
    "track views": (track_two_views, "fmlfast.reconstruction.track.views.Reconstructor.of"),
}
"""What starts, and what it calls once it has begun."""


@pytest.mark.parametrize("name", STARTS)
def test_the_second_is_refused_and_told_who_is_first(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin, called = STARTS[name]
    told, first = [], os.getpid()

    def begun(*_: object, **__: object) -> None:
        if os.getpid() == first:  # a second that gets here was not refused
            told.append(refused(lambda: begin(tmp_path)))
            if name == "prepare --merge":
                told.append(refused(lambda: prepare_a_part_beside_the_merge(tmp_path)))
        raise Interrupted

    monkeypatch.setattr(called, begun)
    with pytest.raises(Interrupted):
        begin(tmp_path)
    for message in told:
        assert f"is being written by process {first} of this machine" in message and str(tmp_path / "out") in message
    assert len(told) == 1 + (name == "prepare --merge")
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".")]
