"""Checks files that users name, before a reader that would wait for ever, or never see an end, gets them."""

from pathlib import Path


def check_file(path: str | Path) -> Path:
    """Returns `path` as a path where it is a file, or leads to one.

    Raises FileNotFoundError where there is none, and ValueError for folders, and for pipes and devices, which readers
    would wait for or never see the end of.
    """
    path = Path(path)
    if path.is_file():
        return path
    if path.is_dir():
        raise ValueError(f"{path} is a folder; name a file in it")
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    raise ValueError(f"{path} is a pipe or device; copy what it gives to a file and name that")
