"""Programs let idle threads of OpenMP sleep, and say so before torch is loaded; the library leaves that to its user."""

import ast
import os
import runpy
import subprocess
import sys
from pathlib import Path

from fmlfast.common.passive_waiting import OURS, SETTINGS

import pytest

ROOT = Path(__file__).parents[1]
MODULE = "fmlfast.common.passive_waiting"
IN_PACKAGES = [ROOT / "benchmarks" / "__init__.py", ROOT / "tests" / "conftest.py"]
"""What runs before all modules of a package."""


def programs() -> list[Path]:
    """Files that are run, but for those of a package that sees to it for all of them."""
    files = [ROOT / "train.py", *(path for folder in ("fmlfast", "tools") for path in (ROOT / folder).rglob("*.py"))]
    return [f for f in files if f.name == "__main__.py" or "if __name__ ==" in f.read_text()]


def first_import(file: Path) -> str:
    """The first module that a file imports which is not of Python."""
    for node in ast.parse(file.read_text()).body:
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else names
        for name in names:
            if name.split(".")[0] not in sys.stdlib_module_names:
                return name
    return ""


@pytest.mark.parametrize("file", [*programs(), *IN_PACKAGES], ids=lambda file: str(file.relative_to(ROOT)))
def test_a_program_sets_it_before_it_imports_anything_else(file: Path) -> None:
    package = file.parent / "__init__.py"
    if first_import(file) == "fmlfast.cli":
        file = ROOT / "fmlfast" / "cli" / "__init__.py"
    assert MODULE in {first_import(place) for place in (file, package) if place.exists()}


def test_programs_are_found() -> None:
    names = {str(file.relative_to(ROOT)) for file in programs()}
    assert names >= {"train.py", "fmlfast/__main__.py", "fmlfast/data/synthetic/__main__.py", "tools/ship_model.py"}


@pytest.mark.parametrize("given", [None, *SETTINGS])
def test_what_the_user_set_stays(given: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
    if given is not None:
        monkeypatch.setenv(given, "active")
    runpy.run_path(str(ROOT / (MODULE.replace(".", "/") + ".py")))
    found = {name: os.environ[name] for name in SETTINGS if name in os.environ}
    assert found == (OURS if given is None else {given: "active"})


def test_children_inherit_it_and_the_library_does_not_set_it() -> None:
    """The command sets it without torch; `import fmlfast`, kernels and renderer included, leaves the environment."""
    child = "import os; print(os.environ.get('OMP_WAIT_POLICY'), os.environ.get('GOMP_SPINCOUNT'))"
    start = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    bare = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    for code, wanted in (
        ("import sys, fmlfast.cli; assert 'torch' not in sys.modules", "passive 2000"),
        ("import fmlfast, fmlfast.renderer", "None None"),
    ):
        done = subprocess.run(
            [sys.executable, "-c", f"{code}; {start}"], cwd=ROOT, env=bare, capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == wanted
