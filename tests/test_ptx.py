"""The emulator of compiled kernels: its own tests, and that what it finds fails a test."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tools.ptx import check

needed = pytest.mark.skipif(check.missing() is not None, reason=str(check.missing()))


def emulated(*tests: Path | str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "tools.ptx.check", *map(str, tests)]
    return subprocess.run(command, cwd=check.ROOT, env=environment, capture_output=True, text=True)


@needed
def test_the_emulator_knows_results_and_finds_planted_faults() -> None:
    done = emulated(*check.OWN)
    assert done.returncode == 0, done.stdout[-3000:]
    assert re.search(r"\b[1-9]\d* launches", done.stdout) and "FINDING" not in done.stdout


WRONG = """
import torch
from tools.ptx.sample_kernels import in_place_kernel

def test_a_race() -> None:
    in_place_kernel[(1,)](torch.zeros(32), BLOCK=32, num_warps=4)
"""


@needed
def test_a_test_fails_where_its_launch_does_wrong(tmp_path: Path) -> None:
    file = tmp_path / "test_wrong.py"
    file.write_text(WRONG)
    done = emulated(file)
    assert done.returncode == 1 and "race read-write" in done.stdout, done.stdout[-3000:]


def test_what_the_emulator_lacks_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr("sys.argv", ["check"])
    assert check.main() == 0
    assert capsys.readouterr().out == f"skipped: {check.missing()}\n"


def test_all_tests_that_are_named_exist() -> None:
    named = [*check.OWN, *check.TESTS, *check.QUICK]
    assert [name for name in named if not (check.ROOT / name.split("::")[0]).exists()] == []
