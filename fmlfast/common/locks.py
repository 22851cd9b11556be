"""Lets one process at a time write a folder, names it to the others, and removes what killed ones left behind.

A lock is a file that the kernel locks for its holder, and that holds its machine and number. The kernel frees it when
the holder dies. Where the kernel cannot tell (the holder is on another machine, or the file system or Windows has no
such locks), a holder is alive as long as it touches its file, which it does every ten seconds: after a minute of
silence it counts as dead.
"""

import errno
import json
import os
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from fmlfast.common.termination import orderly_termination, uninterrupted

SUFFIX = ".fmlfast"  # of lock files and scratch folders, whose names begin with a dot
IN_FOLDER = f".lock{SUFFIX}"  # the lock file of the folder that it lies in
BEAT, SILENCE = 10.0, 60.0  # s: between two signs of life, and without any before a holder counts as dead
_PATIENCE = 1.0  # s that a lock is tried for, as others look into it to see whether its holder is alive

_held: set["LockFile"] = set()
_threads: set[tuple[Path, int]] = set()  # locks of folders, and the thread that holds each
_beater: threading.Thread | None = None


class LockFile:
    """A lock file, which exists while it is held; or longer, where its holder was killed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.surely_held = False  # after a failed `acquire`: by what the kernel says, not by signs of life
        self._file: BinaryIO | None = None

    def acquire(self) -> bool:
        """Takes the lock; False while a living process or another thread holds it."""
        while True:
            file = os.fdopen(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666), "r+b", buffering=0)
            locked = _kernel_lock(file)
            self.surely_held = locked is False
            if self.surely_held or self._alive(bool(locked)):
                file.close()
                return False
            if self._names(file):
                break
            file.close()  # removed meanwhile by its last holder
        holder = {"host": socket.gethostname(), "pid": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        record = json.dumps(holder).encode()
        try:
            file.truncate()
            if file.write(record) < len(record):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            file.close()
            raise OSError(error.errno, error.strerror, str(self.path)) from error
        self._file = file
        _held.add(self)
        _start_beating()
        return True

    def release(self) -> None:
        """Gives the lock back, and removes its file."""
        file, self._file = self._file, None
        if file is None:
            return
        _held.discard(self)
        with file, suppress(OSError):  # Windows removes no open file, but an empty one names nobody
            file.truncate(0)
            if self._names(file):
                self.path.unlink()

    def forget(self) -> None:
        """Drops a lock that is another process's: of the one that this was forked from."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def touch(self) -> None:
        """Shows that the holder lives."""
        with suppress(OSError):
            os.utime(self.path)

    def touched(self) -> int | None:
        """Returns when the holder last showed that it lives, ns; None where there is no file."""
        with suppress(OSError):
            return self.path.stat().st_mtime_ns
        return None

    def holder(self) -> dict[str, Any]:
        """Reads who holds the lock: `host`, `pid` and `since`; empty where nobody does or it cannot be read."""
        try:
            with self.path.open("rb") as file:
                found = json.loads(file.read(1000))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _alive(self, locked: bool) -> bool:
        """Tells whether the holder that the file names is alive, where the kernel does not say otherwise."""
        holder = self.holder()
        if not holder or (locked and holder.get("host") == socket.gethostname()):
            return False
        with tempfile.TemporaryFile(dir=self.path.parent) as now, suppress(FileNotFoundError):  # by the disk's clock
            return os.fstat(now.fileno()).st_mtime - self.path.stat().st_mtime < SILENCE
        return False

    def _names(self, file: BinaryIO) -> bool:
        """Tells whether the path is that of the open file."""
        with suppress(OSError):
            return os.path.samestat(os.fstat(file.fileno()), self.path.stat())
        return False


@contextmanager
def hold(path: Path, use: str, patience: float = _PATIENCE) -> Iterator[None]:
    """Holds the lock file `path`; SIGTERM then ends the process as Ctrl-C does, and leaves no lock behind.

    A thread that holds it may hold it again. use: what the lock stands for, for the message. Where the kernel cannot
    tell whether a holder lives, this waits for a sign of life, or for the minute without any.

    Raises BlockingIOError, naming the holder, where another process or thread holds it for `patience` seconds.
    """
    own = (path.absolute(), threading.get_ident())
    if own in _threads:
        yield
        return
    lock, until = LockFile(path), time.monotonic() + patience
    before = lock.touched()
    with orderly_termination():
        try:
            while not _acquired(lock):
                lives = lock.surely_held or lock.touched() != before or time.monotonic() > until + SILENCE
                if lives and time.monotonic() > until:
                    raise BlockingIOError(f"{use} is being written by {_described(lock.holder())}")
                time.sleep(0.05)
            _threads.add(own)
            yield
        finally:
            with uninterrupted():
                _threads.discard(own)
                lock.release()


