"""Writes files and folders atomically: whole or not at all."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; renames it onto `path` on success and removes it on any error.

    The caller writes a file, or makes a folder, at the yielded path, which keeps the suffix of `path`. An existing
    file is replaced; an existing folder is left alone and raises FileExistsError before anything is written.
    """
    path = Path(path)
    if path.is_dir():
        raise FileExistsError(f"{path} exists; remove it or choose another output")
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        temporary = scratch / path.name
        yield temporary
        os.replace(temporary, path)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def check_new(folder: str | Path) -> Path:
    """Returns `folder` as a path; raises FileExistsError when it exists already, OSError when it cannot be made."""
    folder = Path(folder)
    if folder.exists():
        raise FileExistsError(f"{folder} exists; remove it or choose another output with --out")
    check_writable(folder)
    return folder


def check_writable(path: str | Path) -> None:
    """Raises OSError where no file or folder can be made at `path`: to be called before the work. Leaves no trace."""
    path = Path(path)
    place = next(parent for parent in path.absolute().parents if parent.exists())
    try:
        os.rmdir(tempfile.mkdtemp(prefix=f".{path.name}.", dir=place))
    except OSError as error:
        reason = f"{place} is a file" if place.is_file() else error.strerror
        raise OSError(f"{path} cannot be written: {reason}; choose another output") from error
