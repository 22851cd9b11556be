"""What others hold on to stays: import paths, a command's module, the tensors and the settings of a checkpoint."""

import importlib
import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import fmlfast
from fmlfast.model.config import ModelConfig
from fmlfast.model.fml import FML
from tests.helpers.small_model import SMALL

ROOT = Path(__file__).parents[1]
SWITCHES = ("aligned_crop", "landmark_input", "pose_init")
NORM = ("running_mean", "running_var", "num_batches_tracked")
AFFINE_NORM = ("weight", "bias", *NORM)
LAYER = ("weight", "bias")
KEYS = {
    "": ("code_mean", "code_factor"),
    "face.": (
        "population_mean",
        "identity_basis",
        "identity_mean",
        "reflectance_mean",
        "reflectance_basis",
        "smooth",
    ),
    "shape_fit.": ("usual",),
    "encoder.tower.0.0.": ("weight",),
    "encoder.tower.0.1.": AFFINE_NORM,
    "encoder.tower.1.0.": ("weight",),
    "encoder.tower.1.1.": AFFINE_NORM,
    "encoder.identity_head.convolution.0.0.": ("weight",),
    "encoder.identity_head.convolution.0.1.": AFFINE_NORM,
    "encoder.identity_head.convolution.1.": LAYER,
    "encoder.identity_head.dense.0.": LAYER,
    "encoder.identity_head.side.0.": LAYER,
    "encoder.identity_head.side.2.": LAYER,
    "encoder.identity_head.join.0.": LAYER,
    "encoder.frame_head.convolution.0.": LAYER,
    "encoder.frame_head.dense.0.": LAYER,
    "encoder.frame_head.side.0.": LAYER,
    "encoder.frame_head.side.2.": LAYER,
    "encoder.frame_head.join.0.": LAYER,
    "encoder.side_norm.": NORM,
    "encoder.identity_out.": ("weight",),
    "encoder.code_norm.": NORM,
    "encoder.frame_mix.0.": LAYER,
    "encoder.frame_out.": LAYER,
    "encoder.expression_out.0.0.": LAYER,
    "encoder.expression_out.0.2.": LAYER,
    "encoder.expression_out.1.": LAYER,
}
"""The tensors of a checkpoint of SMALL: beginnings of their names, and the ends that each has."""


BEFORE = {
    "template": "default",
    "template_unit": "mm",
    "level": 0,
    "image_size": 64,
    "input_size": 32,
    "channels": [8, 16],
    "width": 32,
    "identity_dim": 6,
    "reflectance_dim": 4,
    "complement_rank": 10,
    "smooth_basis": True,
    "aligned_crop": True,
    "landmark_input": True,
    "pose_init": True,
    "shape_init": True,
    "light_fit": True,
    "light_complement": True,
    "signed_expressions": False,
    "visibility": "zbuffer",
    "residual_expressions": 0,
}
"""SMALL as config.json held it when three switches stood for `inputs` and the mean face was the template's."""
OLD = replace(SMALL, learned_mean=False, landmark_features=False)


@pytest.mark.parametrize("name", fmlfast._HOME)
def test_a_name_of_the_package_is_the_object_of_its_home(name: str) -> None:
    home = importlib.import_module(fmlfast._HOME[name])
    assert getattr(fmlfast, name) is getattr(home, name)
    assert name in dir(fmlfast)


def test_no_name_of_the_package_is_lost() -> None:
    names = """
        Codes FML FaceTemplate Fragments Frames Reconstruction Rendering antialias interpolate linear_to_srgb look_at
        photometric photometric_pixels project rasterize read_image reconstruct render sh_basis shade_sh shade_vertices
        srgb_to_linear texture texture_mips vertex_normals vertex_visibility write_mesh
    """
    assert set(names.split()) <= fmlfast._HOME.keys()


@pytest.mark.parametrize(
    ("module", "names"),
    [
        ("camera", ("project", "to_camera", "look_at", "to_opengl", "from_opengl", "to_pytorch3d", "to_nvdiffrast")),
        ("renderer", ("Fragments", "Rendering", "rasterize", "interpolate", "texture", "antialias", "render")),
        ("nvdiffrast", ("rasterize", "DepthPeeler", "interpolate", "texture", "texture_construct_mip", "antialias")),
        ("optim", ("LowRankAdam",)),
        ("metrics", ("vertex_error",)),
        ("data.shards", ("Clip", "list_clips", "read_clip", "read_meta", "write_meta")),
        ("data.loader", ("ClipDataset",)),
        ("data.augment", ("AugmentConfig",)),
    ],
)
def test_a_public_module_stands_where_it_stood(module: str, names: tuple[str, ...]) -> None:
    found = importlib.import_module(f"fmlfast.{module}")
    assert [name for name in names if not hasattr(found, name)] == []


@pytest.mark.parametrize(
    ("path", "home"),
    [
        ("scans.scan_to_mesh", "evaluation.scans.protocol"),
        ("scans.evaluate_scans", "evaluation.scans.protocol"),
        ("scans.face_disc", "evaluation.scans.protocol"),
        ("refine.refine", "reconstruction.refinement"),
        ("export.write_mesh", "mesh_io"),
    ],
)
def test_a_function_that_moved_is_found_under_its_public_path(path: str, home: str) -> None:
    module, name = path.split(".")
    moved = getattr(importlib.import_module(f"fmlfast.{home}"), name)
    assert getattr(importlib.import_module(f"fmlfast.{module}"), name) is moved
    assert moved.__module__ == f"fmlfast.{home}"


def test_the_synthetic_clips_are_a_command() -> None:
    command = [sys.executable, "-m", "fmlfast.data.synthetic", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "--people" in done.stdout


def test_a_checkpoint_holds_these_tensors() -> None:
    expected = {start + end for start, ends in KEYS.items() for end in ends}
    assert set(FML(SMALL).state_dict()) == expected


def test_settings_of_before_are_read() -> None:
    assert ModelConfig.from_json(BEFORE) == OLD
    paper = ModelConfig.from_json(BEFORE | dict.fromkeys((*SWITCHES, "shape_init"), False))
    assert paper == replace(OLD, inputs="paper", shape_init=False)
    without = {name: value for name, value in BEFORE.items() if not name.endswith("_expressions")}
    assert ModelConfig.from_json(without) == OLD


def test_settings_of_now_are_read() -> None:
    for config in (SMALL, replace(SMALL, inputs="paper", shape_init=False, complement_rank=None)):
        assert ModelConfig.from_json(json.loads(json.dumps(asdict(config)))) == config


def test_a_run_of_before_loads_with_the_templates_mean(tmp_path: Path) -> None:
    model = FML(OLD)
    model.save(tmp_path)
    known = load_file(tmp_path / "model.safetensors")
    assert not known.pop("face.population_mean").any()
    save_file(known, tmp_path / "model.safetensors")
    stored = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**stored, "model": BEFORE}))
    loaded = FML.load(tmp_path)
    assert loaded.config == OLD and not loaded.face.mean_displacement.any()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name]), name


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        *(({name: False}, ", ".join(SWITCHES)) for name in SWITCHES),
        ({"aligned_crop": False, "landmark_input": False}, ", ".join(SWITCHES)),
        ({"residual_expressions": 5}, "residual_expressions"),
        ({"signed_expressions": True}, "signed_expressions"),
        ({"wings": 2}, "wings"),
    ],
)
def test_settings_that_no_version_has_or_that_left_are_named(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=f"this version has no setting {named};"):
        ModelConfig.from_json(BEFORE | changes)
