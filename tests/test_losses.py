import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fmlfast.data.frames import Frames
from fmlfast.losses import (
    LossWeights,
    color_label_loss,
    displacement_loss,
    expression_label_loss,
    expression_loss,
    landmark_loss,
    membrane_loss,
    objective,
    surface_label_loss,
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


def points(seed: int, residual: float, frames: int = 3, count: int = 7) -> tuple[Tensor, Tensor, Tensor]:
    """Predicted and detected points and precision, in float64."""
    g = torch.Generator().manual_seed(seed)
    predicted = 60 * torch.rand(frames, count, 2, dtype=torch.float64, generator=g)
    detected = predicted + residual * torch.randn(frames, count, 2, dtype=torch.float64, generator=g)
    return predicted, detected, 0.2 + torch.rand(frames, count, dtype=torch.float64, generator=g)


def charbonnier(difference: Tensor, weight: float) -> float:
    """Of one point, written out."""
    return math.sqrt(1 + weight * float(difference.square().sum())) - 1


def test_surface_loss_counts_in_standard_deviations() -> None:
    predicted, detected, precision = points(1, 3.0)
    found = surface_loss(predicted, detected, precision)
    for frame in range(3):
        costs = [charbonnier((predicted - detected)[frame, p], float(precision[frame, p])) for p in range(7)]
        assert float(found[frame]) == pytest.approx(sum(costs) / 7)
    assert torch.autograd.gradcheck(surface_loss, (predicted.requires_grad_(), detected, precision))


def test_surface_labels_count_in_percent_of_the_image() -> None:
    predicted, labels, _ = points(2, 3.0)
    known = torch.tensor([1.0, 0, 1], dtype=torch.float64)
    found = surface_label_loss(predicted, labels, known, 128)
    for frame in range(3):
        costs = [charbonnier((predicted - labels)[frame, p], (100 / 128) ** 2) for p in range(7)]
        assert float(found[frame]) == pytest.approx(float(known[frame]) * sum(costs) / 7)
    predicted.requires_grad_()
    assert torch.autograd.gradcheck(lambda moved: surface_label_loss(moved, labels, known, 128), (predicted,))


def test_points_of_no_precision_neither_cost_nor_pull() -> None:
    predicted, detected, precision = points(5, 2.0)
    detected[0] = 0.0  # as frames have it that the detector did not see
    precision[0] = precision[1, 2] = 0.0
    predicted.requires_grad_()
    loss = surface_loss(predicted, detected, precision)
    loss.sum().backward()
    assert loss[0] == 0 and (loss[1:] > 0).all() and predicted.grad is not None
    assert predicted.grad.isfinite().all() and not predicted.grad[0].any() and not predicted.grad[1, 2].any()
    elsewhere = detected.clone()
    elsewhere[1, 2] += 1e3
    torch.testing.assert_close(surface_loss(predicted, elsewhere, precision), loss)


def test_expression_labels_cost_their_absolute_error_where_known() -> None:
    labels = torch.tensor([[0.0, 0.5, 0.2], [0.0, 0.5, 0.2]], dtype=torch.float64)
    predicted = labels + torch.tensor([[0.3, -0.4, 0.0], [0.3, -0.4, 0.0]], dtype=torch.float64)
    known = torch.tensor([[1.0, 1, 1], [1, 0, 1]], dtype=torch.float64)
    found = expression_label_loss(predicted, labels, known)
    assert found.tolist() == pytest.approx([0.7, 0.3], abs=0.02)
    assert expression_label_loss(labels, labels, known).tolist() == [0.0, 0.0]
    assert torch.autograd.gradcheck(expression_label_loss, (predicted.requires_grad_(), labels, known))


def test_labelled_colors_count_without_skin_tone() -> None:
    labels = torch.rand(3, 6, 3, dtype=torch.float64) + 0.1
    cells, known = torch.tensor([True, True, False, True, True, True]), torch.tensor([1.0, 1, 0], dtype=torch.float64)
    tone = torch.tensor([0.2, 0.5, 2.0], dtype=torch.float64)
    elsewhere = labels * tone
    elsewhere[:, 2] = 5.0  # a point without skin
    assert color_label_loss(elsewhere, labels, cells, known).abs().max() < 1e-12
    predicted = torch.rand_like(labels) + 0.1
    found = color_label_loss(predicted, labels, cells, known)
    own, true = (colors[:, cells] / colors[:, cells].mean(1, keepdim=True) for colors in (predicted, labels))
    torch.testing.assert_close(found, (own - true).square().mean(1).sum(1) * known)
    predicted.requires_grad_()
    assert torch.autograd.gradcheck(lambda colors: color_label_loss(colors, labels, cells, known), (predicted,))


def test_no_points_cost_nothing() -> None:
    """As of a template whose folder has no surface.txt."""
    predicted, detected, precision = points(6, 1.0, count=0)
    none = torch.zeros(3, dtype=torch.float64)
    assert torch.equal(surface_loss(predicted, detected, precision), none)
    assert torch.equal(surface_label_loss(predicted, detected, none + 1, 64), none)
    cells = torch.zeros(0, dtype=torch.bool)
    assert torch.equal(color_label_loss(torch.zeros(3, 0, 3), torch.zeros(3, 0, 3), cells, none + 1), none)


# ------------------------------------------------------------------------------------------------- the objective


def landmark_terms(model: FML, frames: Frames, **weights: float) -> Tensor:
    codes = model.encode(frames)
    return objective(model, frames.unlabelled(), codes, replace(LossWeights(), **weights), 0.0)["landmarks"].detach()


def test_surface_points_take_the_landmarks_place(model: FML, frames: Frames, dense_frames: Frames) -> None:
    assert (landmark_terms(model, dense_frames, surface=0.0) == 0).all()
    assert (landmark_terms(model, dense_frames, landmarks=0.0) > 0).all()
    assert (landmark_terms(model, frames, landmarks=0.0) == 0).all()
    chosen = replace(dense_frames, precision=dense_frames.precision.clone())
    chosen.precision[:, 1:] = 0
    assert (landmark_terms(model, chosen, surface=0.0) > 0).all()
    assert (landmark_terms(model, chosen, landmarks=0.0) > 0).all()


def test_labels_cost_beside_what_was_detected(model: FML, dense_frames: Frames) -> None:
    codes, weights = model.encode(dense_frames), LossWeights()
    alone, both = (
        objective(model, f, codes, weights, 0.0)["landmarks"] for f in (dense_frames.unlabelled(), dense_frames)
    )
    assert (both > alone).all()
    double = objective(model, dense_frames, codes, replace(weights, surface_labels=8.0), 0.0)["landmarks"]
    torch.testing.assert_close(double - alone, 2 * (both - alone), rtol=1e-3, atol=1e-5)


def test_labelled_expressions_draw_the_predicted_ones(model: FML, dense_frames: Frames) -> None:
    codes = model.encode(dense_frames)
    free = codes.expression.detach().requires_grad_()
    terms = objective(model, dense_frames, replace(codes, expression=free), LossWeights(), 0.0)
    (gradient,) = torch.autograd.grad(terms["expression_labels"].sum(), free)
    true = dense_frames.expression_labels[..., model.noise.score]
    far = (free - true).abs() > 0.05
    assert far.any() and torch.equal(gradient.sign()[far], (free - true).sign()[far])
    none = objective(model, dense_frames.unlabelled(), codes, LossWeights(), 0.0)["expression_labels"]
    assert torch.equal(none, torch.zeros_like(none))


def test_labelled_colors_draw_the_mean_reflectance(model: FML, dense_frames: Frames) -> None:
    codes, mean = model.encode(dense_frames), model.face.reflectance_mean
    alone, told = (
        torch.autograd.grad(objective(model, f, codes, LossWeights(), 1.0)["color_labels"].sum(), mean)[0]
        for f in (dense_frames.unlabelled(), dense_frames)
    )
    assert not alone.any() and told.any()
    with torch.no_grad():
        own, true = model.face.surface_colors(model.pattern(codes)), dense_frames.color_labels[:, 0]
        wrong = own / own.sum(1, keepdim=True) - true / true.sum(1, keepdim=True)
        pull = model.face.surface_colors(told.view(1, -1, 3))
    assert float((wrong.sum(0) * pull[0]).sum()) > 0


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
        model.face.identity_mean.add_(torch.randn(len(model.face.identity_mean)))
    after = objective(model, frames, codes, LossWeights(), 0.0)
    for name in ("membrane", "displacement"):
        torch.testing.assert_close(after[name], before[name], rtol=1e-3, atol=1e-6)
        assert (before[name] > 0).all()
    assert (after["landmarks"] - before["landmarks"]).abs().min() > 1e-3
