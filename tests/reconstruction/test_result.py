"""A result folder holds what its description says, and reads back as what was saved."""

import errno
import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import fmlfast
from fmlfast import cli
from fmlfast.camera import project
from fmlfast.common.text_files import read_json
from fmlfast.mesh_io import read_obj
from fmlfast.model.codes import Codes
from fmlfast.model.fml import FML
from fmlfast.reconstruction import result as results
from fmlfast.reconstruction.pipeline import reconstruct
from fmlfast.reconstruction.result import Reconstruction
from fmlfast.template.face_template import FaceTemplate
from tests.helpers.command import fails
from tests.helpers.own_head import write_own_head
from tests.helpers.photographs import PLACES
from tests.helpers.small_model import SMALL

trimesh = pytest.importorskip("trimesh")


@pytest.fixture
def saved(photos: dict[str, Path], run: Path, tmp_path: Path) -> tuple[Reconstruction, Path]:
    """A reconstruction of two photos, and its folder."""
    result = reconstruct([photos["left"], photos["right"]], run, refine=1, texture=64, topology="own")
    result.save(tmp_path / "some" / "out")
    return result, tmp_path / "some" / "out"


def assert_equal(first: Reconstruction, second: Reconstruction) -> None:
    """Every field and every derived mesh, bit for bit."""
    for field in fields(Reconstruction):
        a, b = getattr(first, field.name), getattr(second, field.name)
        if field.name == "codes":
            assert all(torch.equal(getattr(a, f.name), getattr(b, f.name)) for f in fields(Codes))
        elif field.name == "template":
            assert (a.name, a.level, a.fingerprint) == (b.name, b.level, b.fingerprint)
        elif field.name == "photos":
            assert all(np.array_equal(x, y) and x.dtype == y.dtype for x, y in zip(a, b, strict=True))
        elif isinstance(a, torch.Tensor):
            assert torch.equal(a, b), field.name
        elif isinstance(a, np.ndarray):
            assert a.dtype == b.dtype, field.name
            np.testing.assert_array_equal(a, b)
        else:
            assert a == b, field.name
    for name in ("vertices", "camera_vertices", "shaded"):
        assert torch.equal(getattr(first, name), getattr(second, name)), name


def test_saved_folder_holds_pictures_meshes_and_parameters(saved, photos, run):
    result, out = saved
    meshes = {"head.glb", "head.obj", "head.mtl", "head.png", "mesh-left.glb", "mesh-right.glb"}
    pictures = {f"{kind}-{name}.png" for kind in ("photo", "overlay", "panel") for name in PLACES}
    rest = {"texture.png", "parameters.json", "codes.safetensors"}
    assert {path.name for path in out.iterdir()} == meshes | pictures | rest
    assert [path.name for path in out.parent.iterdir()] == ["out"]

    stored = json.loads((out / "parameters.json").read_text())
    assert stored["template"]["fingerprint"] == result.template.fingerprint
    assert stored["fmlfast"] == fmlfast.__version__
    assert stored["model"] == hashlib.sha256((run / "model.safetensors").read_bytes()).hexdigest()
    np.testing.assert_array_equal(np.float32(stored["identity"]), result.codes.identity[0].numpy())
    for i, entry in enumerate(stored["photos"]):
        photo = Image.open(photos[entry["name"]])
        assert photo.size == (entry["width"], entry["height"])
        assert Image.open(out / f"overlay-{entry['name']}.png").size == photo.size
        assert set(entry["expression"]) == set(result.template.expression_names)
        # What the JSON says about camera and pose puts the exported mesh onto the photo.
        mesh = trimesh.load(out / f"mesh-{entry['name']}.glb", process=False, force="mesh")
        camera = 1000 * np.asarray(mesh.vertices) @ np.array(entry["R"]).T + np.array(entry["t"])
        pixels = camera @ np.array(entry["K"]).T
        expected = project(result.camera_vertices[i : i + 1], torch.from_numpy(result.Ks[i : i + 1]))[0]
        np.testing.assert_allclose(pixels[:, :2] / pixels[:, 2:], expected, atol=0.02)


def test_without_meshes_the_rest_stays_and_is_read(saved, tmp_path):
    result, out = saved
    result.save(tmp_path / "small", meshes=False)
    rest = {path.name for path in out.iterdir() if path.suffix not in (".glb", ".obj", ".mtl")} - {"head.png"}
    assert {path.name for path in (tmp_path / "small").iterdir()} == rest
    assert_equal(Reconstruction.load(tmp_path / "small"), result)


