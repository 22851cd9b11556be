from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from fmlfast.camera import project
from fmlfast.data.frames import Frames, resize_clip
from fmlfast.data.landmark_assets import landmarks_version
from fmlfast.data.shards import list_clips, read_clip, read_truth
from fmlfast.losses import LossWeights, objective
from fmlfast.model.codes import Codes
from fmlfast.model.encoder import masked_mean
from fmlfast.model.fml import FML
from fmlfast.reconstruction.focal_length import focal_factor
from fmlfast.reconstruction.refinement import refine
from tests.helpers.small_model import SMALL


def total(model: FML, frames: Frames, codes: Codes) -> torch.Tensor:
    return torch.stack(list(objective(model, frames.unlabelled(), codes, LossWeights()).values())).sum(0)


def test_identity_cannot_imitate_expressions(model: FML) -> None:
    full = FML(replace(SMALL, complement_rank=None))
    alpha = torch.randn(3, SMALL.identity_dim)
    t = full.face.displacements(alpha).flatten(1)
    inside = full.template.complement_basis(None)
    assert (t @ inside).norm() < 1e-4 * t.norm()
    assert (model.face.displacements(alpha).flatten(1) @ inside).norm() > 1e-2 * t.norm()


def test_padding_frames_change_nothing(model: FML, frames: Frames) -> None:
    three = frames.only([0, 1, 2])
    padded = frames.only([0, 1, 2, 0])
    padded.mask[:, 3] = False
    a, b = model.encode(three), model.encode(padded)
    close = partial(torch.testing.assert_close, atol=2e-4, rtol=1e-3)  # sums over more rows, of which some are 0
    close(a.identity, b.identity)
    close(a.expression, b.expression[:, :3])
    close(total(model, three, a), total(model, padded, b))
    assert masked_mean(torch.ones(1, 2, 3), torch.tensor([[False, False]])).eq(0).all()


def test_alpha_and_beta_reach_the_frame_branch(model: FML, frames: Frames) -> None:
    expression = model.encode(frames).expression
    model.encoder.code_norm.running_mean -= 3.0  # pyright: ignore[reportOperatorIssue, reportOptionalOperand]
    assert (model.encode(frames).expression - expression).abs().max() > 1e-4


@pytest.mark.parametrize(
    "change",
    [
        {"inputs": "paper", "shape_init": False},
        {"shape_init": False},
        {"visibility": "backface"},
    ],
)
def test_every_input_setting_trains(change: dict, frames: Frames) -> None:
    torch.manual_seed(0)
    model = FML(replace(SMALL, **change)).train()
    landmark_mask = torch.rand(2, 4, 68) > 0.1
    codes = model.codes(model.observe(frames, 0.3 * torch.randn(2, 4, 68, 2), landmark_mask))
    R = codes.rotation
    torch.testing.assert_close(R @ R.transpose(2, 3), torch.eye(3).expand_as(R), atol=1e-4, rtol=0)
    assert (codes.translation[..., 2] > 100).all()
    total(model, frames, codes).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0, name


def test_a_rolled_face_looks_upright_to_the_network(model: FML, synthetic_folder: Path) -> None:
    clip = read_clip(list_clips(synthetic_folder, "train")[0])
    size = clip.images.shape[1]
    turned = replace(
        clip,
        images=np.rot90(clip.images, 2, (1, 2)).copy(),
        landmarks=size - clip.landmarks,
        Ks=np.stack([[[K[0, 0], 0, size - K[0, 2]], [0, K[1, 1], size - K[1, 2]], [0, 0, 1]] for K in clip.Ks]).astype(
            np.float32
        ),
    )
    a, b = (model.encode(Frames.from_clips([c], size)) for c in (clip, turned))
    torch.testing.assert_close(a.identity, b.identity, atol=2e-3, rtol=0)
    half_turn = torch.diag(torch.tensor([-1.0, -1, 1]))
    torch.testing.assert_close(half_turn @ a.rotation, b.rotation, atol=2e-3, rtol=0)