def _acquired(lock: LockFile) -> bool:
    """Takes a lock, for which its folder is made; False where another holds it or just removed the folder."""
    with uninterrupted(), suppress(FileNotFoundError):
        lock.path.parent.mkdir(parents=True, exist_ok=True)
        return lock.acquire()
    return False


@contextmanager
def lock_folder(folder: str | Path) -> Iterator[None]:
    """Keeps other processes from writing into a folder, which is made if need be, and tidies it after killed ones.

    An empty folder that was made is removed again. Raises BlockingIOError, naming the process that writes there.
    """
    folder = _check_name(Path(folder))
    with _tidied(folder), hold(folder / IN_FOLDER, str(folder)):
        remove_dead(folder)
        yield


@contextmanager
def lock_new_folder(folder: str | Path) -> Iterator[Path]:
    """Keeps other processes from making `folder`, which must not exist; yields it as a path.

    Raises FileExistsError where it exists, and BlockingIOError, naming the process that makes it.
    """
    folder = check_new(Path(folder))
    with _tidied(folder.parent), hold(folder.with_name(f".{folder.name}.lock{SUFFIX}"), str(folder)):
        yield check_new(folder)  # another process may have finished it meanwhile


def _forget() -> None:
    """Leaves the locks of a process to it alone, in a child that it forked and that may outlive it."""
    for lock in _held:
        lock.forget()
    _held.clear()
    _threads.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def remove_dead(folder: Path) -> None:
    """Removes the scratch folders and lock files of killed processes from a folder."""
    for path in folder.glob(f".*{SUFFIX}"):
        lock = LockFile(path / IN_FOLDER if path.is_dir() else path)
        with uninterrupted(), suppress(OSError):  # of another user, or just finished
            if lock.acquire():
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                lock.release()


def check_new(folder: Path) -> Path:
    """Returns `folder`; raises FileExistsError when it exists already, OSError when it cannot be made."""
    if folder.exists():
        raise FileExistsError(f"{folder} exists; remove it or choose another output with --out")
    check_writable(folder)
    return folder


def check_writable(path: str | Path) -> None:
    """Raises OSError where no file or folder can be made at `path`: to be called before the work. Leaves no trace."""
    path = _check_name(Path(path))
    place = next(parent for parent in path.absolute().parents if parent.exists())
    try:
        made = tempfile.mkdtemp(prefix=f".{path.name}.", suffix=SUFFIX, dir=place)
        with suppress(FileNotFoundError):  # another process took it for what a killed one left
            os.rmdir(made)
    except OSError as error:
        reason = f"{place} is a file" if place.is_file() else error.strerror
        raise OSError(f"{path} cannot be written: {reason}; choose another output") from error


def _check_name(path: Path) -> Path:
    """Returns `path`; raises OSError where it is no Unicode, as tensors could be written there but not read again."""
    if any("\ud800" <= sign <= "\udfff" for sign in str(path)):
        raise OSError(f"{path} cannot be written: its name is no UTF-8; choose another output")
    return path


@contextmanager
def _tidied(folder: Path) -> Iterator[None]:
    """Removes again, of a folder and those above it, what is made and stays empty."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        yield
    finally:
        with uninterrupted(), suppress(OSError):  # not empty
            for path in missing:
                path.rmdir()


def _described(holder: dict[str, Any]) -> str:
    here = holder.get("host") == socket.gethostname()
    where = "of this machine" if here else f"on {holder.get('host', 'an unknown machine')}"
    who = f"process {holder.get('pid', 'unknown')} {where} since {holder.get('since', 'just now')}"
    return f"{who}: wait until it ends or choose another folder"


def _kernel_lock(file: BinaryIO) -> bool | None:
    """Locks an open file for this process; False where another holds it, None where there are no such locks."""
    try:
        import fcntl  # not on Windows

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):
        return None
    return True


def _start_beating() -> None:
    global _beater
    if _beater is None or not _beater.is_alive():
        _beater = threading.Thread(target=_beat, name="locks", daemon=True)
        _beater.start()


def _beat() -> None:
    while True:
        time.sleep(BEAT)
        for lock in list(_held):
            lock.touch()
