"""The run on a GPU in one command: its parts, and what becomes of one that fails, hangs, or cannot run here."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu import versions
from benchmarks.gpu.parts import PARTS, STEPS, TOTAL, Folders, Part, training_steps
from benchmarks.harness.rows import Row, write_rows
from tests.helpers.pages import check


def part(name: str, code: str, seconds: float = 60.0, **options) -> Part:
    return Part(name, seconds, lambda *_: [sys.executable, "-c", code], f"the part {name}", False, **options)


def cells(results: Path) -> dict[str, list[str]]:
    """The table of summary.md: how each part ended, and what it printed last."""
    lines = (results / "summary.md").read_text().splitlines()[4:]
    rows = [line[2:-2].split(" | ") for line in lines]
    return {row[0]: row[2:4] for row in rows}


@pytest.mark.skipif(torch.cuda.is_available(), reason="would measure")
def test_without_a_gpu_the_command_says_what_it_could_not_measure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRITON_INTERPRET")
    with pytest.raises(SystemExit) as ended:
        gpu.main(["--out", str(tmp_path / "out"), "--seconds", "30"])
    assert ended.value.code == 0
    found = cells(tmp_path / "out")
    assert list(found) == [part.name for part in PARTS]
    assert all(found[part.name] == [gpu.NOT_MEASURED, "needs a GPU"] for part in PARTS if part.needs_gpu)
    assert {part.name for part in PARTS if not part.needs_gpu} == {"versions", "compile"}
    assert all(found[name][0].startswith((gpu.DONE, "stopped after")) for name in ("versions", "compile"))
    log = (tmp_path / "out" / "log.txt").read_text()
    assert "== compile: python -m benchmarks.compile" in log and str(tmp_path) not in log.split("Traceback")[0]


def test_all_of_it_fits_into_nine_minutes_and_eight_files() -> None:
    assert TOTAL <= 535  # and what starts and ends a process
    kept = {name for part in PARTS for name in part.keeps.values()}
    assert kept == {"stages.md", "training.jsonl", "evaluation.json"}  # with summary.md, log.txt and two tables: 7


@pytest.mark.parametrize("chosen", PARTS, ids=lambda part: part.name)
def test_every_program_takes_its_command_line(chosen: Part, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "clips").mkdir()
    command = chosen.command(Folders(tmp_path / "out", tmp_path), 60.0)
    check(["python", *command[command.index(sys.executable) + 1 :]], monkeypatch)


def test_a_part_that_fails_or_hangs_is_recorded_and_the_next_one_runs(tmp_path: Path) -> None:
    write = "import os, signal, sys, time; print('begun', flush=True);"
    interrupted = f"{write}\ntry: time.sleep(600)\nexcept KeyboardInterrupt: print('1 passed')"
    child = "import time; time.sleep(600)"
    stubborn = (
        f"{write} signal.signal(signal.SIGINT, signal.SIG_IGN); import subprocess;"
        f"print(subprocess.Popen([sys.executable, '-c', {child!r}]).pid, flush=True); time.sleep(600)"
    )
    parts = [
        part("broken", "import sys; sys.exit('error: no | luck')"),
        part("slow", interrupted, 3.0),
        part("stubborn", stubborn, 3.0),
        part("absent", "", program="no-such-program"),
        part("late", "print('fine'); print()"),
    ]
    found = gpu.run(parts, tmp_path, 186.0)
    shown = cells(tmp_path)
    assert found == {name: state for name, (state, _) in shown.items()}
    assert shown["broken"] == ["failed: exit status 1", "error: no \\| luck"]
    assert shown["slow"][0] == shown["stubborn"][0] == "stopped after 3 s"
    assert shown["slow"][1] in ("1 passed", "KeyboardInterrupt", "nothing")  # by when the machine came to it
    assert shown["absent"] == [gpu.NOT_MEASURED, "no-such-program is not on the PATH"]
    assert shown["late"] == [gpu.DONE, "fine"]
    if shown["stubborn"][1].isdigit():
        wait_for_end(int(shown["stubborn"][1]))


def wait_for_end(process: int) -> None:
    """Fails where a process goes on; a zombie that nobody collects has ended."""
    for _ in range(200):
        stat = Path(f"/proc/{process}/stat")
        if not stat.exists() or stat.read_text().rsplit(")", 1)[1].split()[0] == "Z":
            return
        time.sleep(0.05)
    os.kill(process, signal.SIGKILL)
    pytest.fail("a child went on")


def test_what_a_part_found_is_on_disk_before_the_next_begins(tmp_path: Path) -> None:
    def first(folders: Folders, seconds: float) -> list[str]:
        return [sys.executable, "-c", f"open({str(folders.scratch / 'a')!r}, 'w').write('kept'); print('found 7')"]

    def second(folders: Folders, seconds: float) -> list[str]:
        assert (folders.results / "b").read_text() == "kept"
        assert cells(folders.results) == {"first": [gpu.DONE, "found 7"], "second": [gpu.NOT_MEASURED, ""]}
        raise ValueError("columns are not a row's")

    parts = [Part("first", 60, first, "", False, keeps={"a": "b", "none": "c"}), Part("second", 60, second, "", False)]
    assert gpu.run(parts, tmp_path, 120.0)["second"] == gpu.FAILED
    assert cells(tmp_path)["second"][1] == "columns are not a row's" and not (tmp_path / "c").exists()


def test_some_parts_take_their_own_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = []
    monkeypatch.setattr(gpu, "run", lambda parts, results, seconds: given.append((list(parts), seconds)) or {})
    for more in ([], ["--seconds", "30"]):
        with pytest.raises(SystemExit):
            gpu.main(["--out", str(tmp_path), "--only", "tests", "versions", *more])
    assert given == [(list(PARTS[:2]), 125), (list(PARTS[:2]), 30.0)]


def test_without_clips_nothing_is_trained(tmp_path: Path) -> None:
    for name in ("stages", "training"):
        (chosen,) = (part for part in PARTS if part.name == name)
        with pytest.raises(ValueError, match="needs the part clips"):
            chosen.command(Folders(tmp_path, tmp_path), 60.0)


def test_a_failed_part_fails_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "PARTS", (part("versions", "import sys; sys.exit(3)"), part("tests", "1/0")))
    with pytest.raises(SystemExit, match="error: failed: versions; see .*log.txt"):
        gpu.main(["--out", str(tmp_path), "--only", "versions"])


def test_training_takes_the_steps_that_its_time_has_room_for(tmp_path: Path) -> None:
    assert training_steps(tmp_path, 120.0) == STEPS
    shapes = {"triton": ("base preset, 16 x 4", 10.0), "triton, no graph": ("base preset, 16 x 4", 15.0)}
    rows = [Row("training step", "step", who, shape, median_ms=ms) for who, (shape, ms) in shapes.items()]
    rows += [Row("training step", "step", "torch", "cpu preset", median_ms=1.0), Row("render", "forward", "torch", "x")]
    write_rows(tmp_path / "cuda.csv", rows)
    assert training_steps(tmp_path, 120.0) == 6000


def test_versions_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    versions.main()
    line = capsys.readouterr().out
    assert line.count("\n") == 1
    for word in (f"torch {torch.__version__}", "triton ", f"Python {sys.version.split()[0]}", "commit ", "peers: "):
        assert word in line
