"""What users install: an sdist, the wheel made of it, and that wheel in an environment with nothing else."""

import importlib.util
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import fmlfast
from fmlfast.common.version import __version__
from tests.helpers.empty_environment import empty_environment

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OUTSIDE_SDIST = {".ci/run", ".gitignore"}
MADE_FOR_SDIST = {"PKG-INFO", "setup.cfg"}

RENDER = """
import importlib.util, torch, fmlfast
assert not [name for name in ("mediapipe", "scipy", "av", "trimesh", "triton") if importlib.util.find_spec(name)]
face = fmlfast.FaceTemplate.default(level=0)
camera = fmlfast.look_at(torch.tensor([[0.0, 0, 600]]), torch.zeros(1, 3))
K = torch.tensor([[[300.0, 0, 48], [0, 300, 48], [0, 0, 1]]])
vertices = face.vertices[None].requires_grad_()
out = fmlfast.render(vertices, face.triangles, face.colors[None], camera, K, 96, 96)
out.image.sum().backward()
assert 0.1 < float(out.mask.detach().mean()) < 0.9 and vertices.grad.abs().sum() > 0
"""
RECONSTRUCT = """
import sys
from pathlib import Path
import fmlfast
from fmlfast.data.synthetic.generate import SyntheticConfig, render_person
from fmlfast.model.pretrained import default_checkpoint
from fmlfast.reconstruction.refinement import refine

clip = render_person(SyntheticConfig(out=Path("unused"), frames=1, size=128, level=0, detect=False), "train", 0).clip
model = fmlfast.FML.load(default_checkpoint())
frames = fmlfast.Frames.from_clips([clip], model.config.image_size)
codes = refine(model, frames, model.encode(frames), 2)
assert model.camera_vertices(codes)[0, 0, :, 2].min() > 0
assert "triton" not in sys.modules
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The sdist, and the wheel built from it, made from a copy so that nothing is left in the tree."""
    for module in ("build", "setuptools"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed; pip install 'fmlfast[dev]' setuptools")
    source, out = tmp_path_factory.mktemp("source") / "fmlfast", tmp_path_factory.mktemp("dist")
    junk = shutil.ignore_patterns(".*", "*.egg-info", "__pycache__", "node_modules")
    places = {"runs", "data", "out", "site", "dist", "build"}

    def left_out(folder: str, names: list[str]) -> set[str]:
        return junk(folder, names) | (places & {*names} if Path(folder) == ROOT else set())

    shutil.copytree(ROOT, source, symlinks=True, ignore=left_out)
    (source / "data").mkdir()  # as in a tree that was worked in: must not get into the sdist
    (source / "data" / "face.jpg").write_bytes(b"a picture")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (sdist,), (wheel,) = out.glob("*.tar.gz"), out.glob("*.whl")
    return sdist, wheel


@pytest.fixture(scope="module")
def wheel(built: tuple[Path, Path]) -> list[str]:
    """Names inside the wheel."""
    return zipfile.ZipFile(built[1]).namelist()


@pytest.fixture(scope="module")
def without_triton(built: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with the wheel and its core dependencies, but for Triton."""
    return empty_environment(tmp_path_factory.mktemp("empty") / "venv", built[1], {"triton"})


def runs(python: Path, *arguments: str, cwd: Path) -> str:
    """Runs this Python away from the repository; what it printed."""
    done = subprocess.run([str(python), "-I", *arguments], cwd=cwd, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_sdist_is_the_repository(built: tuple[Path, Path]) -> None:
    with tarfile.open(built[0]) as archive:
        members = {member.name.partition("/")[2]: member for member in archive.getmembers() if not member.isdir()}
    links = {name: member.linkname for name, member in members.items() if member.issym()}
    assert links == {"fmlfast/kernels": "../kernels", "fmlfast/cli/train.py": "../../train.py"}
    names = {name for name in members if not name.startswith("fmlfast.egg-info/")} - MADE_FOR_SDIST
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not in a git checkout, so nothing to compare with")
    assert names == {name for name in listed.stdout.splitlines() if (ROOT / name).exists()} - OUTSIDE_SDIST


def test_wheel_holds_every_module_and_the_template(wheel: list[str]) -> None:
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "fmlfast").rglob("*.py")}
    modules |= {f"fmlfast/{path.relative_to(ROOT)}" for path in (ROOT / "kernels").rglob("*.py")}
    assert any(name.startswith("fmlfast/kernels/") for name in modules)
    assert modules <= set(wheel)
    assert "fmlfast/template/template.npz" in wheel
    assert "fmlfast/data/landmarks.safetensors" in wheel
    assert "fmlfast/py.typed" in wheel


def test_wheel_installs_nothing_outside_fmlfast(wheel: list[str]) -> None:
    assert {name.split("/")[0] for name in wheel} == {"fmlfast", f"fmlfast-{fmlfast.__version__}.dist-info"}


def test_wheel_carries_the_licences(wheel: list[str]) -> None:
    assert {Path(name).name for name in wheel if "/licenses/" in name} == {"LICENSE", "LICENSES.md"}


def test_the_wheel_works_without_triton_in_an_empty_environment(without_triton: Path, tmp_path: Path) -> None:
    command = without_triton.parent / "fmlfast"
    done = subprocess.run([command, "--version"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.strip().endswith(__version__), done.stdout + done.stderr
    assert "ModuleNotFoundError" in runs(
        without_triton, "-c", "try:\n import triton\nexcept ImportError as e:\n print(repr(e))", cwd=tmp_path
    )
    runs(without_triton, "-c", RENDER, cwd=tmp_path)
    runs(without_triton, "-c", RECONSTRUCT, cwd=tmp_path)


def test_triton_where_it_is_missing_is_asked_for_by_name(without_triton: Path, tmp_path: Path) -> None:
    code = "import torch, fmlfast; n = torch.rand(1, 4, 3); fmlfast.shade_sh(n, n, torch.rand(1, 9, 3), 'triton')"
    done = subprocess.run([without_triton, "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and "ValueError" in done.stderr and "riton" in done.stderr.splitlines()[-1]


def test_version_is_one() -> None:
    assert PROJECT["version"] == fmlfast.__version__
    assert f"version: {fmlfast.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"## [{fmlfast.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_the_extras_that_code_asks_for_exist_and_every_extra_is_used() -> None:
    asked: set[str] = set()
    for folder in ("fmlfast", "kernels", "benchmarks", "tools"):
        for path in (ROOT / folder).rglob("*.py"):
            asked |= set(re.findall(r'require\(\s*"[\w.]+",\s*"(\w+)"', path.read_text()))
    declared = set(PROJECT["optional-dependencies"])
    assert asked <= declared
    page = (ROOT / "docs/quickstart.md").read_text()
    assert {extra for extra in declared if f"| `{extra}` |" not in page} == set()


def test_kernels_are_one_package_however_imported() -> None:
    import fmlfast.kernels

    assert Path(fmlfast.kernels.__file__).resolve() == ROOT / "kernels" / "__init__.py"


def test_every_public_name_loads() -> None:
    names = [name for name in dir(fmlfast) if not name.startswith("_")]
    assert {"FaceTemplate", "FML", "reconstruct", "render", "write_mesh"} <= set(names)
    for name in names:
        assert getattr(fmlfast, name) is not None
    code = "import fmlfast; fmlfast.optim.LowRankAdam, fmlfast.camera.to_opengl"  # as README says
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = fmlfast.nonsense


def test_import_is_light() -> None:
    """`import fmlfast` and the command's help must not wait for torch, nor for what takes as long."""
    code = "import sys, fmlfast, fmlfast.cli; print({'torch', 'mediapipe', 'numpy', 'PIL'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stdout + done.stderr
