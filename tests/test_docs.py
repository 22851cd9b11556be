"""What README and pages print works: Python runs, command lines are taken by their programs, links lead somewhere.

A Python block that begins with `# not run: reason` is only compiled. `# needs: ...` gets a stand-in: photos are renders
of the mean face, found by a detector that was told, and the model that ships is a small untrained one. The blocks of a
page share their names and a folder.
"""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import fmlfast
from fmlfast.model import pretrained
from fmlfast.model.fml import FML
from fmlfast.reconstruction import pipeline
from tests.helpers.pages import PAGES, ROOT, Block, blocks, check, commands
from tests.helpers.photographs import FakeDetector, photograph

IN_PYTHON = [page for page in PAGES if any(block.language == "python" for block in blocks(page))]
IN_SHELL = [page for page in PAGES if any(block.language == "sh" for block in blocks(page))]
LANGUAGES = {"python", "sh", "", "js", "json", "text"}
SHORTER = {"range(100)": "range(3)"}
"""Loops that take too long for a test."""


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture
def stand_ins(tmp_path: Path, model: FML, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with photos a.jpg and b.jpg, a detector that knows them, and a small model as the one that ships."""
    faces = {}
    for file, place in {"a.jpg": (230, 310, 60.0, 0.15), "b.jpg": (281, 201, -40.0, -0.2)}.items():
        image, face = photograph(*place)
        faces[place[:2]] = [face]
        Image.fromarray(image).save(tmp_path / file)
    model.save(tmp_path / "shipped")
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path / "shipped")
    monkeypatch.setattr(FakeDetector, "faces", faces)
    monkeypatch.setattr(pipeline, "FaceDetector", FakeDetector)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(page: Path, folder: Path) -> None:
    names: dict = {"__name__": "__page__"}
    for block in blocks(page):
        if block.language != "python":
            continue
        code = compile("\n" * (block.line - 1) + shortened(block), name(page), "exec")
        first = block.text.splitlines()[0]
        if first.startswith("# not run: "):
            continue
        if first == "# needs: the result folder out/person":
            fmlfast.reconstruct([folder / "a.jpg", folder / "b.jpg"], refine=1, texture=64, topology="own").save(
                folder / "out/person"
            )
        elif first.startswith("# needs: "):
            assert first == "# needs: photos a.jpg and b.jpg of one person", f"{name(page)}:{block.line}: {first}"
        exec(code, names)


def shortened(block: Block) -> str:
    text = block.text
    for long, short in SHORTER.items():
        text = text.replace(long, short)
    return text


@pytest.mark.parametrize("page", IN_PYTHON, ids=name)
def test_the_python_of_a_page_runs(page: Path, stand_ins: Path) -> None:
    run(page, stand_ins)


@pytest.mark.parametrize("page", IN_SHELL, ids=name)
def test_the_programs_take_the_command_lines_of_a_page(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for block in blocks(page):
        if block.language == "sh":
            for command in commands(block.text):
                try:
                    with monkeypatch.context() as context:
                        check(command, context)
                except ValueError as error:
                    pytest.fail(f"{name(page)}:{block.line}: {' '.join(command)}: {error}")


@pytest.mark.parametrize(
    "line",
    [
        "fmlfast reconstruct a.jpg --checkpont runs/x",
        "fmlfast reconstrukt a.jpg",
        "python train.py --preset huge",
        "python train.py --no-such-setting 1",
        "python -m benchmarks.run --no-such-flag",
        "python -m fmlfast.data.synthetic --out x --peeple 3",
        "python no_such_script.py",
        "make nothing",
        'pip install "fmlfast[everything]"',
        "fmlfst reconstruct a.jpg",
    ],
)
def test_a_wrong_command_line_is_found(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (command,) = commands(line)
    with pytest.raises(ValueError), monkeypatch.context() as context:
        check(command, context)


def test_every_block_has_a_language_that_is_known() -> None:
    found = {f"{name(page)}:{block.line}": block.language for page in PAGES for block in blocks(page)}
    assert {place: language for place, language in found.items() if language not in LANGUAGES} == {}


def test_every_public_name_is_on_a_page_of_the_api() -> None:
    api = "\n".join(path.read_text() for path in (ROOT / "docs/api").glob("*.md"))
    documented = {line.rpartition(".")[2] for line in re.findall(r"^::: (\S+)", api, re.MULTILINE)}
    whole = {"camera", "metrics", "shards", "loader"}  # modules, with all of their public names
    assert whole <= documented
    homes = {public: home for public, home in fmlfast._HOME.items() if home.rpartition(".")[2] not in whole}
    assert set(homes) - documented == set()


def test_readme_fits_one_screen() -> None:
    assert 60 <= len((ROOT / "README.md").read_text().splitlines()) <= 90


def test_the_site_builds_without_a_network_and_without_a_broken_link(tmp_path: Path) -> None:
    if importlib.util.find_spec("mkdocs") is None or importlib.util.find_spec("mkdocstrings") is None:
        pytest.skip("mkdocs is not installed; pip install 'fmlfast[docs]'")
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    environment |= dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    pages = {path.relative_to(tmp_path / "site").parts[0] for path in (tmp_path / "site").rglob("index.html")}
    assert {"index.html", "quickstart", "api", "changelog", "licences", "model-card"} <= pages
    loads = re.compile(r'<(?:script|img|link|iframe)\b[^>]*?\b(?:src|href)="(https?:)?//', re.IGNORECASE)
    for path in (tmp_path / "site").rglob("*.html"):
        text = path.read_text()
        assert not [m[0] for m in loads.finditer(text) if 'rel="canonical"' not in m[0]], path
        assert "arithmatex" not in text, f"{path}: a formula was not converted"
