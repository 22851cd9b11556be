"""One step of training, against the same step written down plainly."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fmlfast.common.cuda_graphs import WARM_UP, CudaGraphs
from fmlfast.data.augment import AugmentConfig, Batch, augment
from fmlfast.data.loader import ClipDataset, training_batches
from fmlfast.losses import LossWeights, objective
from fmlfast.model.fml import FML
from fmlfast.training.distributed import World
from fmlfast.training.step import BETAS, Phase, Rates, TrainingStep
from tests.helpers.small_model import SMALL

FULL = Phase(rate=1.0, photometric=0.7, detach_geometry=False)
RATES = Rates(network=1e-3, identity=2e-3, reflectance=3e-3)


@pytest.fixture
def batches(synthetic_folder: Path) -> list[Batch]:
    clips = ClipDataset(synthetic_folder, "train", SMALL.image_size, 10**9)
    return list(training_batches(clips, batch=3, frames=4, steps=10, seed=1))


def new_step(device: str, clip: float = 1.0, graph: bool = False, lean: bool = False) -> TrainingStep:
    torch.manual_seed(0)
    model = FML(SMALL).to(device).train()
    with torch.no_grad():
        for parameter in model.encoder.parameters():  # so that no code is zero
            parameter += 0.02 * torch.randn(parameter.shape).to(device)
    return TrainingStep(model, LossWeights(), AugmentConfig(), RATES, clip, lean, graph, World.start(device))


def plain_step(model: FML, adam: torch.optim.Adam, batch: Batch, phase: Phase, clip: float) -> dict[str, Tensor]:
    """What TrainingStep does, with one graph, one optimiser and every gradient written out."""
    frames, noise, landmark_mask = augment(batch, AugmentConfig())
    codes = model.codes(model.observe(frames, noise, landmark_mask))
    labels, weights = frames.labelled(), LossWeights()
    losses = objective(model, labels, codes, weights, phase.photometric, phase.detach_geometry, fit_light=True)
    terms = {name: value.mean() for name, value in losses.items()}
    adam.zero_grad()
    torch.stack(list(terms.values())).sum().backward()
    for group in adam.param_groups:
        torch.nn.utils.clip_grad_norm_(group["params"], clip)
    adam.step()
    return {name: value.detach() for name, value in terms.items()}


@pytest.mark.parametrize("clip", [1e-3, 1e3])
@pytest.mark.parametrize("phase", [FULL, replace(FULL, detach_geometry=True), replace(FULL, photometric=0.0)])
def test_a_step_is_adams_step(batches: list[Batch], phase: Phase, clip: float) -> None:
    step, other = new_step("cpu", clip), new_step("cpu", clip)
    model = other.model
    model.face.decoder = None
    face = model.face
    groups = [
        (list(model.encoder.parameters()), RATES.network),
        ([face.identity_basis, face.identity_mean], RATES.identity),
        ([face.reflectance_mean, face.reflectance_basis], RATES.reflectance),
    ]
    adam = torch.optim.Adam([{"params": p, "lr": r * phase.rate} for p, r in groups], betas=BETAS, eps=1e-8)
    start = [value.clone() for value in model.parameters()]
    for index, batch in enumerate(batches[:2]):
        terms, expected = step(batch, phase), plain_step(model, adam, batch, phase, clip)
        assert terms.keys() == expected.keys()
        for name, value in terms.items():
            torch.testing.assert_close(value, expected[name], rtol=1e-4 if index else 1e-5, atol=1e-7)
        if index:
            continue
        for name, value in model.named_parameters():
            ours = step.model.get_parameter(name)
            if value.grad is None:
                assert torch.equal(ours, value), name
                continue
            # Adam's first step is as large for a gradient of rounding errors as for any other: leave those out.
            sure = value.grad.abs() > 1e-3 * value.grad.abs().max()
            torch.testing.assert_close(ours[sure], value[sure], rtol=0, atol=1e-5, msg=name)
            with torch.no_grad():
                value[~sure] = ours[~sure]  # or the second step would start from what rounding errors moved
    moved = [not torch.equal(value, before) for value, before in zip(model.parameters(), start, strict=True)]
    assert all(moved) == (phase.photometric > 0)


def test_mean_reflectance_stays_what_a_surface_may_reflect(batches: list[Batch]) -> None:
    step = new_step("cpu")
    mean = step.model.face.reflectance_mean
    with torch.no_grad():
        mean[:300], mean[300:600] = -0.5, 1.5
    step(batches[0], FULL)
    assert mean.min() == 0 and mean.max() == 1 and ((mean > 0) & (mean < 1)).sum() > 1000


def test_the_gradient_of_codes_is_whole_though_the_graph_is_cut(batches: list[Batch]) -> None:
    step, other = new_step("cpu", 1e9), new_step("cpu")
    step(batches[0], FULL)
    other.model.face.decoder = None
    frames, noise, landmark_mask = augment(batches[0], AugmentConfig())
    codes = other.model.codes(other.model.observe(frames, noise, landmark_mask))
    losses = objective(other.model, frames.labelled(), codes, LossWeights(), FULL.photometric, fit_light=True)
    torch.stack([value.mean() for value in losses.values()]).sum().backward()
    for (name, parameter), whole in zip(
        step.model.encoder.named_parameters(), other.model.encoder.parameters(), strict=True
    ):
        assert parameter.grad is not None and whole.grad is not None, name
        torch.testing.assert_close(parameter.grad, whole.grad, rtol=1e-3, atol=1e-6)


def test_backward_leaves_the_reflectance_basis_to_its_step(
    batches: list[Batch], monkeypatch: pytest.MonkeyPatch
) -> None:
    step, wanted = new_step("cpu"), []
    decode = step.decoder.decode
    monkeypatch.setattr(
        step.decoder, "decode", lambda codes, mean: wanted.append(codes.requires_grad) or decode(codes, mean)
    )
    step(batches[0], FULL)
    assert wanted == [False]  # the gradient of the codes comes with the step, and another reading would be in vain


def test_lean_moments_are_bfloat16_and_train(batches: list[Batch]) -> None:
    lean, exact = new_step("cpu", lean=True), new_step("cpu")
    for batch in batches[:3]:
        lean(batch, FULL)
        exact(batch, FULL)
    basis = lean.model.face.reflectance_basis
    state = lean.decoder.state[basis]
    assert state["exp_avg"].dtype == state["exp_avg_sq"].dtype == torch.bfloat16
    start = new_step("cpu").model.face.reflectance_basis
    error = (basis - exact.model.face.reflectance_basis).norm() / (basis - start).norm()
    assert 0 < float(error.detach()) < 0.05


def test_a_rate_of_zero_moves_nothing(batches: list[Batch]) -> None:
    step = new_step("cpu")
    before = [p.detach().clone() for p in step.model.parameters()]
    step(batches[0], replace(FULL, rate=0.0))
    assert all(torch.equal(a, b) for a, b in zip(before, step.model.parameters(), strict=True))


def test_without_a_gpu_nothing_is_recorded(batches: list[Batch]) -> None:
    calls = []
    graphs = CudaGraphs(lambda batch, *variant: calls.append((batch, *variant)) or {}, "cpu")
    for _ in range(WARM_UP + 2):
        graphs(batches[0], True)
    assert calls == [(batches[0], True)] * (WARM_UP + 2) and not graphs.recorded


@pytest.mark.gpu
def test_a_recorded_step_is_the_step(batches: list[Batch]) -> None:
    step, recorded = new_step("cuda"), new_step("cuda", graph=True)
    phases = [FULL, replace(FULL, photometric=0.0)]
    for index, batch in enumerate(batches * 2):
        phase = replace(phases[index % 2], rate=0.5 + 0.05 * index)
        terms, expected = recorded(batch.to("cuda"), phase), step(batch.to("cuda"), phase)
        for name, value in terms.items():
            torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=1e-5)
    assert isinstance(recorded.run, CudaGraphs) and len(recorded.run.recorded) == 2


@pytest.mark.gpu
def test_a_step_waits_for_nothing(batches: list[Batch]) -> None:
    step = new_step("cuda")
    on_device = [batch.to("cuda") for batch in batches[:4]]
    for batch in on_device[:2]:
        step(batch, FULL)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for batch in on_device[2:]:
            step(batch, FULL)
    finally:
        torch.cuda.set_sync_debug_mode("default")
