import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fmlfast import cli
from fmlfast.data.detection import Detection
from fmlfast.data.face_detector import FaceDetector
from fmlfast.model import pretrained
from fmlfast.model.fml import FML
from fmlfast.reconstruction import pipeline as reconstruction
from fmlfast.reconstruction.result import Reconstruction
from fmlfast.template.face_template import FaceTemplate
from tests.helpers.command import fails
from tests.helpers.own_head import write_own_head
from tests.helpers.real_media import landmarker, real_media


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    image = np.random.default_rng(0).integers(0, 256, (90, 111, 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@dataclass
class Result:
    """What the command needs of a reconstruction; `saved` are the folders."""

    names: tuple[str, ...] = ("a", "b")
    neutral: tuple[int, ...] = (1, 2, 3)
    network_landmark_errors: tuple[float, ...] = (2.5, 3.25)
    landmark_errors: tuple[float, ...] = (1.5, 1.25)
    saved: list[Path] = field(default_factory=list)
    meshes: list[bool] = field(default_factory=list)

    def save(self, folder: Path, *, meshes: bool = True) -> None:
        self.saved.append(folder)
        self.meshes.append(meshes)


@pytest.fixture
def shipped(tmp_path: Path, model: FML, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The small untrained model in the place of the shipped one."""
    model.save(tmp_path / "shipped")
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path / "shipped")
    return tmp_path / "shipped"


def test_reconstruct_passes_its_arguments_and_saves(photo, tmp_path, monkeypatch, capsys):
    calls, result, out = [], Result(), tmp_path / "out"
    monkeypatch.setattr(reconstruction, "reconstruct", lambda *a, **k: calls.append((a, k)) or result)
    options = ["--checkpoint", "run", "--out", str(out), "--face", "2", "--refine", "7", "--frames", "5", "--no-mesh"]
    cli.main(["reconstruct", str(photo), "b.jpg", *options, "--topology", "own"])
    settings = {"face": 2, "refine": 7, "frames": 5, "texture": 1024, "topology": "own"}
    assert calls == [(((photo, Path("b.jpg")), Path("run")), settings)]
    assert result.saved == [out] and result.meshes == [False]
    assert capsys.readouterr().out.splitlines() == [
        f"{out}: 2 photos, mesh of 3 vertices",
        "distance to the detected landmarks, % of the outer-eye distance:",
        "  a  2.50, refined 1.50",
        "  b  3.25, refined 1.25",
    ]


def test_reconstruct_needs_nothing_but_a_photo(photo, monkeypatch, capsys):
    calls, result = [], Result(("photo",), network_landmark_errors=(2.5,), landmark_errors=(2.5,))
    monkeypatch.setattr(reconstruction, "reconstruct", lambda *a, **k: calls.append((a, k)) or result)
    cli.main(["reconstruct", str(photo)])
    settings = {"face": None, "refine": 50, "frames": 8, "texture": 1024, "topology": None}
    assert calls == [(((photo,), None), settings)]
    assert result.saved == [Path("out/photo")] and result.meshes == [True]
    cli.main(["reconstruct", str(photo), "--refine", "0"])
    assert capsys.readouterr().out.splitlines()[-1] == "  photo  2.50"


def test_bad_input_is_one_line_and_no_output(photo, tmp_path, model, capsys):
    model.save(tmp_path / "run")
    small = tmp_path / "small.png"
    Image.new("RGB", (16, 16)).save(small)
    (tmp_path / "text.jpg").write_text("text")
    existing = tmp_path / "existing"
    existing.mkdir()
    (tmp_path / "empty").mkdir()
    out, run = tmp_path / "out", tmp_path / "run"
    before = sorted(tmp_path.rglob("*"))

    def reconstruct(image: Path, checkpoint: Path = run, out: Path = out) -> str:
        return fails(["reconstruct", image, "--checkpoint", checkpoint, "--out", out], capsys)

    assert "small.png: 16x16 pixels is too small" in reconstruct(small)
    assert "text.jpg: cannot be read as an image" in reconstruct(tmp_path / "text.jpg")
    assert "absent.png: no such file" in reconstruct(tmp_path / "absent.png")
    assert "is not a finished run" in reconstruct(photo, checkpoint=tmp_path / "no-run")
    assert "existing exists; remove it or choose another" in reconstruct(photo, out=existing)
    assert "no such file or folder" in fails(["prepare", tmp_path / "no-videos", "--out", out], capsys)
    assert "empty: no photos in this folder" in reconstruct(tmp_path / "empty")
    assert "--face all takes one photo, not 2" in fails(
        ["reconstruct", photo, small, "--out", out, "--face", "all"], capsys
    )
    assert "rate must be positive" in fails(["prepare", photo, "--out", out, "--rate", 0], capsys)
    assert "no images given" in fails(["reconstruct", "--checkpoint", run, "--out", existing], capsys)
    assert sorted(tmp_path.rglob("*")) == before


def test_no_face_and_a_crowd(photo, tmp_path, model: FML, capsys):
    """With the real detector: noise shows nobody, the group photo five people."""
    landmarker()
    group = real_media() / "multi_face.jpg"
    model.save(tmp_path / "run")
    options = ["--checkpoint", tmp_path / "run", "--out", tmp_path / "out"]
    assert "photo.png: no face found" in fails(["reconstruct", photo, *options], capsys)
    error = fails(["reconstruct", group, *options], capsys)
    assert "multi_face.jpg: 5 faces; choose with --face N" in error and "4 at x" in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photo.png", "run"]
    cli.main([str(a) for a in ["reconstruct", group, *options, "--face", 3, "--refine", 0]])
    (stored,) = json.loads((tmp_path / "out" / "parameters.json").read_text())["photos"]
    left, right = (float(side) for side in error.split("3 at x ")[1].split(",")[0].split("-"))
    assert left < np.mean(stored["landmarks"], axis=0)[0] < right


def test_checkpoint_of_another_template(photo, tmp_path, model: FML, capsys):
    run = tmp_path / "run"
    model.save(run)
    config = json.loads((run / "config.json").read_text())
    config["template"] = {"name": "another-head", "fingerprint": "0123456789abcdef"}
    (run / "config.json").write_text(json.dumps(config))
    error = fails(["reconstruct", photo, "--checkpoint", run, "--out", tmp_path / "out"], capsys)
    assert "another-head" in error and not (tmp_path / "out").exists()


def test_evaluate_prints_the_rows(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("clips").mkdir()
    calls: list[object] = []
    row = {"vertex_mm": 1.25, "landmark_nme": 2.5, "neutral_mm": None}

    def evaluate_run(*arguments: object, **options: object) -> dict[str, object]:
        calls.append((arguments, options))
        return {
            "mean_face": row,
            "frames_2": row,
            "people": 3,
            "spread": {"mean_face": row},
            "parts": {"network": {"identity": row}},
        }

    monkeypatch.setattr("fmlfast.evaluation.run.evaluate_run", evaluate_run)
    monkeypatch.setattr("fmlfast.evaluation.report.write_report", lambda run: calls.append(run) or run / "report.html")
    cli.main(["evaluate", "runs/a", "--data", "clips", "--split", "val", "--refine", "3"])
    assert calls == [((Path("runs/a"), Path("clips"), "val"), {"refine_steps": 3}), Path("runs/a")]
    assert capsys.readouterr().out.splitlines() == [
        "runs/a on clips: means over 3 people",
        "",
        "           vertex_mm  landmark_nme",
        "mean face      1.250         2.500",
        "2 frames       1.250         2.500",
        "",
        "parts, network  vertex_mm  landmark_nme",
        "identity            1.250         2.500",
        "",
        "runs/a/evaluation.json: all numbers; runs/a/report.html: pictures and curves",
    ]


def test_evaluate_on_scans(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("mine").mkdir()
    calls = []

    def evaluate_scans(*arguments: object, **options: object) -> dict[str, object]:
        calls.append((arguments, options))
        means = {"person_means": {"a": 1.0, "b": 2.0}}
        return {"mean_face": {"posed_median": 1.5, **means}, "failed": {"a.jpg": "nobody is on it", "b.jpg": "too"}}

    monkeypatch.setattr("fmlfast.evaluation.scans.protocol.evaluate_scans", evaluate_scans)
    cli.main(["evaluate", "runs/a", "--scans", "mine", "--layout", "now"])
    assert calls == [((Path("runs/a"), Path("mine")), {"refine": 50, "layout": "now"})]
    *_, row, _, files, first, second = capsys.readouterr().out.splitlines()
    assert row.split() == ["mean", "face", "1.500"]
    assert files == "runs/a/scans.json: all numbers; runs/a/scans.png: curves"
    assert (first, second) == ("left out: a.jpg: nobody is on it", "left out: b.jpg: too")


def test_evaluate_of_the_shipped_model(shipped, tmp_path, monkeypatch, capsys):
    """It becomes a run folder of its own, which takes the results."""
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "measured"
    assert "clips is not a folder" in fails(["evaluate", "--data", "clips", "--out", out], capsys) and not out.exists()
    Path("clips").mkdir()
    runs = []
    monkeypatch.setattr("fmlfast.evaluation.run.evaluate_run", lambda run, *a, **k: runs.append(run) or {})
    monkeypatch.setattr("fmlfast.evaluation.report.write_report", lambda run: run / "report.html")
    for _ in range(2):  # the second time into the same folder
        cli.main(["evaluate", "--data", "clips", "--out", str(out)])
    assert runs == [out, out] and capsys.readouterr().out.startswith(f"{out} on clips")
    for path in shipped.iterdir():
        assert (out / path.name).read_bytes() == path.read_bytes()
    (out / "config.json").write_text("{}")
    options: list[object] = ["evaluate", "--data", "clips", "--out", out]
    assert "measured holds another model than the shipped one" in fails(options, capsys)
    assert "--out is for the model that comes with fmlfast" in fails([*options, "runs/a"], capsys)
    assert "--data or a folder of scans with --scans" in fails(["evaluate", "runs/a"], capsys)
    assert "--data or a folder of scans with --scans" in fails([*options, "--scans", "mine"], capsys)


def test_without_a_shipped_model(photo, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path / "none")
    assert "no trained model" in fails(["reconstruct", photo, "--out", tmp_path / "out"], capsys)
    assert "no trained model" in fails(["evaluate", "--data", tmp_path], capsys)


def test_a_photo_is_reconstructed_by_the_shipped_model(shipped, tmp_path, monkeypatch, capsys):
    """With the real detector: a photo and a video, nothing else given."""
    landmarker()
    media = real_media()
    monkeypatch.chdir(tmp_path)
    cli.main(
        [
            str(a)
            for a in ["reconstruct", media / "single_face.jpg", media / "single_face.mp4", "--frames", 2, "--refine", 2]
        ]
    )
    names = ["single_face", "single_face-00", "single_face-01"]
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[2:]] == names
    stored = json.loads(Path("out/single_face/parameters.json").read_text())["photos"]
    assert [entry["name"] for entry in stored] == names
    assert stored[0]["time"] is None and 0 < stored[1]["time"] < 1.3 < stored[2]["time"] < 2.6
    assert all(0 < entry["landmark_error"] < 20 for entry in stored)


@pytest.fixture
def head(tmp_path: Path) -> Path:
    """The shipped template as a user's folder, in millimetres."""
    return write_own_head(tmp_path / "my_head")


def test_calibrate_ties_a_users_head(head, capsys):
    """With the real detector, on the shipped template, whose own tie is known."""
    landmarker()
    (head / "surface.txt").write_text("of another mesh")
    command = ["calibrate", head, "--unit", "mm", "--views", 40]
    assert "surface.txt exists; add --overwrite" in fails(command, capsys)
    assert (head / "surface.txt").read_text() == "of another mesh"
    cli.main([str(a) for a in [*command, "--overwrite"]])
    first, second = capsys.readouterr().out.splitlines()
    seen, scatter = int(first.split()[0]), float(first.split("by ")[1].split()[0])
    assert 30 <= seen <= 40 and f"{seen} of 40 views showed a face" in first and 0 < scatter < 5
    assert second == f"{head / 'surface.txt'}: written"
    own, shipped, every = FaceTemplate.from_folder(head), FaceTemplate.default(0), torch.arange(478)
    assert len(own.surface_triangles) == 478
    moved = own.surface_points(shipped.vertices, every) - shipped.surface_points(shipped.vertices, every)
    assert float(moved.norm(dim=1).median()) < 5


def test_calibrate_of_a_head_that_is_not_seen(head, monkeypatch, capsys):
    landmarker()
    monkeypatch.setattr(FaceDetector, "observe", lambda *_: Detection.none(1))
    before = sorted(head.iterdir())
    command = ["calibrate", head, "--unit", "mm", "--views", 2]
    error = fails(command, capsys)
    assert "found the head of my_head in 0 of 2 views only" in error and "vertex colours" in error
    assert "views must be positive" in fails([*command[:-1], 0], capsys)
    assert "seem to be in mm: name their unit with --model.template-unit mm of train, --unit mm of" in fails(
        ["calibrate", head, "--unit", "m"], capsys
    )
    assert sorted(head.iterdir()) == before


def test_a_defect_keeps_its_traceback(tmp_path, monkeypatch):
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(reconstruction, "reconstruct", broken)
    with pytest.raises(ZeroDivisionError):
        cli.main(["reconstruct", "a.png", "--checkpoint", "run", "--out", str(tmp_path / "out")])


def test_everyone_in_a_picture_is_reconstructed(tmp_path, capsys):
    """With the real detector: the five people of a picture become five results, from left to right."""
    landmarker()
    out = tmp_path / "group"
    options = ["--face", "all", "--refine", "0", "--texture", "0", "--no-mesh", "--topology", "own"]
    cli.main(["reconstruct", str(real_media() / "multi_face.jpg"), "--out", str(out), *options])
    assert sorted(path.name for path in out.iterdir()) == [f"face-{i}" for i in range(5)]
    people = [Reconstruction.load(folder) for folder in sorted(out.iterdir())]
    places = [person.landmarks[0, :, 0].mean() for person in people]
    assert places == sorted(places) and len(set(places)) == 5
    assert all(len(person.neutral) == len(FaceTemplate.default(0).vertices) for person in people)
    assert capsys.readouterr().out.count("1 photo, mesh of") == 5
    assert not list(out.rglob("*.glb")) and not list(out.rglob("*.obj"))


def test_a_damaged_landmark_model_is_one_line(photo, tmp_path, monkeypatch, capsys):
    pytest.importorskip("mediapipe")
    (tmp_path / "bad.task").write_bytes(b"damaged")
    monkeypatch.setenv("FMLFAST_FACE_LANDMARKER", str(tmp_path / "bad.task"))
    error = fails(["reconstruct", photo, "--out", tmp_path / "out"], capsys)
    assert "bad.task is no face landmark model of MediaPipe, or damaged" in error and "FMLFAST_FACE_LANDMARKER" in error
