"""Triton waits until a kernel is needed: it is not on every platform."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2] / "kernels"
MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in ROOT.rglob("*.py")}


def loaded(name: str) -> set[str]:
    """Names of all that a module of `kernels` imports when it is loaded."""
    found = set()
    for node in ast.parse(MODULES[name].read_text()).body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parts = name.split(".")[: -node.level] if node.level else []
            base = ".".join([*parts, *([node.module] if node.module else [])])
            found |= {f"{base}.{alias.name}".lstrip(".") for alias in node.names} & MODULES.keys() or {base}
    return found


def test_only_triton_modules_import_triton_when_they_are_loaded():
    assert "normals_triton" in MODULES
    for name in MODULES:
        needs = {n for n in loaded(name) if n.split(".")[0] == "triton" or n.endswith("_triton")}
        assert bool(needs) == name.endswith("_triton"), (name, needs)
