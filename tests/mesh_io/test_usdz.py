"""Reads USDZ back by usd-core itself: its validators, its skinning, its texture."""

import importlib
import io
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fmlfast.reconstruction.head_files import write_head
from fmlfast.template.arkit_names import ARKIT_NAMES
from fmlfast.template.parts import split_template
from tests.helpers.heads import in_gltf_world, make_head, make_motion, make_own_head

pytest.importorskip("pxr", reason="needs the extra usd")
Gf, Usd, UsdGeom, UsdShade, UsdSkel, UsdValidation = (
    importlib.import_module(f"pxr.{name}") for name in ("Gf", "Usd", "UsdGeom", "UsdShade", "UsdSkel", "UsdValidation")
)
HEAD = make_head()
EXPRESSIONS = HEAD.template.expression_names


def problems(path: Path) -> list[str]:
    """What usd-core's validators, those for USDZ and ARKit's rules among them, find wrong with a file."""
    registry = UsdValidation.ValidationRegistry()
    known = [registry.GetOrLoadValidatorByName(item.name) for item in registry.GetAllValidatorMetadata()]
    assert len(known) >= 20
    found = UsdValidation.ValidationContext([item for item in known if item]).Validate(Usd.Stage.Open(str(path)))
    return [f"{error.GetName()}: {error.GetMessage()}" for error in found]


@pytest.mark.parametrize("unlit", [False, True])
@pytest.mark.parametrize("textured", [False, True])
def test_a_still_head_passes_usds_own_checks(tmp_path: Path, unlit: bool, textured: bool) -> None:
    write_head(tmp_path / "head.usdz", replace(HEAD, texture=HEAD.texture if textured else None), unlit=unlit)
    assert problems(tmp_path / "head.usdz") == []


def test_usds_checks_can_fail(tmp_path: Path) -> None:
    stage = Usd.Stage.CreateNew(str(tmp_path / "broken.usda"))
    UsdGeom.Mesh.Define(stage, "/mesh")
    stage.GetRootLayer().Save()
    assert problems(tmp_path / "broken.usda")


def test_meshes_shapes_and_texture_read_back(tmp_path: Path) -> None:
    write_head(tmp_path / "head.usdz", HEAD)
    stage = Usd.Stage.Open(str(tmp_path / "head.usdz"))
    assert UsdGeom.GetStageUpAxis(stage) == "Y" and UsdGeom.GetStageMetersPerUnit(stage) == 1.0
    assert stage.GetDefaultPrim().GetPath() == "/face"
    for part in split_template(HEAD.template):
        mesh = UsdGeom.Mesh(stage.GetPrimAtPath(f"/face/{part.name}"))
        points = HEAD.neutral[part.vertices].numpy() / 1000
        np.testing.assert_allclose(np.array(mesh.GetPointsAttr().Get()), points, atol=1e-7)
        indices = np.array(mesh.GetFaceVertexIndicesAttr().Get()).reshape(-1, 3)
        np.testing.assert_array_equal(indices, part.triangles)
        st = UsdGeom.PrimvarsAPI(mesh).GetPrimvar("st").Get()
        np.testing.assert_allclose(np.array(st), HEAD.template.uv[part.vertices].numpy(), atol=1e-6)
        bound, _ = UsdShade.MaterialBindingAPI(mesh).ComputeBoundMaterial()
        assert bound.GetPath() == "/face/material"
    binding = UsdSkel.BindingAPI(stage.GetPrimAtPath("/face/head"))
    names = list(binding.GetBlendShapesAttr().Get())
    assert names == [name for name in ARKIT_NAMES if name != "tongueOut"]
    shape = UsdSkel.BlendShape(stage.GetPrimAtPath("/face/head/jawOpen"))
    rows, offsets = np.array(shape.GetPointIndicesAttr().Get()), np.array(shape.GetOffsetsAttr().Get())
    ids = split_template(HEAD.template)[0].vertices
    delta = HEAD.template.expressions[EXPRESSIONS.index("jawOpen"), ids].numpy() / 1000
    np.testing.assert_allclose(offsets, delta[rows], atol=1e-7)
    assert np.linalg.norm(np.delete(delta, rows, 0), axis=1).max() <= 1e-6
    with zipfile.ZipFile(tmp_path / "head.usdz") as package:
        (image,) = [name for name in package.namelist() if name.endswith(".png")]
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(package.read(image)))), HEAD.texture)


def test_usds_skinning_moves_every_vertex_as_the_head_does(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(1)
    looking = torch.tensor([name.startswith("eyeLook") for name in EXPRESSIONS])
    expression = torch.where(looking, 0.0, torch.rand(4, len(EXPRESSIONS), generator=generator))
    own = replace(HEAD, neutral=HEAD.template.vertices + torch.tensor([0.5, -1.0, 2.0]))  # eyeballs of its own size
    expression[3] = 0.0
    expression[3, EXPRESSIONS.index("eyeLookOutLeft")] = 1.0  # which turns a joint
    motion = make_motion(expression)
    write_head(tmp_path / "head.usdz", own, motion=motion)
    assert problems(tmp_path / "head.usdz") == []
    stage = Usd.Stage.Open(Usd.Stage.Open(str(tmp_path / "head.usdz")).Flatten())  # a copy to bake into
    rate = stage.GetTimeCodesPerSecond()
    assert stage.GetEndTimeCode() / rate == pytest.approx(motion.times[-1])
    root = UsdSkel.Root(stage.GetPrimAtPath("/face"))
    assert UsdSkel.BakeSkinning(root, Gf.Interval(stage.GetStartTimeCode(), stage.GetEndTimeCode()))
    truth = in_gltf_world(own, motion)
    for part in split_template(own.template):
        mesh = UsdGeom.Mesh(stage.GetPrimAtPath(f"/face/{part.name}"))
        for frame, code in enumerate(motion.times * rate):
            points = np.array(mesh.GetPointsAttr().Get(code))
            matrix = np.array(mesh.ComputeLocalToWorldTransform(code))  # for row vectors; where bound rigidly
            world = points @ matrix[:3, :3] + matrix[3, :3]
            np.testing.assert_allclose(world, truth[frame, part.vertices], atol=2e-5)


def test_names_that_usd_does_not_allow_stay_the_names_of_blend_shapes(tmp_path: Path) -> None:
    head = make_own_head()
    write_head(tmp_path / "own.usdz", head, motion=make_motion(torch.rand(2, 2)))
    assert problems(tmp_path / "own.usdz") == []
    stage = Usd.Stage.Open(str(tmp_path / "own.usdz"))
    binding = UsdSkel.BindingAPI(stage.GetPrimAtPath("/face/head"))
    assert list(binding.GetBlendShapesAttr().Get()) == list(head.template.expression_names)
    assert len(set(binding.GetBlendShapeTargetsRel().GetTargets())) == 2


def test_without_usd_core_the_extra_is_named_and_nothing_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pxr.UsdUtils", None)
    with pytest.raises(ImportError, match=r"fmlfast\[usd\]"):
        write_head(tmp_path / "head.usdz", HEAD)
    assert list(tmp_path.iterdir()) == []
