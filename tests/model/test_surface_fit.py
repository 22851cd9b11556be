"""The landmark fit by the detector's surface points and scores, against faces whose truth is known."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fmlfast.data.frames import Frames
from fmlfast.data.landmark_assets import FEATURES
from fmlfast.data.mediapipe478 import NUM_SCORES
from fmlfast.metrics import vertex_error
from fmlfast.model.codes import expression_from
from fmlfast.model.fml import FML
from fmlfast.model.landmark_fit import InitialFit, LandmarkFit, LandmarkObservations
from fmlfast.model.landmark_pose import align_to_front, fit_pose
from fmlfast.model.observation import DESCRIPTION, describe
from tests.helpers.landmark_scenes import FACE, FIELDS, TEMPLATE, USED, dense, geometry, seen, sparse
from tests.helpers.small_model import SMALL

JAW = TEMPLATE.expression_names.index("jawOpen")


@pytest.fixture(scope="module")
def fit() -> LandmarkFit:
    fit = LandmarkFit(TEMPLATE, 60)
    fit.set_fields(FIELDS, torch.zeros_like(FIELDS[0]))
    return fit


@pytest.fixture(scope="module")
def truth() -> Tensor:
    """Two people in four frames each, with open mouths."""
    expression = torch.zeros(8, len(TEMPLATE.expressions))
    expression[:, JAW] = torch.linspace(0, 0.8, 8)
    return geometry(0.7 * torch.randn(2, 60, generator=torch.Generator().manual_seed(3)), expression)


def started(fit: LandmarkFit, observed: LandmarkObservations) -> tuple[Tensor, Tensor]:
    """Coefficients of the fields and expressions."""
    points = TEMPLATE.landmarks(TEMPLATE.vertices)[USED].to(observed.Ks)
    start = fit(observed, InitialFit(*fit_pose(observed.landmarks, observed.Ks, points)))
    assert start.smooth is not None and start.expression is not None
    return start.smooth, start.expression


def error(fit: LandmarkFit, observed: LandmarkObservations, truth: Tensor) -> Tensor:
    return vertex_error(geometry(*started(fit, observed)), truth, FACE).mean()


def known_scores(fit: LandmarkFit, expression: Tensor) -> Tensor:
    """What the detector's scores are on average for these coefficients, [F, 52]."""
    told = fit.noise.gain * expression + fit.noise.offset
    return torch.zeros(len(expression), 52).index_copy(1, fit.noise.score, told)


def quiet(observed: LandmarkObservations, fit: LandmarkFit) -> LandmarkObservations:
    """With scores of a face at rest."""
    return observed._replace(scores=known_scores(fit, torch.zeros(len(observed.Ks), len(TEMPLATE.expressions))))


def test_surface_points_tell_far_more_than_landmarks(fit: LandmarkFit, truth: Tensor) -> None:
    by_landmarks = error(fit, sparse(*seen(truth), 2), truth)
    expression = torch.zeros(8, len(TEMPLATE.expressions))
    expression[:, JAW] = torch.linspace(0, 0.8, 8)
    observed = dense(truth, 2, 0.1)._replace(scores=known_scores(fit, expression))
    assert error(fit, observed, truth) < 0.6 * by_landmarks
    assert error(fit, quiet(dense(truth, 2, 2.0), fit), truth) > error(fit, observed, truth)


def test_landmarks_do_not_count_where_there_are_points(fit: LandmarkFit, truth: Tensor) -> None:
    observed = quiet(dense(truth, 2), fit)
    points = TEMPLATE.landmarks(TEMPLATE.vertices)[USED]
    start = InitialFit(*fit_pose(observed.landmarks, observed.Ks, points))
    moved = observed._replace(landmarks=observed.landmarks + 10)
    a, b = fit(observed, start), fit(moved, start)
    assert a.smooth is not None and b.smooth is not None and a.expression is not None and b.expression is not None
    torch.testing.assert_close(a.smooth, b.smooth)
    torch.testing.assert_close(a.expression, b.expression)


