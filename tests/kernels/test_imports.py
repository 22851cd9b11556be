"""Imports among the kernels go one way, those inside functions too, and Triton waits until a kernel is needed."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[2] / "kernels"
MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in ROOT.rglob("*.py")}


def imported(name: str) -> tuple[set[str], set[str]]:
    """Modules of `kernels` that a module imports anywhere, and names of all that it imports when it is loaded."""
    inside, loaded = set(), set()
    tree = ast.parse(MODULES[name].read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            loaded |= {alias.name for alias in node.names if node in tree.body}
        if not isinstance(node, ast.ImportFrom):
            continue
        parts = name.split(".")[: -node.level] if node.level else []
        base = ".".join([*parts, *([node.module] if node.module else [])])
        found = {f"{base}.{alias.name}".lstrip(".") for alias in node.names} & MODULES.keys() or {base}
        inside |= found & MODULES.keys()
        loaded |= found if node in tree.body else set()
    return inside, loaded


def test_no_module_imports_itself_through_others():
    graph = {name: imported(name)[0] for name in MODULES}
    assert "normals_triton" in graph["normals"] and "common.topology" in graph["normals_triton"]
    assert "rasterize_triton" in graph["rasterize"]
    TopologicalSorter(graph).prepare()  # raises CycleError


def test_only_triton_modules_import_triton_when_they_are_loaded():
    for name in MODULES:
        needs = {n for n in imported(name)[1] if n.split(".")[0] == "triton" or n.endswith("_triton")}
        assert bool(needs) == name.endswith("_triton"), (name, needs)
