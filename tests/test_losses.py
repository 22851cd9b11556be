from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fmlfast.data.frames import Frames
from fmlfast.losses import (
    LossWeights,
    displacement_loss,
    expression_loss,
    landmark_loss,
    membrane_loss,
    objective,
    surface_loss,
)
from fmlfast.model.fml import FML

EDGES = torch.tensor([[0, 1], [1, 2]])


def test_landmarks_weigh_the_jaw_and_the_confidence() -> None:
    detected, confidence = torch.zeros(1, 66, 2), torch.ones(1, 66)
    inner, jaw = detected.clone(), detected.clone()
    inner[0, 30, 0] = jaw[0, 3, 0] = 2.0  # 2 px of 100 px are 2%
    expected = (5**0.5 - 1) / 66
    torch.testing.assert_close(landmark_loss(inner, detected, confidence, 100, 0.25), torch.tensor([expected]))
    torch.testing.assert_close(landmark_loss(jaw, detected, confidence, 100, 0.25), torch.tensor([expected / 4]))
    torch.testing.assert_close(landmark_loss(inner, detected, confidence / 2, 100, 1), torch.tensor([expected / 2]))


def test_membrane_is_blind_to_translation() -> None:
    t = torch.tensor([[[0.0, 0, 0], [1, 2, 2], [1, 2, 2]]])
    torch.testing.assert_close(membrane_loss(t, EDGES), torch.tensor([4.5]))
    torch.testing.assert_close(membrane_loss(t + 5, EDGES), torch.tensor([4.5]))
    torch.testing.assert_close(displacement_loss(t), torch.tensor([6.0]))


def test_priors_are_sums_of_squares() -> None:
    torch.testing.assert_close(expression_loss(torch.tensor([[1.0, 2.0]]), 0.5), torch.tensor([20.0]))


# ------------------------------------------------------------------------------------------------- surface points


def points(seed: int, residual: float, frames: int = 3, count: int = 7, modes: int = 4) -> tuple[Tensor, ...]:
    """Predicted and detected points, precision and modes in float64."""
    g = torch.Generator().manual_seed(seed)
    predicted = 60 * torch.rand(frames, count, 2, dtype=torch.float64, generator=g)
    detected = predicted + residual * torch.randn(frames, count, 2, dtype=torch.float64, generator=g)
    precision = 0.2 + torch.rand(frames, count, dtype=torch.float64, generator=g)
    return predicted, detected, precision, torch.randn(frames, count, 2, modes, dtype=torch.float64, generator=g)


def cost(residual: Tensor, precision: Tensor, modes: Tensor, z: Tensor) -> Tensor:
    """What the docstring minimises over z, of one frame."""
    distance = precision * (residual - torch.einsum("pcr,r->pc", modes, z)).square().sum(1)
    return ((1 + distance).sqrt() - 1).mean() + z.square().sum() / (2 * len(residual))


def test_surface_loss_is_the_least_over_the_correlated_errors() -> None:
    predicted, detected, precision, modes = points(0, 0.05)
    found = surface_loss(predicted, detected, precision, modes)
    for frame in range(3):
        residual, z = (detected - predicted)[frame], torch.zeros(4, dtype=torch.float64, requires_grad=True)
        search = torch.optim.LBFGS([z], max_iter=200, tolerance_grad=1e-13, tolerance_change=1e-16)

        def closure(frame: int = frame, residual: Tensor = residual, z: Tensor = z, search: Any = search) -> Tensor:
            search.zero_grad()
            value = cost(residual, precision[frame], modes[frame], z)
            value.backward()
            return value

        search.step(closure)
        least = closure().detach()
        assert least < 0.9 * cost(residual, precision[frame], modes[frame], 0 * z).detach()
        assert found[frame] >= least * (1 - 1e-9)
        torch.testing.assert_close(found[frame], least, rtol=2e-3, atol=0)


def test_surface_loss_without_modes_is_charbonniers() -> None:
    predicted, detected, precision, modes = points(1, 3.0)
    expected = ((1 + precision * (detected - predicted).square().sum(2)).sqrt() - 1).mean(1)
    torch.testing.assert_close(surface_loss(predicted, detected, precision, 0 * modes), expected)
    torch.testing.assert_close(surface_loss(predicted, detected, precision, modes[..., :0]), expected)
    assert (surface_loss(predicted, detected, precision, modes) < expected).all()


def test_an_error_along_a_mode_costs_what_its_coefficient_does() -> None:
    predicted, _, precision, modes = points(2, 0.0)
    modes = modes[..., :1]
    small = surface_loss(predicted, predicted + 1e-3 * modes[..., 0], 1e8 * precision, modes)
    torch.testing.assert_close(small, torch.full((3,), 1e-6 / 14, dtype=torch.float64), rtol=1e-3, atol=0)


