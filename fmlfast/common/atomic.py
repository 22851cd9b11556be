"""Writes files and folders atomically: whole or not at all."""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fmlfast.common.locks import IN_FOLDER, SUFFIX, LockFile, lock_new_folder, remove_dead
from fmlfast.common.termination import uninterrupted

_NO_ROOM = (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC))


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; renames it onto `path` on success and removes it on any error.

    The caller writes a file, or makes a folder, at the yielded path, which keeps the suffix of `path`. An existing
    file is replaced; an existing folder is left alone and raises FileExistsError before anything is written. All is on
    the disk before it is renamed, so that a power failure leaves the old or the new. What a killed process left beside
    `path` is removed.
    """
    path = Path(path)
    if path.is_dir():
        raise FileExistsError(f"{path} exists; remove it or choose another output")
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_dead(path.parent)
    taken: tuple[Path, LockFile] | None = None
    try:
        with uninterrupted():
            taken = _scratch(path)
        temporary = taken[0] / path.name
        yield temporary
        for written in [temporary, *(temporary.rglob("*") if temporary.is_dir() else ())]:
            _to_disk(written)
        os.replace(temporary, path)
        _to_disk(path.parent)
    except OSError as error:
        if error.errno in _NO_ROOM and error.filename is None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        with uninterrupted():
            if taken is not None:
                scratch, lock = taken
                lock.release()
                shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def atomic_folder(folder: str | Path) -> Iterator[Path]:
    """Makes a new folder whole or not at all: yields an empty one that becomes `folder` on success.

    Raises FileExistsError where `folder` exists, and BlockingIOError, naming the process, where another one makes it.
    """
    with lock_new_folder(folder), atomic_path(folder) as temporary:
        temporary.mkdir()
        yield temporary


def _scratch(path: Path) -> tuple[Path, LockFile]:
    """Makes a folder beside `path`, locked, so that others see whether this process is alive."""
    while True:
        scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=SUFFIX, dir=path.parent))
        lock = LockFile(scratch / IN_FOLDER)
        try:
            if lock.acquire():
                return scratch, lock
        except FileNotFoundError:
            continue  # another process took it for a dead one's
        except BaseException:
            shutil.rmtree(scratch, ignore_errors=True)
            raise


def _to_disk(path: Path) -> None:
    """Waits until a file or folder is on the disk; Windows has no such call for folders."""
    if os.name == "nt" and path.is_dir():
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