def test_a_saved_folder_reads_back_equal(saved):
    result, out = saved
    assert result.texture is not None and len(result.codes.detail[0]) > 0
    loaded = Reconstruction.load(str(out))
    assert_equal(loaded, result)
    np.testing.assert_array_equal(loaded.overlay(1), np.asarray(Image.open(out / "overlay-right.png")))
    plain = replace(result, texture=None, texture_confidence=None, times=(None, 1 / 3))
    plain.save(out.parent / "plain")
    assert_equal(Reconstruction.load(out.parent / "plain"), plain)


def test_an_own_head_comes_back_in_its_own_vertices_and_from_its_folder(photos, tmp_path):
    head = write_own_head(tmp_path / "head")
    mine = read_obj(head / "neutral.obj")
    FML(replace(SMALL, template=str(head), complement_rank=None)).save(tmp_path / "mine")
    result = reconstruct([photos["left"]], tmp_path / "mine", refine=1)
    result.save(tmp_path / "out")
    assert_equal(Reconstruction.load(tmp_path / "out"), result)
    written = read_obj(tmp_path / "out" / "head.obj")
    np.testing.assert_array_equal(written.triangles, mine.triangles)
    np.testing.assert_array_equal(np.float32(written.vertices), result.neutral.numpy())
    moved = np.linalg.norm(written.vertices - mine.vertices, axis=1)
    assert 0 < moved.max() < 40  # mm: the same head, with another identity
    fine = reconstruct([photos["left"]], tmp_path / "mine", refine=0, texture=0, topology="fine")
    assert fine.template.level == 2 and len(fine.neutral) > 10 * len(mine.vertices)
    with pytest.raises(ValueError, match="topology must be own or fine, not 'coarse'"):
        reconstruct([photos["left"]], tmp_path / "mine", topology="coarse")  # type: ignore[arg-type]
    head.rename(tmp_path / "moved")
    with pytest.raises(
        ValueError, match=r'template head, whose folder .*head is missing; put it back there, or .*"fol'
    ):
        Reconstruction.load(tmp_path / "out")
    write_own_head(tmp_path / "head")
    (tmp_path / "head" / "browInnerUp.obj").unlink()
    with pytest.raises(ValueError, match=r"belongs to template head \(.*head holds head \(.*bring that template back"):
        Reconstruction.load(tmp_path / "out")


def test_an_own_head_may_have_vertices_without_triangles(photos, tmp_path):
    head = write_own_head(tmp_path / "head")
    for path in head.glob("*.obj"):
        path.write_text(f"{path.read_text()}\nv 0 0 0{' 0.5 0.5 0.5' if path.stem == 'neutral' else ''}\n")
    FML(replace(SMALL, template=str(head), complement_rank=None)).save(tmp_path / "mine")
    result = reconstruct([photos["left"]], tmp_path / "mine", refine=1)
    assert len(result.reflectance) == len(FaceTemplate.default(0).vertices) + 1
    assert result.reflectance.isfinite().all() and result.neutral.isfinite().all()
    result.save(tmp_path / "out")


def edit(change: Callable[[dict], object]) -> Callable[[Path], object]:
    """A change of parameters.json."""

    def apply(folder: Path) -> None:
        path = folder / "parameters.json"
        stored = read_json(path)
        change(stored)
        path.write_text(json.dumps(stored))

    return apply


def shorter(folder: Path) -> None:
    tensors = load_file(folder / "codes.safetensors")
    save_file(tensors | {"neutral": tensors["neutral"][:-1].clone()}, folder / "codes.safetensors")


DAMAGES: list[tuple[Callable[[Path], object], str]] = [
    (
        lambda folder: (folder / "parameters.json").unlink(),
        "no result of `fmlfast reconstruct`: parameters.json is",
    ),
    (lambda folder: (folder / "parameters.json").write_text("{"), "parameters.json is damaged"),
    (lambda folder: (folder / "parameters.json").write_text("[]"), "parameters.json is damaged"),
    (lambda folder: (folder / "codes.safetensors").unlink(), "out is damaged .*codes.safetensors"),
    (lambda folder: (folder / "codes.safetensors").write_bytes(b"nothing"), "out is damaged"),
    (shorter, r"out is damaged \(codes.safetensors: neutral has shape"),
    (lambda folder: (folder / "photo-left.png").unlink(), "out is damaged .*photo-left.png"),
    (lambda folder: (folder / "photo-left.png").write_bytes(b"\x89PNG"), "out is damaged .*photo-left.png"),
    (lambda folder: (folder / "texture.png").unlink(), "out is damaged .*texture.png"),
    (edit(lambda stored: stored["photos"].pop()), r"out is damaged \(codes.safetensors: rotation has shape"),
    (edit(lambda stored: stored["photos"][0].pop("K")), r"out is damaged \('K'\)"),
    (edit(lambda stored: stored.pop("format")), "out was written by fmlfast .* in format 0, but .* format 1"),
    (edit(lambda stored: stored.update(format=2)), "in format 2, but this version"),
    (edit(lambda stored: stored["template"].update(fingerprint="0" * 16)), r"template makehuman-face \(00000"),
    (edit(lambda stored: stored["template"].update(level=9)), "level must be 0, 1 or 2"),
]


