"""Progress bars: redrawn on a terminal, lines in a log."""

import io
import re
from pathlib import Path

import pytest

from fmlfast.common import progress
from fmlfast.common.progress import ProgressBar

ROOT = Path(__file__).parents[1]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, seconds, that bars see; it passes where a test says so."""
    now = [100.0]
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_log_gets_a_line_now_and_then_and_one_at_the_end(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with ProgressBar(total=25, desc="clips", unit="clip") as bar:
        for n in range(25):
            clock[0] += 1.0
            bar.update()
            bar.set_postfix_str(f"last {n}")  # asks for a new picture each time
    lines = capsys.readouterr().err.split("\n")
    assert lines.pop() == ""
    states = [re.search(r"clips: .* (\d+)/25 \[([\d:]+)<([\d:]+), +([\d.]+)clip/s", line) for line in lines]
    assert [found and found.groups() for found in states] == [
        ("10", "00:10", "00:15", "1.00"),
        ("20", "00:20", "00:05", "1.00"),
        ("25", "00:25", "00:00", "1.00"),
    ]


def test_what_was_done_before_an_error_is_said_once(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError), ProgressBar(total=5, initial=1) as bar:
        clock[0] += 20.0
        bar.update(2)
        raise RuntimeError
    bar.close()
    text = capsys.readouterr().err
    assert text.count("\n") == 1 and " 3/5 " in text and "\r" not in text


def test_a_bar_around_a_loop_counts_to_its_end(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    for _ in ProgressBar(range(3), desc="videos"):
        clock[0] += 4.0
    ProgressBar(total=3).close()  # nothing was done
    text = capsys.readouterr().err
    assert text.count("\n") == 1 and text.startswith("videos: 100%") and " 3/3 " in text


def test_other_output_leaves_the_lines_of_a_log_alone(clock: list[float], capfd: pytest.CaptureFixture[str]) -> None:
    with ProgressBar(total=2) as bar:
        bar.write("found")
        bar.update(2)
    out, err = capfd.readouterr()
    assert out == "found\n" and "\r" not in err


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr("sys.stderr", terminal)
    with ProgressBar(total=2, mininterval=0) as bar:
        bar.update()
        bar.update()
    text = terminal.getvalue()
    assert text.count("\r") >= 3 and text.count("\n") == 1 and "1/2" in text


def test_every_bar_is_one_of_these() -> None:
    folders = ("fmlfast", "kernels", "benchmarks", "tools")
    files = [ROOT / "train.py", *(path for folder in folders for path in (ROOT / folder).rglob("*.py"))]
    assert [path.name for path in files if re.search(r"(from|import) tqdm", path.read_text())] == ["progress.py"]