def test_exact_codes_reproduce_the_landmarks(model: FML, synthetic_folder: Path) -> None:
    """Geometry, pose, camera and the sliding jaw agree with the generator's."""
    refs = list_clips(synthetic_folder, "train")[:3]
    truth = read_truth(synthetic_folder, "train")
    for ref in refs:
        clip, exact = read_clip(ref), truth[ref.key]
        vertices = torch.from_numpy(exact["vertices"]) + torch.einsum(
            "me,evc->mvc", torch.from_numpy(exact["expression"]), model.template.expressions
        )
        camera = vertices @ torch.from_numpy(exact["rotation"]).transpose(1, 2)
        camera = camera + torch.from_numpy(exact["translation"])[:, None]
        Ks = torch.from_numpy(clip.Ks)
        found = project(model.template.slide_landmarks(camera, Ks), Ks)
        assert (found - torch.from_numpy(exact["landmarks"])).norm(dim=-1).max() < 0.05


def test_refinement_lowers_the_loss_and_leaves_the_model_alone(model: FML, frames: Frames) -> None:
    start = model.encode(frames)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    better = refine(model, frames, start, steps=15)
    assert (total(model, frames, better) < 0.95 * total(model, frames, start)).all()
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    alone = refine(model, frames.select(slice(0, 1)), start.select(slice(0, 1)), steps=15)
    torch.testing.assert_close(alone.identity, better.identity[:1], atol=1e-3, rtol=1e-3)
    assert refine(model, frames, start, steps=0) is start
    with pytest.raises(ValueError, match="steps"):
        refine(model, frames, start, steps=-1)


def test_runs_are_saved_and_loaded_whole(model: FML, frames: Frames, tmp_path: Path) -> None:
    model.save(tmp_path)
    loaded = FML.load(tmp_path)
    assert torch.equal(loaded.encode(frames).identity, model.encode(frames).identity)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    (tmp_path / "model.safetensors").write_bytes((tmp_path / "model.safetensors").read_bytes()[:1000])
    with pytest.raises(ValueError, match="model.safetensors"):
        FML.load(tmp_path)


def test_a_checkpoint_of_another_template_is_refused(model: FML, tmp_path: Path) -> None:
    model.save(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace(model.template.fingerprint, "0123456789abcdef"))
    with pytest.raises(ValueError, match="template"):
        FML.load(tmp_path)
    with pytest.raises(ValueError, match=r"config\.json is missing"):
        FML.load(tmp_path / "nowhere")


def test_a_checkpoint_of_another_landmark_network_is_refused(model: FML, tmp_path: Path) -> None:
    model.save(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace(landmarks_version(), "0123456789abcdef"))
    with pytest.raises(ValueError, match="landmark network 0123456789abcdef"):
        FML.load(tmp_path)


def test_resized_clips_keep_their_rays(synthetic_folder: Path) -> None:
    clip = read_clip(list_clips(synthetic_folder, "train")[0])
    small = resize_clip(clip, 48)
    rays = [(c.landmarks - c.Ks[:, None, :2, 2]) / c.Ks[:, None, [0, 1], [0, 1]] for c in (clip, small)]
    np.testing.assert_allclose(rays[0], rays[1], atol=1e-5)
    source = [np.einsum("mij,mnj->mni", c.crop_to_source[:, :, :2], c.landmarks) for c in (clip, small)]
    np.testing.assert_allclose(source[0], source[1], rtol=1e-4)


def test_autocast_around_the_model_rounds_no_geometry(frames: Frames) -> None:
    model = FML(SMALL).eval()

    def used() -> list[torch.Tensor]:
        codes = model.encode(frames)
        made = [model.camera_vertices(codes), model.neutral(codes), model.reflectance(codes)]
        return [*codes.tensors(), *refine(model, frames, codes, 2).tensors(), *made, focal_factor(model, frames)]

    plain = used()
    with torch.autocast("cpu", torch.bfloat16):
        inside = used()
    for a, b in zip(plain, inside, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
