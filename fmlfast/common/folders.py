"""Finds files in folders as people's disks have them: in any letter case, beside hidden companions such as `._NAME`."""

from collections.abc import Collection
from pathlib import Path


def files_in(folder: Path, suffixes: Collection[str]) -> list[Path]:
    """Lists the files of a folder with one of these suffixes, lower case, by name; hidden ones are left out.

    There are none in a folder that is missing.
    """
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if path.suffix.lower() in suffixes and not path.name.startswith(".")]
    return sorted(path for path in found if path.is_file())


def find_file(folder: Path, name: str) -> Path | None:
    """Returns the file of this name, or else the first one whose name differs in letter case only; None without one."""
    if (folder / name).is_file():
        return folder / name
    return next((path for path in files_in(folder, (Path(name).suffix,)) if path.name.lower() == name.lower()), None)
