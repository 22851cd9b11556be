"""Makes a Python environment that holds a wheel and its core dependencies, and nothing else that is installed here."""

import subprocess
import sys
import venv
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement


def core_dependencies(names: list[str], without: set[str]) -> dict[str, Distribution]:
    """The distributions that these requirements need on this machine, without extras, by their names."""
    found: dict[str, Distribution] = {}
    left = list(names)
    while left:
        requirement = Requirement(left.pop())
        wanted = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if not wanted or requirement.name in found or requirement.name in without:
            continue
        try:
            found[requirement.name] = distribution(requirement.name)
        except PackageNotFoundError:  # declared for another build, as torch's libraries for a GPU
            continue
        left += found[requirement.name].requires or []
    return found


def _entries(dist: Distribution) -> Iterator[Path]:
    """Files and folders of a distribution in site-packages."""
    tops = {file.parts[0] for file in dist.files or () if file.parts[0] not in ("..", "__pycache__")}
    yield from (Path(str(dist.locate_file(top))) for top in tops)


def empty_environment(folder: Path, wheel: Path, without: set[str] | None = None) -> Path:
    """Installs a wheel into a new environment with links to its core dependencies; returns the environment's Python.

    Links save minutes of copying torch. `without` leaves dependencies out.
    """
    venv.create(folder, with_pip=False)
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    (packages,) = folder.glob("Lib/site-packages" if sys.platform == "win32" else "lib/python*/site-packages")
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index", "-q"]
    subprocess.run([*install, str(wheel)], check=True, capture_output=True, text=True)
    (metadata,) = packages.glob("fmlfast-*.dist-info/METADATA")
    lines = metadata.read_text(encoding="utf-8").splitlines()
    needs = [line.removeprefix("Requires-Dist: ") for line in lines if line.startswith("Requires-Dist: ")]
    for dist in core_dependencies(needs, without or set()).values():
        for entry in _entries(dist):
            if not (packages / entry.name).exists():
                (packages / entry.name).symlink_to(entry)
    return python
