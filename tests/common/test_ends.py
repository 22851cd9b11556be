"""How processes end: by Ctrl-C, by SIGTERM, or killed, and with them their workers."""

import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from fmlfast.common.child_processes import WorkerPool
from fmlfast.common.termination import Terminated, ends_in_one_line, orderly_termination, uninterrupted
from tools.torture.children import forked

pytest.importorskip("fcntl")

POOL = """
import os, sys, time
from pathlib import Path
from fmlfast.common.child_processes import WorkerPool
from fmlfast.common.locks import lock_folder
from fmlfast.common.termination import ends_in_one_line

def work(folder):
    Path(folder, f"worker-{os.getpid()}").touch()
    time.sleep(600)

if __name__ == "__main__":
    with ends_in_one_line(), lock_folder(sys.argv[1]), WorkerPool(2) as pool:
        list(pool.map(work, [sys.argv[1]] * 8))
"""


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc here")
@pytest.mark.parametrize(
    ("number", "told", "status"),
    [(signal.SIGINT, "interrupted\n", 130), (signal.SIGTERM, "terminated\n", 143), (signal.SIGKILL, "", -9)],
)
def test_workers_end_with_their_parent(tmp_path: Path, number: signal.Signals, told: str, status: int) -> None:
    script, folder = tmp_path / "script.py", tmp_path / "folder"
    script.write_text(POOL)
    folder.mkdir()
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, str(script), str(folder)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True)
    until = time.monotonic() + 120
    while len(workers := [int(path.name[7:]) for path in folder.glob("worker-*")]) < 2:
        assert time.monotonic() < until and process.poll() is None
        time.sleep(0.05)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does
    else:
        process.send_signal(number)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == status and "Traceback" not in said
    assert said == told or status < 0  # Python's resource tracker tells what it cleans up after the killed one
    until = time.monotonic() + 60
    while any(map(alive, workers)):
        assert time.monotonic() < until
        time.sleep(0.05)
    assert (status < 0) == any(folder.glob(".*"))  # of the killed one the lock stays, until the next


def test_calls_cancelled_before_workers_end_print_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    failed, shutdown = [], ProcessPoolExecutor.shutdown

    def late(*args: Any, **kwargs: Any) -> None:
        time.sleep(1)
        shutdown(*args, **kwargs)

    monkeypatch.setattr(threading, "excepthook", failed.append)
    monkeypatch.setattr(ProcessPoolExecutor, "shutdown", late)
    with pytest.raises(KeyboardInterrupt), WorkerPool(1) as pool:
        calls = [pool.submit(time.sleep, 600) for _ in range(4)]
        while not calls[1].running():  # handed to the worker, as is the first
            time.sleep(0.01)
        for call in calls:
            call.cancel()
        raise KeyboardInterrupt
    assert not failed


@pytest.mark.parametrize(
    ("error", "status", "told"),
    [
        (ValueError("a\nb"), 2, "error: a b\n"),
        (OSError(28, "No space left", "file"), 2, "error: [Errno 28] No space left: 'file'\n"),
        (FloatingPointError("nan"), 2, "error: nan\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (Terminated(signal.SIGTERM), 143, "terminated\n"),
    ],
)
def test_commands_end_in_one_line(
    error: BaseException, status: int, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped, ends_in_one_line(), ends_in_one_line():  # fmlfast train is in fmlfast
        raise error
    assert stopped.value.code == status and capsys.readouterr() == ("", told)


def test_names_that_are_no_unicode_are_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, "ascii"))
    with ends_in_one_line():
        print(os.fsdecode(b"out/a\xff"), "é", flush=True)
    assert shown.getvalue().split() == [b"out/a\\udcff", b"\\xe9"]


def test_defects_keep_their_traceback() -> None:
    with pytest.raises(ZeroDivisionError), ends_in_one_line():
        raise ZeroDivisionError


@pytest.fixture
def not_ignored() -> Iterator[None]:
    """Signals end this process, also where it was started by nohup."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("not_ignored")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signals_unwind_and_are_given_back(number: signal.Signals) -> None:
    done = []
    with pytest.raises(Terminated) as stopped, orderly_termination():
        try:
            os.kill(os.getpid(), number)
            time.sleep(60)
        finally:
            done.append(number)
    assert done and stopped.value.code == 128 + number
    assert signal.getsignal(number) is signal.SIG_DFL


@pytest.mark.usefixtures("not_ignored")
@pytest.mark.parametrize(
    ("number", "raised"),
    [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated), (signal.SIGHUP, Terminated)],
)
def test_what_must_not_be_interrupted_is_finished_first(number: signal.Signals, raised: type[BaseException]) -> None:
    done = []
    with orderly_termination():
        with pytest.raises(raised):
            with uninterrupted():
                with uninterrupted():
                    os.kill(os.getpid(), number)
                    done.append("inner")
                done.append("outer")
            done.append("after")
        with uninterrupted():
            pass  # it was told once
    assert done == ["inner", "outer"]


def test_a_handler_of_the_program_s_own_stays() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with orderly_termination():
            os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_forked_child_ends_without_its_parent_s_work() -> None:
    def child() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)

    with orderly_termination():
        assert forked(child) == 143
