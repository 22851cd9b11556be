"""The command's help page, its version, its errors, and `fmlfast info`."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import fmlfast
from fmlfast import cli
from fmlfast.cli import info
from fmlfast.model.fml import FML
from tests.helpers.command import fails
from tests.helpers.videos import write_video

ROOT = Path(__file__).parents[1]


def run_module(*arguments: str, columns: int = 100) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"COLUMNS": str(columns)}
    command = [sys.executable, "-m", "fmlfast", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def test_help_is_one_page_that_names_every_command():
    for arguments in ((), ("--help",), ("-h",)):
        done = run_module(*arguments)
        lines = done.stdout.splitlines()
        assert done.returncode == 0 and len(lines) <= 40 and max(map(len, lines)) <= 100
        for name in ("prepare", "synthesize", "train", "reconstruct", "evaluate", "export", "calibrate", "info"):
            assert any(line.startswith(f"  {name} ") for line in lines), name


def test_the_version_is_printed():
    assert run_module("--version").stdout == f"fmlfast {fmlfast.__version__}\n"


def test_an_unknown_command_is_one_line_with_the_nearest(capsys):
    assert "no command 'recontsruct'; did you mean reconstruct?" in fails(["recontsruct"], capsys)
    assert "fmlfast --help lists all" in fails(["xyz"], capsys)


@pytest.mark.parametrize("name", ["reconstruct", "track", "export", "view", "prepare", "evaluate", "calibrate", "info"])
def test_a_commands_help_does_not_wait_for_torch(name):
    code = f"""
import sys, fmlfast.cli
try:
    fmlfast.cli.main([{name!r}, "--help"])
except SystemExit as error:
    assert error.code in (0, None)
assert not {{"torch", "mediapipe"}} & sys.modules.keys()
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and f"usage: fmlfast {name}" in done.stdout, done.stderr


def test_train_is_the_page_of_the_repository():
    script = [sys.executable, "train.py", "--help"]
    environment = os.environ | {"COLUMNS": "100"}
    page = subprocess.run(script, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout
    own = run_module("train", "--help").stdout
    assert "--model.template-unit" in own and own.replace("fmlfast train", "train.py", 1) == page


@pytest.mark.parametrize("program", [("train.py",), ("-m", "fmlfast", "reconstruct", "face.jpg")])
def test_ctrl_c_while_torch_loads_ends_in_one_line(program, tmp_path):
    code = "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nraise SystemExit('went on')\n"
    (tmp_path / "torch.py").write_text(code)
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    done = subprocess.run([sys.executable, *program], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


def test_synthesize_has_the_generators_settings():
    assert "--val-people" in run_module("synthesize", "--help").stdout


def test_info_describes_the_installation(capsys):
    cli.main(["info"])
    lines = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
    assert lines["fmlfast"].strip().startswith(fmlfast.__version__)
    assert lines["torch"].strip() == torch.__version__
    assert "backend torch" in str(lines) and "sha256" in lines["shipped model"]


def test_info_says_what_is_missing_and_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setattr(info.metadata, "requires", lambda _: ["numpy", 'no-such-thing>=2; extra == "video"'])
    assert info._extras() == {"video": ["no-such-thing"]}
    assert info._extra("video", ["no-such-thing"]) == "no-such-thing missing: pip install 'fmlfast[video]'"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("FMLFAST_FACE_LANDMARKER", raising=False)
    assert "first use downloads it" in info._detector()
    (tmp_path / "fmlfast").mkdir()
    (tmp_path / "fmlfast" / "face_landmarker.task").write_bytes(b"damaged")
    assert "damaged; the next use downloads it anew" in info._detector()


def test_info_describes_runs_and_clips_and_refuses_the_rest(tmp_path: Path, model: FML, synthetic_folder: Path, capsys):
    model.save(tmp_path / "run")
    (tmp_path / "run" / "metrics.jsonl").write_text('{"step": 20}\n{"step": 40}\n')
    cli.main(["info", str(tmp_path / "run")])
    shown = capsys.readouterr().out
    assert "sha256" in shown and "makehuman-face" in shown and "40 steps" in shown
    cli.main(["info", str(synthetic_folder)])
    shown = " ".join(capsys.readouterr().out.split())
    assert "split train 6 clips, 24 frames with ground truth" in shown and "fmlfast.data.synthetic, version" in shown
    assert "none: no such file or folder" in fails(["info", tmp_path / "none"], capsys)
    assert "is no run, reconstruction, tracked video, folder of clips or video" in fails(["info", tmp_path], capsys)
    (tmp_path / "run" / "config.json").write_text("{")
    assert "config.json: damaged" in fails(["info", tmp_path / "run"], capsys)


def test_info_describes_a_video(tmp_path, capsys):
    frames = [np.full((48, 64, 3), level, np.uint8) for level in (0, 80, 160)]
    cli.main(["info", str(write_video(tmp_path / "grey.mkv", frames))])
    shown = " ".join(capsys.readouterr().out.split())
    assert "picture 64 x 48 px, ffv1" in shown and "12 a second" in shown and "sound none" in shown
    (tmp_path / "a.mp4").write_text("no video")
    assert "a.mp4: cannot be opened as a video" in fails(["info", tmp_path / "a.mp4"], capsys)