def test_a_folder_that_is_none_damaged_or_of_another_version_is_one_error(saved, tmp_path):
    for number, (damage, message) in enumerate(DAMAGES):
        folder = tmp_path / f"{number}" / "out"
        shutil.copytree(saved[1], folder)
        damage(folder)
        with pytest.raises(ValueError, match=message) as caught:
            Reconstruction.load(folder)
        assert "\n" not in str(caught.value) and str(folder) in str(caught.value)


def test_it_is_named_in_one_line(saved):
    result, _ = saved
    assert repr(result) == f"Reconstruction(left, right; {len(result.neutral)} vertices, texture 64 px)"
    named = repr(result.template)
    assert named.startswith("FaceTemplate(makehuman-face, level 0: ") and len(named) < 150


def test_export_writes_the_saved_head(saved, tmp_path, capsys):
    result, out = saved
    cli.main(["export", str(out), "--format", "glb", "ply", "obj"])
    written = [str(out / "export" / f"head.{suffix}") for suffix in ("glb", "ply", "obj")]
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == written
    assert (out / "export" / "head.glb").read_bytes() == (out / "head.glb").read_bytes()
    ply = trimesh.load(out / "export" / "head.ply", process=False)
    np.testing.assert_array_equal(ply.vertices.astype(np.float32), result.neutral.numpy())
    cli.main(["export", str(out), "--unlit", "--out", str(tmp_path / "elsewhere")])
    assert b"KHR_materials_unlit" in (tmp_path / "elsewhere" / "head.glb").read_bytes()
    assert b"KHR_materials_unlit" not in (out / "head.glb").read_bytes()
    capsys.readouterr()
    assert "no result of `fmlfast reconstruct`" in fails(["export", tmp_path], capsys)
    assert "no format given; name one or several after --format" in fails(["export", out, "--format"], capsys)


def test_info_describes_a_result(saved, capsys):
    _, out = saved
    cli.main(["info", str(out)])
    shown = capsys.readouterr().out
    assert "template makehuman-face, level 0" in shown and "64 x 64 px" in shown
    assert "photo left" in shown and "201 x 281 px, landmarks off by" in shown


def test_a_notebook_shows_the_panels(saved):
    result, _ = saved
    shown = np.asarray(Image.open(io.BytesIO(result._repr_png_())))
    assert shown.dtype == np.uint8 and shown.shape[1:] == (1200, 3)
    half = Image.fromarray(result.panel(1))
    row = np.asarray(half.resize((1200, shown.shape[0] // 2), Image.Resampling.LANCZOS))
    np.testing.assert_array_equal(shown[shown.shape[0] // 2 :], row)


def test_a_notebook_that_is_executed_holds_the_picture(saved, tmp_path):
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    _, out = saved
    cell = nbformat.v4.new_code_cell(f"import fmlfast\nfmlfast.Reconstruction.load({str(out)!r})")
    notebook = nbformat.v4.new_notebook(cells=[cell])
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(Path.cwd())}}).execute()
    (output,) = [entry for entry in notebook.cells[0].outputs if entry.output_type == "execute_result"]
    assert output.data["image/png"]


def test_save_leaves_nothing_when_the_disk_is_full(photos, run, tmp_path, monkeypatch):
    result = reconstruct([photos["left"]], run, refine=0, topology="own")
    before = sorted(tmp_path.iterdir())
    written = []

    def full(path: Path, *arguments: object) -> None:
        written.extend(path.parent.glob("head.*"))
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(results, "write_mesh", full)
    with pytest.raises(OSError, match="No space left"):
        result.save(tmp_path / "out")
    assert written and sorted(tmp_path.iterdir()) == before


def test_all_files_follow_the_umask(saved: tuple[Reconstruction, Path]) -> None:
    umask = os.umask(0)
    os.umask(umask)
    assert {path.stat().st_mode & 0o777 for path in saved[1].iterdir()} == {0o666 & ~umask}


def test_save_refuses_what_exists(photos, run, tmp_path):
    result = reconstruct([photos["left"]], run, refine=0, topology="own")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    for name in ("file", "folder"):
        with pytest.raises(FileExistsError, match=f"{name} exists; remove it or choose another"):
            result.save(tmp_path / name)
    assert (tmp_path / "file").read_text() == "mine" and list((tmp_path / "folder").iterdir()) == []
