import importlib.util
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import fmlfast

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = ("pyproject.toml", "README.md", "LICENSE", "LICENSES.md", "fmlfast", "kernels", "train.py")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Names inside the wheel, built from a copy so that no build folder is left in the tree."""
    if importlib.util.find_spec("setuptools") is None:
        pytest.skip("setuptools, the build backend, is not installed")
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in SHIPPED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, symlinks=True)
        else:
            shutil.copy2(ROOT / name, source / name)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-q"]
    subprocess.run([*command, "-w", str(out), str(source)], check=True, capture_output=True, text=True)
    (built,) = out.glob("*.whl")
    return zipfile.ZipFile(built).namelist()


def test_wheel_holds_every_module_and_the_template(wheel):
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "fmlfast").rglob("*.py")}
    modules |= {f"fmlfast/{path.relative_to(ROOT)}" for path in (ROOT / "kernels").rglob("*.py")}
    assert any(name.startswith("fmlfast/kernels/") for name in modules)
    assert modules <= set(wheel)
    assert "fmlfast/cli/train.py" in wheel  # the link to train.py, as a file
    assert "fmlfast/template/template.npz" in wheel
    assert "fmlfast/data/landmarks.safetensors" in wheel


def test_wheel_installs_nothing_outside_fmlfast(wheel):
    assert {name.split("/")[0] for name in wheel} == {"fmlfast", f"fmlfast-{fmlfast.__version__}.dist-info"}


def test_wheel_carries_the_licences(wheel):
    assert {Path(name).name for name in wheel if "/licenses/" in name} == {"LICENSE", "LICENSES.md"}


def test_version_is_one(wheel):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == fmlfast.__version__


def test_kernels_are_one_package_however_imported():
    import fmlfast.kernels

    assert Path(fmlfast.kernels.__file__).resolve() == ROOT / "kernels" / "__init__.py"


def test_every_public_name_loads():
    names = [name for name in dir(fmlfast) if not name.startswith("_")]
    assert {"FaceTemplate", "FML", "reconstruct", "render", "write_mesh"} <= set(names)
    for name in names:
        assert getattr(fmlfast, name) is not None
    code = "import fmlfast; fmlfast.optim.LowRankAdam, fmlfast.camera.to_opengl"  # as README says
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = fmlfast.nonsense


def test_import_is_light():
    """`import fmlfast` and the command's help must not wait for torch."""
    code = "import sys, fmlfast, fmlfast.cli; sys.exit('torch' in sys.modules or 'mediapipe' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
