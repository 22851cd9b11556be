"""`fmlfast track` at the command line."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from fmlfast import cli
from fmlfast.model import pretrained
from fmlfast.model.fml import FML
from fmlfast.reconstruction.track import run, views
from tests.helpers.videos import smooth, write_video


@dataclass
class Track:
    frame: torch.Tensor
    time: torch.Tensor


@dataclass
class Person:
    track: Track


def fails(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("error: ") and captured.err.count("\n") == 1
    return captured.err


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[tuple, dict]]:
    found: list[tuple[tuple, dict]] = []
    people = [Person(Track(torch.arange(3), torch.tensor([0.0, 0.5, 1.26])))]
    monkeypatch.setattr(run, "track", lambda *a, **k: found.append((a, k)) or people)
    return found


def test_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["track", "--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    for option in ("VIDEO", "--checkpoint", "--out", "--refine", "--texture", "--seconds", "--camera", "--people"):
        assert option in shown
    assert "overlay.mp4" in shown


def test_arguments_are_passed_and_people_are_told(calls: list, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["track", "films/me.mp4", "--refine", "3", "--seconds", "2.5", "--people", "1"])
    ((arguments, named),) = calls
    assert arguments == (Path("films/me.mp4"), Path("out/me"), None)
    wanted = {"refine": 3, "texture": 1024, "seconds": 2.5, "camera": None, "people": 1, "progress": True}
    assert named == wanted
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"{Path('out/me/person-0')}: 3 frames, 0.0 to 1.3 s"]


def test_a_camera_is_read_for_the_video(calls: list, tmp_path: Path) -> None:
    video = write_video(tmp_path / "v.mkv", [smooth(np.random.default_rng(0), 48, 64)])
    camera = tmp_path / "camera.json"
    camera.write_text('{"fl_x": 100, "cx": 64, "cy": 48, "w": 128, "h": 96}')
    cli.main(["track", str(video), "--camera", str(camera), "--out", str(tmp_path / "out")])
    np.testing.assert_array_equal(calls[0][1]["camera"], [[50, 0, 32], [0, 50, 24], [0, 0, 1]])


def test_several_videos_are_views_of_one_person(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found: list[tuple[tuple, dict]] = []
    person = Person(Track(torch.arange(2), torch.tensor([0.0, 0.5])))
    monkeypatch.setattr(views, "track_views", lambda *a, **k: found.append((a, k)) or [person, person])
    videos = [write_video(tmp_path / f"{n}.mkv", [smooth(np.random.default_rng(0), 48, 64)]) for n in "ab"]
    place = {"fl_x": 50, "cx": 32, "cy": 24, "R": np.eye(3).tolist()}
    rig = tmp_path / "rig.json"
    rig.write_text(json.dumps({"cameras": [{**place, "t": [0, 0, 0]}, {**place, "t": [100, 0, 0]}]}))
    cli.main(["track", *map(str, videos), "--camera", str(rig), "--out", str(tmp_path / "out"), "--seconds", "2"])
    ((arguments, named),) = found
    given, cameras, out, checkpoint = arguments
    assert list(given) == videos and out == tmp_path / "out" and checkpoint is None
    assert [camera.t.tolist() for camera in cameras] == [[0, 0, 0], [100, 0, 0]]
    assert named == {"texture": 1024, "seconds": 2.0, "progress": True}
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"{tmp_path / 'out' / f'view-{n}' / 'person-0'}: 2 frames, 0.0 to 0.5 s" for n in (0, 1)]


def test_several_videos_need_their_cameras(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "need --camera" in fails(["track", "a.mp4", "b.mp4", "--out", str(tmp_path / "out")], capsys)


def test_mistakes_are_one_line_that_names_the_file(
    tmp_path: Path, model: FML, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("av")
    model.save(tmp_path / "shipped")
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path / "shipped")
    out = ["--out", str(tmp_path / "out")]
    assert "none.mp4: no such video" in fails(["track", str(tmp_path / "none.mp4"), *out], capsys)
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    assert "none.json: no such camera" in fails(["track", str(broken), "--camera", str(tmp_path / "none.json")], capsys)
    (tmp_path / "out").mkdir()
    assert "out exists" in fails(["track", str(broken), *out], capsys)
    assert "broken.mp4" in fails(["track", str(broken), "--out", str(tmp_path / "other")], capsys)