def test_frames_without_points_use_the_landmarks(fit: LandmarkFit, truth: Tensor) -> None:
    plain, full = sparse(*seen(truth), 8), quiet(dense(truth, 8), fit)
    chosen = torch.tensor([True, False] * 4)
    some = full._replace(precision=full.precision * chosen[:, None])
    mixed, by_landmarks, by_points = (started(fit, observed) for observed in (some, plain, full))
    for part in range(2):
        torch.testing.assert_close(mixed[part][chosen], by_points[part][chosen], atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(mixed[part][~chosen], by_landmarks[part][~chosen], atol=1e-4, rtol=1e-3)
    assert (by_landmarks[0] - by_points[0]).abs().max() > 0.1


def test_scores_pull_expressions(fit: LandmarkFit, truth: Tensor) -> None:
    still = geometry(torch.zeros(2, 60), torch.zeros(8, len(TEMPLATE.expressions)))
    name = TEMPLATE.expression_names[int((fit.noise.gain**2 / fit.noise.variance).argmax())]
    index, coefficients = TEMPLATE.expression_names.index(name), torch.zeros(8, len(TEMPLATE.expressions))
    coefficients[1::2, index] = 0.8
    observed = dense(still, 8, 3.0)._replace(scores=known_scores(fit, coefficients))
    expression = started(fit, observed)[1]
    assert (expression[1::2, index] > expression[::2, index] + 0.2).all()
    assert (expression[1::2].argmax(1) == index).all()
    unasked = observed._replace(precision=torch.zeros_like(observed.precision))  # scores without points do not count
    none = sparse(*seen(still), 8)
    torch.testing.assert_close(started(fit, unasked)[1], started(fit, none)[1])


def test_a_sure_point_counts_more_than_a_doubtful_one(fit: LandmarkFit, truth: Tensor) -> None:
    observed = quiet(dense(truth, 2), fit)
    cheek = fit.noise.picked[::7]
    moved = observed._replace(surface=observed.surface.clone(), precision=observed.precision.clone())
    moved.surface[:, cheek] += 1.5
    doubtful = moved._replace(precision=moved.precision.clone())
    doubtful.precision[:, cheek] *= 1e-4
    base = started(fit, observed)[0]
    assert (started(fit, doubtful)[0] - base).norm() < 0.5 * (started(fit, moved)[0] - base).norm()


def test_padding_frames_do_not_count(dense_frames: Frames) -> None:
    fit = LandmarkFit(TEMPLATE, 60).double()
    fit.set_fields(FIELDS.double(), torch.zeros_like(FIELDS[0]).double())
    exact = dense_frames.map(lambda values: values.double() if values.is_floating_point() else values)
    three, padded = exact.only([0, 1, 2]), exact.only([0, 1, 2, 0])
    padded = replace(padded, mask=padded.mask & (torch.arange(4) < 3), surface=padded.surface.clone())
    padded.surface[:, 3] += 9
    a, b, whole = (started(fit, LandmarkObservations.of(frames)) for frames in (three, padded, exact))
    torch.testing.assert_close(a[0], b[0], atol=1e-6, rtol=0)
    torch.testing.assert_close(a[1].view(2, 3, -1), b[1].view(2, 4, -1)[:, :3], atol=1e-6, rtol=0)
    assert (whole[0] - a[0]).abs().max() > 0.05
    assert not LandmarkObservations.of(padded).precision.view(2, 4, -1)[:, 3].any()


def test_fields_and_mean_move_the_fits_points() -> None:
    fit = LandmarkFit(TEMPLATE, 5)
    mean = 2 * torch.randn(3 * len(TEMPLATE.nodes), generator=torch.Generator().manual_seed(0))
    fit.set_fields(FIELDS, mean)
    moved = geometry(torch.zeros(1, 60), torch.zeros(1, len(TEMPLATE.expressions)), mean)[0]
    picked = fit.noise.picked
    expected = torch.cat([TEMPLATE.landmarks(moved)[USED[17:]], TEMPLATE.surface_points(moved, picked)])
    torch.testing.assert_close(fit.points[-len(expected) :], expected, atol=1e-3, rtol=0)
    neutral = TEMPLATE.surface_points(TEMPLATE.vertices, picked)
    torch.testing.assert_close(fit.base[-len(picked) :], neutral, atol=1e-3, rtol=0)
    first = geometry(torch.eye(5, 60), torch.zeros(5, len(TEMPLATE.expressions)))
    change = (TEMPLATE.surface_points(first, picked) - neutral).movedim(0, 2)
    torch.testing.assert_close(fit.fields[-len(picked) :], change, atol=1e-3, rtol=0)
    fit.set_fields(FIELDS, torch.zeros_like(mean))
    assert torch.equal(fit.points, fit.base)


def test_a_known_mean_is_where_the_fit_starts() -> None:
    fit = LandmarkFit(TEMPLATE, 60)
    mean = 3.0 * FIELDS[2] - 2.0 * FIELDS[7]
    face = geometry(torch.zeros(2, 60), torch.zeros(4, len(TEMPLATE.expressions)), mean)
    sizes = []
    for known in (torch.zeros_like(mean), mean):
        fit.set_fields(FIELDS, known)
        sizes.append(started(fit, quiet(dense(face, 2), fit))[0].norm())
    assert sizes[1] < 0.2 * sizes[0]


def test_the_encoder_starts_from_surface_points(model: FML, frames: Frames, dense_frames: Frames) -> None:
    by_landmarks, by_points = (model.observe(observed).start for observed in (frames, dense_frames))
    assert by_landmarks is not None and by_points is not None
    assert by_landmarks.smooth is not None and by_points.smooth is not None
    assert (by_landmarks.smooth - by_points.smooth).abs().max() > 0.1
    assert by_points.smooth.isfinite().all()


def test_the_encoder_gets_descriptions_of_detected_frames_only(
    model: FML, frames: Frames, dense_frames: Frames
) -> None:
    mixed = replace(dense_frames, precision=dense_frames.precision.clone())
    mixed.precision[:, 1] = 0.0
    seen = model.observe(mixed)
    assert seen.aux_features is not None and seen.aux_mask is not None
    assert torch.equal(seen.aux_features[:, -FEATURES:], dense_frames.features[:, :, 0].flatten(0, 1))
    scores = seen.aux_features[:, -FEATURES - NUM_SCORES : -FEATURES]
    assert torch.equal(scores, dense_frames.scores.flatten(0, 1))
    shown = seen.aux_mask[:, -DESCRIPTION:].view(2, 4, -1)
    assert not shown[:, 1].any() and shown[:, [0, 2, 3]].all() and seen.aux_mask[:, :-DESCRIPTION].all()
    other = replace(mixed, features=mixed.features.clone())
    other.features[:, 1] += 9
    assert torch.equal(model.encode(other).identity, model.encode(mixed).identity)
    other.features[:, 2] += 9
    assert not torch.equal(model.encode(other).identity, model.encode(mixed).identity)
    hidden = model.observe(mixed, landmark_mask=torch.zeros(2, 4, 68, dtype=torch.bool)).aux_mask
    assert hidden is not None and not hidden[:, :132].any() and torch.equal(hidden[:, 132:], seen.aux_mask[:, 132:])
    assert model.observe(frames).aux_mask is not None
    plain = FML(replace(SMALL, landmark_features=False)).eval().observe(mixed)
    assert plain.aux_mask is None and plain.aux_features is not None
    assert plain.aux_features.shape[1] == seen.aux_features.shape[1] - DESCRIPTION


def test_scores_of_a_frame_tell_its_expression_and_no_other_frames(model: FML, dense_frames: Frames) -> None:
    seen = model.observe(dense_frames)
    assert seen.aux_features is not None and model.encoder.side_norm is not None
    other = seen.aux_features.clone()
    other[1, -FEATURES - NUM_SCORES : -FEATURES] += 1.0
    before, after = (model.codes(replace(seen, aux_features=aux)).expression for aux in (seen.aux_features, other))
    alone = model.encoder.expression_out
    assert alone is not None
    assert (after[0, 1] - before[0, 1]).abs().max() > 1e-3
    direct = alone(other) - alone(seen.aux_features)  # past the codes, which all frames of a person share
    assert direct[1].any() and not direct[[0, 2, 3]].any()


def test_auxiliary_features_mean_the_same_in_every_training_batch(model: FML, dense_frames: Frames) -> None:
    encoder, aux = model.encoder, model.observe(dense_frames).aux_features
    assert aux is not None and encoder.side_norm is not None and encoder.expression_out is not None
    got: list[torch.Tensor] = []
    hook = encoder.expression_out.register_forward_hook(lambda module, inputs, output: got.append(inputs[0]))
    encoder.train()
    images, mask = torch.zeros(2, 4, 3, 32, 32), torch.ones(2, 4, dtype=torch.bool)
    encoder.side_norm.momentum = 0.0
    for _ in range(2):
        encoder(images, mask, torch.cat([aux[:4], aux[4:] + 3.0 * len(got)]))
    hook.remove()
    assert torch.equal(got[0][:4], got[1][:4]) and not torch.equal(got[0][4:], got[1][4:])
    encoder.side_norm.momentum = 0.5
    encoder(images, mask, aux)
    torch.testing.assert_close(encoder.side_norm.running_mean, 0.5 * aux.mean(0), atol=1e-4, rtol=1e-3)


def test_expressions_reach_zero_and_can_leave_it() -> None:
    began = torch.tensor([0.0, 0.0, 0.0, 0.8])
    delta = torch.tensor([0.0, -3.0, 2.0, 0.0], requires_grad=True)
    found = expression_from(began, delta)
    assert found[0] == 0.0 and found[1] == 0.0 and found[2] > 0.03 and abs(found[3] - 0.56) < 0.03
    (gradient,) = torch.autograd.grad(found.sum(), delta)
    assert (gradient > 0).all()


def test_gaze_is_where_the_irises_lie_in_their_eyes(model: FML, dense_frames: Frames) -> None:
    seen = LandmarkObservations.of(dense_frames)
    alignment = align_to_front(seen.landmarks, model.landmark_points)
    before = describe(dense_frames, seen, alignment)
    moved = seen.surface.clone()
    moved[:, 468:473] += torch.tensor([3.0, 0.0])  # the subject's right iris
    change = describe(dense_frames, seen._replace(surface=moved), alignment) - before
    torch.testing.assert_close(change[:, :2].norm(dim=1), 3 / alignment.scale, rtol=1e-3, atol=1e-5)
    assert not change[:, 2:].any()
    landmarks = dense_frames.landmarks + torch.tensor([5.0, -2.0])
    together = replace(dense_frames, landmarks=landmarks, surface=dense_frames.surface + torch.tensor([5.0, -2.0]))
    shifted = LandmarkObservations.of(together)
    same = describe(together, shifted, align_to_front(shifted.landmarks, model.landmark_points))
    torch.testing.assert_close(same[:, :4], before[:, :4], atol=1e-4, rtol=1e-3)