def test_surface_loss_has_the_gradient_of_the_least_cost() -> None:
    """The coefficients need no gradient where they are the best ones: exactly so for small, quadratic costs."""
    predicted, detected, precision, modes = points(3, 1e-3)
    predicted.requires_grad_()
    (found,) = torch.autograd.grad(surface_loss(predicted, detected, precision, modes).sum(), predicted)
    step = 1e-5
    for index in torch.randint(predicted.numel(), (12,), generator=torch.Generator().manual_seed(4)).tolist():
        shift = torch.zeros_like(predicted).flatten()
        shift[index] = step
        shift = shift.view_as(predicted)
        up, down = (surface_loss(predicted.detach() + s * shift, detected, precision, modes).sum() for s in (1.0, -1.0))
        expected = (up - down) / (2 * step)
        torch.testing.assert_close(found.flatten()[index], expected, rtol=1e-3, atol=1e-8)
    assert (found.flatten(1).norm(dim=1) > 1e-5).all()
    assert torch.autograd.gradcheck(lambda moved: surface_loss(moved, detected, precision, 0 * modes), predicted)


def test_points_of_no_precision_neither_cost_nor_pull() -> None:
    predicted, detected, precision, modes = points(5, 2.0)
    detected[0] = 0.0  # as frames have it that the detector did not see
    precision, modes = precision.clone(), modes.clone()
    precision[0], modes[0] = 0.0, 0.0
    precision[1, 2] = 0.0
    predicted.requires_grad_()
    loss = surface_loss(predicted, detected, precision, modes)
    loss.sum().backward()
    assert loss[0] == 0 and (loss[1:] > 0).all() and predicted.grad is not None
    assert predicted.grad.isfinite().all() and not predicted.grad[0].any() and not predicted.grad[1, 2].any()
    elsewhere = detected.clone()
    elsewhere[1, 2] += 1e3
    torch.testing.assert_close(surface_loss(predicted, elsewhere, precision, modes), loss)


def test_no_points_cost_nothing() -> None:
    """As of a template whose folder has no surface.txt."""
    predicted, detected, precision, modes = points(6, 1.0, count=0)
    assert torch.equal(surface_loss(predicted, detected, precision, modes), torch.zeros(3, dtype=torch.float64))


# ------------------------------------------------------------------------------------------------- the objective


def landmark_terms(model: FML, frames: Frames, **weights: float) -> Tensor:
    codes = model.encode(frames)
    return objective(model, frames, codes, replace(LossWeights(), **weights), 0.0)["landmarks"].detach()


def test_surface_points_take_the_landmarks_place(model: FML, frames: Frames, dense_frames: Frames) -> None:
    assert (landmark_terms(model, dense_frames, surface=0.0) == 0).all()
    assert (landmark_terms(model, dense_frames, landmarks=0.0) > 0).all()
    assert (landmark_terms(model, frames, landmarks=0.0) == 0).all()
    chosen = replace(dense_frames, precision=dense_frames.precision.clone())
    chosen.precision[:, 1:] = 0
    assert (landmark_terms(model, chosen, surface=0.0) > 0).all()
    assert (landmark_terms(model, chosen, landmarks=0.0) > 0).all()


def test_padding_frames_do_not_cost(model: FML, dense_frames: Frames) -> None:
    codes = model.encode(dense_frames)
    terms = objective(model, dense_frames.only([0, 1, 2]), model.encode(dense_frames.only([0, 1, 2])), LossWeights(), 0)
    padded = replace(dense_frames, mask=dense_frames.mask & (torch.arange(4) < 3), surface=dense_frames.surface.clone())
    padded.surface[:, 3] += 30
    found = objective(model, padded, model.encode(padded), LossWeights(), 0)
    for name in ("landmarks", "expression"):
        torch.testing.assert_close(found[name], terms[name], rtol=2e-2, atol=1e-4)
    whole = objective(model, dense_frames, codes, LossWeights(), 0)
    assert not torch.allclose(whole["landmarks"], terms["landmarks"], rtol=2e-2)


def test_priors_do_not_count_the_mean_face(model: FML, frames: Frames) -> None:
    codes = model.encode(frames)
    before = objective(model, frames, codes, LossWeights(), 0.0)
    assert model.face.identity_mean is not None
    with torch.no_grad():
        model.face.identity_mean += torch.randn(len(model.face.identity_mean))
    after = objective(model, frames, codes, LossWeights(), 0.0)
    for name in ("membrane", "displacement"):
        torch.testing.assert_close(after[name], before[name], rtol=1e-3, atol=1e-6)
        assert (before[name] > 0).all()
    assert (after["landmarks"] - before["landmarks"]).abs().min() > 1e-3
