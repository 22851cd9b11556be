import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from real_media import landmarker, real_media

from fmlfast import cli, reconstruction
from fmlfast.system import FML


def fails(arguments: list[object], capsys: pytest.CaptureFixture[str]) -> str:
    """Runs a command that must fail as the user's mistake; its only line on stderr."""
    with pytest.raises(SystemExit) as caught:
        cli.main([str(a) for a in arguments])
    assert caught.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("error: ") and captured.err.count("\n") == 1
    return captured.err


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    image = np.random.default_rng(0).integers(0, 256, (90, 111, 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_reconstruct_passes_its_arguments_and_saves(photo, tmp_path, monkeypatch, capsys):
    calls = []

    @dataclass
    class Result:
        neutral: tuple[int, ...] = (1, 2, 3)

        def save(self, folder: Path) -> None:
            calls.append(folder)

    monkeypatch.setattr(reconstruction, "reconstruct", lambda *a, **k: calls.append((a, k)) or Result())
    out = tmp_path / "out"
    cli.main(
        ["reconstruct", str(photo), "b.jpg", "--checkpoint", "run", "--out", str(out), "--face", "2", "--refine", "7"]
    )
    assert calls == [(((photo, Path("b.jpg")), Path("run")), {"face": 2, "refine": 7}), out]
    assert capsys.readouterr().out == f"{out}: 2 photos, mesh of 3 vertices\n"


def test_bad_input_is_one_line_and_no_output(photo, tmp_path, model, capsys):
    model.save(tmp_path / "run")
    small = tmp_path / "small.png"
    Image.new("RGB", (16, 16)).save(small)
    (tmp_path / "text.jpg").write_text("text")
    existing = tmp_path / "existing"
    existing.mkdir()
    out, run = tmp_path / "out", tmp_path / "run"
    before = sorted(tmp_path.rglob("*"))

    def reconstruct(image: Path, checkpoint: Path = run, out: Path = out) -> str:
        return fails(["reconstruct", image, "--checkpoint", checkpoint, "--out", out], capsys)

    assert "small.png: 16x16 pixels is too small" in reconstruct(small)
    assert "text.jpg: cannot be read as an image" in reconstruct(tmp_path / "text.jpg")
    assert "absent.png: no such image" in reconstruct(tmp_path / "absent.png")
    assert "is not a finished run" in reconstruct(photo, checkpoint=tmp_path / "no-run")
    assert "existing exists; remove it or choose another" in reconstruct(photo, out=existing)
    assert "no such file or folder" in fails(["prepare", tmp_path / "no-videos", "--out", out], capsys)
    assert "rate must be positive" in fails(["prepare", photo, "--out", out, "--rate", 0], capsys)
    assert "no images given" in fails(["reconstruct", "--checkpoint", run, "--out", out], capsys)
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
    calls = []
    row = {"vertex_mm": 1.25, "landmark_nme": 2.5, "neutral_mm": None}

    def evaluate_run(*arguments: object, **options: object) -> dict[str, object]:
        calls.append((arguments, options))
        return {"mean_face": row, "people": 3, "spread": {"mean_face": {}}}

    monkeypatch.setattr("fmlfast.evaluate.evaluate_run", evaluate_run)
    cli.main(["evaluate", "runs/a", "--data", "clips", "--split", "val", "--refine", "3"])
    assert calls == [((Path("runs/a"), Path("clips"), "val"), {"refine_steps": 3})]
    (line,) = capsys.readouterr().out.splitlines()
    assert line.split() == ["mean_face", "vertex_mm", "1.250", "landmark_nme", "2.500"]


def test_a_defect_keeps_its_traceback(tmp_path, monkeypatch):
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(reconstruction, "reconstruct", broken)
    with pytest.raises(ZeroDivisionError):
        cli.main(["reconstruct", "a.png", "--checkpoint", "run", "--out", str(tmp_path / "out")])


def test_help_names_the_subcommands():
    result = subprocess.run([sys.executable, "-m", "fmlfast.cli", "--help"], capture_output=True, text=True, check=True)
    for name in ("prepare", "reconstruct", "evaluate"):
        assert f"• {name}" in result.stdout
