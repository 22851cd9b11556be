"""Folders that one process at a time writes, and what is left of processes that were killed."""

import json
import os
import signal
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from fmlfast.common import locks
from fmlfast.common.atomic import atomic_path
from fmlfast.common.locks import IN_FOLDER, SILENCE, LockFile, lock_folder, lock_new_folder
from tools.torture.children import all_at_once, forked, refused

pytest.importorskip("fcntl")


def enter(folder: Path) -> None:
    with lock_folder(folder):
        pass


def killed(folder: Path) -> None:
    """Locks a folder and is killed, half a file beside."""

    def work() -> None:
        with lock_folder(folder), atomic_path(folder / "table.json") as temporary:
            temporary.write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)

    assert forked(work) == -signal.SIGKILL


def test_a_second_process_is_refused_and_told_who_writes(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    with lock_folder(folder):
        told = refused(lambda: enter(folder))
        assert told.startswith(f"{folder} is being written by process {os.getpid()} of this machine since ")
        assert "choose another folder" in told
    assert not (tmp_path / "a").exists()  # nothing was written
    assert refused(lambda: enter(folder)) == ""


def test_a_thread_may_hold_again_but_not_another_one(tmp_path: Path) -> None:
    errors: list[BaseException] = []

    def other() -> None:
        try:
            enter(tmp_path)
        except BlockingIOError as error:
            errors.append(error)

    with lock_folder(tmp_path):
        enter(tmp_path)
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert (tmp_path / IN_FOLDER).exists()
    assert len(errors) == 1 and not list(tmp_path.iterdir())


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    killed(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2  # lock and scratch folder
    with lock_folder(tmp_path):
        assert [path.name for path in tmp_path.iterdir()] == [IN_FOLDER]
    killed(tmp_path)
    with atomic_path(tmp_path / "other.json") as temporary:  # without a lock, too
        temporary.write_text("whole")
    assert [path.name for path in tmp_path.iterdir()] == ["other.json"]


def test_what_living_processes_use_is_left_alone(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "table.json") as temporary:
        temporary.write_text("whole")
        assert forked(lambda: enter(tmp_path)) == 0
    assert (tmp_path / "table.json").read_text() == "whole"


ELSEWHERE = json.dumps({"host": "elsewhere", "pid": 12, "since": "2026-01-01 00:00:00"})


def test_another_machine_s_holder_is_dead_after_a_minute_of_silence(tmp_path: Path) -> None:
    lock = tmp_path / IN_FOLDER
    lock.write_text(ELSEWHERE)
    old = time.time() - SILENCE - 1
    os.utime(lock, (old, old))
    enter(tmp_path)
    assert not lock.exists()


def test_the_minute_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / IN_FOLDER).write_text(ELSEWHERE)
    monkeypatch.setattr(locks, "SILENCE", 2.0)
    enter(tmp_path)
    assert not list(tmp_path.iterdir())


def test_another_machine_s_holder_that_shows_signs_of_life_is_named(tmp_path: Path) -> None:
    lock = tmp_path / IN_FOLDER
    lock.write_text(ELSEWHERE)
    alive = threading.Event()

    def touch() -> None:
        while not alive.wait(0.2):
            os.utime(lock)

    thread = threading.Thread(target=touch)
    thread.start()
    with pytest.raises(BlockingIOError, match="process 12 on elsewhere since 2026-01-01 00:00:00: wait until it ends"):
        enter(tmp_path)
    alive.set()
    thread.join()


def test_where_the_kernel_has_no_locks_signs_of_life_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "_kernel_lock", lambda file: None)
    monkeypatch.setattr(locks, "BEAT", 0.2)
    monkeypatch.setattr(locks, "_beater", None)
    with lock_folder(tmp_path):
        assert f"process {os.getpid()} of this machine" in refused(lambda: enter(tmp_path))
    killed(tmp_path)
    old = time.time() - SILENCE - 1
    os.utime(tmp_path / IN_FOLDER, (old, old))
    enter(tmp_path)


def test_holders_show_that_they_live(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "BEAT", 0.01)
    monkeypatch.setattr(locks, "_beater", None)
    with lock_folder(tmp_path):
        os.utime(tmp_path / IN_FOLDER, (0, 0))
        until = time.monotonic() + 60
        while not (tmp_path / IN_FOLDER).stat().st_mtime:
            assert time.monotonic() < until
            time.sleep(0.01)
    assert not list(tmp_path.iterdir())


def test_processes_take_turns(tmp_path: Path) -> None:
    counter, folder = tmp_path / "counter", tmp_path / "folder"
    counter.write_text("0")

    def count() -> None:
        done = 0
        while done < 20:
            with suppress(BlockingIOError), lock_folder(folder):  # on a busy machine another one may be faster
                counter.write_text(str(int(counter.read_text()) + 1))
                done += 1

    assert all_at_once([count] * 3) == [0, 0, 0]
    assert counter.read_text() == "60"


def test_a_child_that_outlives_its_parent_does_not_hold_its_lock(tmp_path: Path) -> None:
    reader, writer = os.pipe()

    def work() -> None:
        with lock_folder(tmp_path):
            if os.fork() == 0:  # as a data loader's worker
                os.close(writer)
                os.read(reader, 1)  # until the test is over
                os._exit(0)
            os.kill(os.getpid(), signal.SIGKILL)

    assert forked(work) == -signal.SIGKILL
    enter(tmp_path)
    os.close(writer)
    os.close(reader)


def test_two_locks_of_one_file_are_two_holders(tmp_path: Path) -> None:
    first, second = LockFile(tmp_path / "lock"), LockFile(tmp_path / "lock")
    assert first.acquire() and not second.acquire()
    assert first.holder()["pid"] == os.getpid() and first.holder()["host"] == socket.gethostname()
    first.release()
    first.release()
    assert second.acquire()
    second.release()
    assert not list(tmp_path.iterdir())


def test_a_place_without_a_name_in_unicode_is_refused(tmp_path: Path) -> None:
    for hold_it in (lock_folder, lock_new_folder):
        with pytest.raises(OSError, match="cannot be written: its name is no UTF-8"), hold_it(tmp_path / "a\udcff"):
            raise AssertionError("held")
    assert list(tmp_path.iterdir()) == []


def test_a_new_folder_is_made_by_one_process(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"

    def make() -> None:
        with lock_new_folder(out):
            pass

    with lock_new_folder(out) as folder:
        assert folder == out and "is being written by" in refused(make)
    assert not list(tmp_path.iterdir())
    out.mkdir(parents=True)
    with pytest.raises(FileExistsError, match="out exists; remove it or choose another output"):
        make()
    assert not list(out.parent.glob(".*"))
