"""Residual expressions: what they may move, and that all that uses codes takes them along."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from fmlfast.data.augment import AugmentConfig
from fmlfast.data.frames import Frames
from fmlfast.data.loader import ClipDataset, training_batches
from fmlfast.losses import LossWeights, objective
from fmlfast.model.codes import Codes
from fmlfast.model.config import ModelConfig
from fmlfast.model.fml import FML
from fmlfast.reconstruction.refinement import refine
from fmlfast.training.distributed import World
from fmlfast.training.step import Phase, Rates, TrainingStep
from tests.helpers.small_model import SMALL

WITH = replace(SMALL, residual_expressions=5)


def new(config: ModelConfig = WITH) -> FML:
    torch.manual_seed(0)
    return FML(config).eval()


def fields(model: FML) -> torch.Tensor:
    """Node displacements of each residual expression alone, [Ke, 3G]."""
    moved = model.face.residual(torch.eye(model.config.residual_expressions)[:, None])
    assert moved is not None
    return moved.flatten(1)


@pytest.mark.parametrize("smooth_basis", [True, False])
def test_they_are_orthogonal_to_identity_and_expressions(smooth_basis: bool) -> None:
    model = new(replace(WITH, smooth_basis=smooth_basis))
    with torch.no_grad():
        model.face.identity_basis[1] = model.face.identity_basis[0]  # no basis in the strict sense
        model.face.identity_basis[2] *= 1e-4
    identity = model.face.displacements(torch.eye(SMALL.identity_dim)).flatten(1)
    residual = fields(model)
    for other in (identity, model.template.expression_graph.T):
        assert (F.normalize(residual) @ F.normalize(other).T).abs().max() < 1e-5
    rms = residual.unflatten(1, (-1, 3)).square().sum(-1).mean(1).sqrt()
    torch.testing.assert_close(rms, torch.ones(5))


def test_they_move_each_frame_by_itself() -> None:
    model, epsilon = new(), torch.zeros(2, 3, 5)
    epsilon[1, 2, 4] = 2.0
    delta, rotation = torch.rand(2, 3, model.num_expressions), torch.eye(3).expand(2, 3, 3, 3)
    neutral = model.face.displacements(torch.randn(2, SMALL.identity_dim))
    residual = model.face.residual(epsilon)
    pose = rotation, torch.zeros(2, 3, 3)
    moved = model.face.geometry(neutral, delta, *pose, residual=residual) - model.face.geometry(neutral, delta)
    expected = torch.zeros_like(moved)
    expected[1, 2] = 2 * (model.face.neutral(fields(model).view(5, -1, 3)) - model.template.vertices)[4]
    torch.testing.assert_close(moved, expected, atol=1e-4, rtol=0)


def test_gradients_reach_basis_and_codes_but_identity_stays_out(frames: Frames) -> None:
    model = new()
    codes = model.encode(frames)
    residual = model.face.residual(codes.residual)
    assert residual is not None
    parameters = dict(model.named_parameters())
    found = torch.autograd.grad(residual[0].square().sum(), list(parameters.values()), allow_unused=True)
    reached = {name for name, gradient in zip(parameters, found, strict=True) if gradient is not None}
    assert {"face.residual_basis", "encoder.frame_out.weight"} <= reached
    assert not reached & {"face.identity_basis", "face.reflectance_basis"}


def test_without_them_codes_are_empty_and_nothing_is_stored(model: FML, frames: Frames) -> None:
    codes = model.encode(frames)
    assert codes.residual.shape == (2, 4, 0) and codes.select(slice(0, 1)).residual.shape == (1, 4, 0)
    assert model.face.residual(codes.residual) is None
    assert "residual" not in objective(model, frames, codes, LossWeights())
    assert not any("residual" in name for name in model.state_dict())


def test_geometry_comes_back_from_a_run_folder(frames: Frames, tmp_path: Path) -> None:
    model = new()
    model.save(tmp_path)
    loaded, codes = FML.load(tmp_path), model.encode(frames)
    assert torch.equal(loaded.geometry(codes), model.geometry(codes))
    still = replace(codes, residual=torch.zeros_like(codes.residual))
    assert not torch.equal(model.geometry(still), model.geometry(codes))
    assert torch.equal(model.neutral(still), model.neutral(codes))


def test_refinement_uses_them(frames: Frames) -> None:
    model = new()
    start = model.encode(frames)

    def loss(codes: Codes) -> torch.Tensor:
        return torch.stack(list(objective(model, frames, codes, LossWeights()).values())).sum(0)

    better = refine(model, frames, start, steps=10)
    assert (loss(better) < loss(start)).all()
    assert not torch.equal(better.residual, start.residual)
    assert (loss(better) < loss(replace(better, residual=start.residual))).all()


@pytest.mark.parametrize("phase", [Phase(1.0, 1.0, False), Phase(1.0, 0.0, True)])
def test_a_step_trains_them(phase: Phase, synthetic_folder: Path) -> None:
    clips = ClipDataset(synthetic_folder, "train", SMALL.image_size, 10**9)
    batches = training_batches(clips, batch=3, frames=4, steps=2, seed=1)
    model = new().train()
    basis = model.face.residual_basis
    assert basis is not None
    step = TrainingStep(model, LossWeights(), AugmentConfig(), Rates(), 1.0, False, False, World.start("cpu"))
    before = basis.detach().clone()
    for batch in batches:
        assert step(batch, phase)["residual"] > 0
    assert (basis - before).abs().max() > 1e-3


def test_too_many_are_refused() -> None:
    with pytest.raises(ValueError, match="250 residual expressions do not fit"):
        FML(replace(SMALL, residual_expressions=250))
