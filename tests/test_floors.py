"""Who may import whom: every import goes to a lower floor or stays in its room, and none runs in a circle."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = """
benchmarks
benchmarks.paper
benchmarks.report
benchmarks.training
benchmarks.compile
benchmarks.peers
benchmarks.ops
benchmarks.harness
train fmlfast
fmlfast.evaluation.scans
fmlfast.evaluation fmlfast.visualization.viewer
fmlfast.reconstruction fmlfast.training
fmlfast.losses fmlfast.visualization
fmlfast.model
fmlfast.data.synthetic fmlfast.data.video
fmlfast.data fmlfast.metrics
fmlfast.template
fmlfast.mesh_io
fmlfast.renderer fmlfast.nvdiffrast
fmlfast.camera
fmlfast.optim fmlfast.ibug68 fmlfast.common fmlfast.rotation fmlfast.color
fmlfast.kernels
""".split("\n")[-2:0:-1]
"""Rooms from the lowest floor up. A file belongs to the room with the longest name that its own begins with: those that
only lie in fmlfast/ or benchmarks/ (the command, public paths, runners) stand on top."""
HEIGHT = {room: height for height, line in enumerate(FLOORS) for room in line.split()}


def sources(root: Path) -> dict[str, Path]:
    """The files of the project by the names they are imported under."""
    found = {"train": root / "train.py"}
    for name in ("fmlfast", "kernels", "benchmarks"):
        for path in (root / name).rglob("*.py"):
            if (root / "fmlfast" / "kernels") in path.parents:  # the link to kernels/, whose files are named below
                continue
            parts = path.relative_to(root).with_suffix("").parts
            dotted = ".".join(("fmlfast", *parts) if name == "kernels" else parts)
            found[dotted.removesuffix(".__init__")] = path
    return found


def imports(name: str, path: Path, files: dict[str, Path]) -> Iterator[str]:
    """The project's files that a file imports: inside functions and for type checkers, too."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        named: list[str] = []
        if isinstance(node, ast.Import):
            named = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            named = [f"{base}.{alias.name}" for alias in node.names]
        for target in named:
            target = target if target in files else target.rpartition(".")[0]
            if target in files and target != name:
                yield target


def room(name: str) -> str:
    """The room of a file."""
    while name not in HEIGHT:
        name = name.rpartition(".")[0]
    return name


def upward(graph: dict[str, set[str]]) -> list[str]:
    """Imports that go up, or across to another room of the same floor."""
    pairs = [(name, target) for name, targets in graph.items() for target in sorted(targets)]
    return [
        f"{name} ({room(name)}) imports {target} ({room(target)})"
        for name, target in pairs
        if room(name) != room(target) and HEIGHT[room(target)] >= HEIGHT[room(name)]
    ]


@pytest.fixture(scope="module")
def graph() -> dict[str, set[str]]:
    files = sources(ROOT)
    assert len(files) > 200
    return {name: set(imports(name, path, files)) for name, path in files.items()}


def test_no_import_goes_up(graph: dict[str, set[str]]) -> None:
    assert upward(graph) == []


def test_no_imports_run_in_a_circle(graph: dict[str, set[str]]) -> None:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"these files import one another: {' <- '.join(error.args[1])}")


def test_what_goes_up_or_in_a_circle_is_found(tmp_path: Path) -> None:
    texts = {
        "fmlfast/metrics.py": "def f():\n    from fmlfast.losses import g",
        "fmlfast/losses.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import fmlfast.metrics",
        "kernels/one.py": "from .two import x",
        "kernels/two.py": "from .common import three",
        "kernels/common/three.py": "",
        "fmlfast/optim.py": "from fmlfast.kernels import two\nfrom fmlfast import color",
        "fmlfast/color.py": "import torch",
        "benchmarks/harness/rows.py": "from benchmarks.ops import render",
        "benchmarks/ops/render.py": "import train",
        "train.py": "from fmlfast import metrics",
    }
    for name, text in texts.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    files = sources(tmp_path)
    found = {name: set(imports(name, path, files)) for name, path in files.items()}
    assert found["fmlfast.kernels.two"] == {"fmlfast.kernels.common.three"}
    assert sorted(upward(found)) == [
        "benchmarks.harness.rows (benchmarks.harness) imports benchmarks.ops.render (benchmarks.ops)",
        "fmlfast.metrics (fmlfast.metrics) imports fmlfast.losses (fmlfast.losses)",
        "fmlfast.optim (fmlfast.optim) imports fmlfast.color (fmlfast.color)",
    ]
    with pytest.raises(CycleError, match="cycle"):
        TopologicalSorter(found).prepare()


def test_files_and_the_entrance_are_small() -> None:
    entries = [path.name for path in (ROOT / "fmlfast").iterdir() if path.name not in ("__pycache__", "py.typed")]
    assert len(entries) <= 25, sorted(entries)  # `nvdiffrast` has the name of what it replaces
    long = {
        str(path.relative_to(ROOT)): lines
        for folder in ("fmlfast", "kernels", "benchmarks", "tests", "tools")
        for path in (ROOT / folder).rglob("*.py")
        if (lines := len(path.read_text().splitlines())) > 330
    }
    assert not long and len((ROOT / "train.py").read_text().splitlines()) <= 330, long
