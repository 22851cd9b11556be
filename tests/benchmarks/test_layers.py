"""Who may import whom: benchmarks from low to high, and nothing of the product imports benchmarks."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[2]
LAYERS = ("harness", "ops", "peers", "compile", "training", "report", "paper")
"""From low to high; run.py, conftest.py and test_cpu.py stand above."""


def module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def rank(name: str) -> int:
    """How high a module of benchmarks stands."""
    layer = name.split(".")[1] if "." in name else LAYERS[0]
    return LAYERS.index(layer) if layer in LAYERS else len(LAYERS)


def imported(path: Path) -> Iterator[str]:
    """Modules and names that a file imports, inside functions too."""
    package = module(path) if path.name == "__init__.py" else module(path).rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def test_benchmarks_import_lower_layers_only_and_in_no_circle() -> None:
    files = {module(path): path for path in (ROOT / "benchmarks").rglob("*.py")}
    graph: dict[str, set[str]] = {}
    upward = []
    for name, path in files.items():
        targets = {t if t in files else t.rpartition(".")[0] for t in imported(path)} & files.keys() - {name}
        graph[name] = targets
        upward += [f"{name} imports {target}" for target in targets if rank(target) > rank(name)]
    assert upward == []
    TopologicalSorter(graph).prepare()  # raises CycleError


def test_the_product_imports_nothing_of_benchmarks() -> None:
    product = [ROOT / "train.py", *(path for name in ("fmlfast", "kernels") for path in (ROOT / name).rglob("*.py"))]
    assert len(product) > 100
    assert [str(path) for path in product if any(t.split(".")[0] == "benchmarks" for t in imported(path))] == []
