"""The emulator of compiled kernels: its own tests, and that what it finds fails a test."""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tools.ptx import check
from tools.ptx.execute import Finding
from tools.ptx.report import Report, outcome

needed = pytest.mark.skipif(check.missing() is not None, reason=str(check.missing()))


def emulated(*command: Path | str, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    line = [sys.executable, "-m", *map(str, command)]
    return subprocess.run(line, cwd=check.ROOT, env=inherited | environment, capture_output=True, text=True)


@needed
def test_the_emulator_knows_results_and_finds_planted_faults() -> None:
    done = emulated("tools.ptx.check", *check.OWN)
    assert done.returncode == 0, done.stdout[-3000:]
    for name in check.OWN:  # in one table, whichever process ran them
        assert re.search(rf"[1-9]\d* +[1-9]\d* +0 +\d+ +\S+  {name}\n", done.stdout), done.stdout[-3000:]
    assert "FINDING" not in done.stdout


WRONG = """
import pytest
import torch
from tools.ptx.sample_kernels import in_place_kernel

def launch() -> None:
    in_place_kernel[(1,)](torch.zeros(32), BLOCK=32, num_warps=4)

@pytest.fixture(scope="module")
def launched() -> None:
    launch()

def test_a_race(launched: None) -> None: ...

def test_another() -> None:
    launch()
"""


@needed
def test_a_test_fails_where_its_launch_does_wrong(tmp_path: Path) -> None:
    file, report = tmp_path / "test_wrong.py", tmp_path / "report.jsonl"
    file.write_text(WRONG)
    done = emulated("tools.ptx.check", "--jobs", "0", file, PTX_REPORT=str(report))
    assert done.returncode == 1 and "2 passed, 2 errors" in done.stdout, done.stdout[-3000:]
    assert "FINDING: race read-write, 2 times" in done.stdout
    found = [json.loads(line) for line in report.read_text().splitlines()]
    assert {f["test"].split("::")[1] for f in found if not f["benign"]} == {"test_a_race", "test_another"}


@needed
def test_kernels_that_no_test_launched_are_named_and_fail_the_run(tmp_path: Path) -> None:
    file = tmp_path / "test_nothing.py"
    file.write_text("def test_nothing() -> None: ...\n")
    done = emulated("pytest", "-p", "tools.ptx.plugin", "--every-kernel", file)
    assert done.returncode == 1 and "1 passed" in done.stdout, done.stdout[-3000:]
    assert "NOT LAUNCHED: rasterize_micro_kernel\n" in done.stdout


def test_what_tests_ran_is_added_up() -> None:
    race, equal = Finding("race read-write", "a_kernel", "x"), Finding("race of equal values", "b_kernel", "x")
    report = Report()
    report.add("one.py::test_a", outcome(Counter(a_kernel=3), [race, equal], 30.0))
    report.add("two.py::test_b", outcome(Counter(), [], 30.0))
    report.add("one.py::test_c[x]", outcome(Counter(a_kernel=1, sample_kernel=1), [], 60.0))
    assert report.lines(["a_kernel", "b_kernel"])[1:] == [
        "     2         5         1       1      1.5  one.py",
        "     0         0         0       0      0.5  two.py",
        "     2         5         1       1      2.0  in all",
        "1 of 2 kernels launched",
        "FINDING: race read-write, 1 times",
        "benign: race of equal values, 1 times",
    ]
    assert report.missing(["a_kernel", "b_kernel"]) == ["b_kernel"]


def test_what_the_emulator_lacks_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr("sys.argv", ["check"])
    assert check.main() == 0
    assert capsys.readouterr().out == f"skipped: {check.missing()}\n"


def test_all_tests_that_are_named_exist() -> None:
    named = [*check.OWN, *check.LARGE, *check.WHOLE, *check.TESTS, *check.QUICK]
    assert [name for name in named if not (check.ROOT / name.split("::")[0]).exists()] == []
