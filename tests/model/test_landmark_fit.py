"""The start from landmarks, and light in closed form, against faces whose truth is known."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fmlfast.kernels.shading import shade_sh
from fmlfast.metrics import vertex_error
from fmlfast.model.fml import FML
from fmlfast.model.landmark_fit import InitialFit, LandmarkFit
from fmlfast.model.landmark_pose import fit_pose
from fmlfast.model.lighting import fit_light
from tests.helpers.landmark_scenes import FACE, FIELDS, TEMPLATE, USED, geometry, seen, sparse
from tests.helpers.small_model import SMALL


def fitted(landmarks: Tensor, Ks: Tensor, subjects: int, confidence: Tensor | None = None) -> InitialFit:
    points = TEMPLATE.landmarks(TEMPLATE.vertices)[USED].to(landmarks)
    start = InitialFit(*fit_pose(landmarks, Ks, points))
    return shape_fit().to(landmarks)(sparse(landmarks, Ks, subjects, confidence), start)


def shape_fit() -> LandmarkFit:
    fit = LandmarkFit(TEMPLATE, 60)
    fit.set_fields(FIELDS, torch.zeros_like(FIELDS[0]))
    return fit


def errors(start: InitialFit, truth: Tensor) -> Tensor:
    assert start.smooth is not None and start.expression is not None
    return vertex_error(geometry(start.smooth, start.expression), truth, FACE)


@pytest.fixture(scope="module")
def truth() -> Tensor:
    """Two people in four frames each, with open mouths."""
    generator = torch.Generator().manual_seed(3)
    expression = torch.zeros(8, len(TEMPLATE.expressions))
    expression[:, TEMPLATE.expression_names.index("jawOpen")] = torch.linspace(0, 0.8, 8)
    return geometry(0.7 * torch.randn(2, 60, generator=generator), expression)


def test_exact_landmarks_give_most_of_a_shape(truth: Tensor) -> None:
    mean = vertex_error(TEMPLATE.vertices.expand_as(truth), truth, FACE)
    start = fitted(*seen(truth), 2)
    assert (errors(start, truth) < 0.5 * mean).all()
    assert start.expression is not None and (start.expression >= 0).all()
    jaw = start.expression[:, TEMPLATE.expression_names.index("jawOpen")]
    assert torch.corrcoef(torch.stack([jaw, torch.linspace(0, 0.8, 8)]))[0, 1] > 0.9


def test_frames_together_beat_frames_alone(truth: Tensor) -> None:
    landmarks, Ks = seen(truth)
    landmarks = landmarks + 0.5 * torch.randn(landmarks.shape, generator=torch.Generator().manual_seed(4))
    alone = fitted(landmarks, Ks, 8)
    assert errors(fitted(landmarks, Ks, 2), truth).mean() < 0.95 * errors(alone, truth).mean()


def test_frames_without_confidence_change_nothing(truth: Tensor) -> None:
    landmarks, Ks = seen(truth[:4])
    confidence = torch.ones(4, 66)
    confidence[3] = 0
    spoiled = landmarks.clone()
    spoiled[3] += 20
    a, b = fitted(landmarks, Ks, 1, confidence).smooth, fitted(spoiled, Ks, 1, confidence).smooth
    assert a is not None and b is not None
    torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-3)
    full = fitted(landmarks, Ks, 1).smooth
    assert full is not None and (full - a).abs().max() > 0.02


def test_outliers_hardly_move_it(truth: Tensor) -> None:
    landmarks, Ks = seen(truth)
    spoiled = landmarks.clone()
    spoiled[::2, 30] += 40.0
    assert errors(fitted(spoiled, Ks, 2), truth).mean() < 1.3 * errors(fitted(landmarks, Ks, 2), truth).mean()


def test_a_broken_frame_spoils_nobody_else(truth: Tensor) -> None:
    landmarks, Ks = seen(truth)
    points = TEMPLATE.landmarks(TEMPLATE.vertices)[USED]
    pose, fit = fit_pose(landmarks, Ks, points), shape_fit()
    for broken in (torch.nan, torch.inf, 1e12):
        spoiled = landmarks.clone()
        spoiled[0, 40] = broken
        start, whole = (fit(sparse(marks, Ks, 2), InitialFit(*pose)) for marks in (spoiled, landmarks))
        assert start.smooth is not None and start.expression is not None
        assert whole.smooth is not None and whole.expression is not None
        assert start.smooth.isfinite().all() and start.expression.isfinite().all()
        torch.testing.assert_close(start.smooth[1], whole.smooth[1], atol=1e-5, rtol=0)
        torch.testing.assert_close(start.expression[4:], whole.expression[4:], atol=1e-5, rtol=0)


def test_a_gpu_and_a_cpu_solve_alike(truth: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    landmarks, Ks = (x.double() for x in seen(truth))
    here = fitted(landmarks, Ks, 2)
    monkeypatch.setattr(Tensor, "is_cuda", property(lambda tensor: True), raising=False)
    there = fitted(landmarks, Ks, 2)
    assert here.smooth is not None and there.smooth is not None
    torch.testing.assert_close(here.smooth, there.smooth, atol=1e-9, rtol=0)


def test_wild_landmarks_keep_the_face_before_the_camera() -> None:
    landmarks = 128 * torch.rand(100, 66, 2, generator=torch.Generator().manual_seed(6))
    Ks = torch.tensor([[300.0, 0, 64], [0, 300, 64], [0, 0, 1]]).expand(100, 3, 3)
    points = TEMPLATE.landmarks(TEMPLATE.vertices)[USED]
    assert (fit_pose(landmarks, Ks, points)[1][:, 2] > 1).all()
    assert (fitted(landmarks, Ks, 100).translation[:, 2] > 1).all()


def test_the_network_starts_there() -> None:
    model = FML(SMALL)
    with pytest.raises(ValueError, match="aligned"):
        FML(replace(SMALL, inputs="paper"))
    assert model.shape_fit is not None and model.shape_fit.fields.shape[2] == 80


def test_smooth_fields_are_orthogonal_strongest_first_and_nearly_symmetric() -> None:
    gram = FIELDS.double() @ FIELDS.double().T
    torch.testing.assert_close(gram, torch.diag(gram.diagonal()), atol=1e-3 * float(gram.max()), rtol=0)
    assert (gram.diagonal().diff() <= 1e-6 * gram.max()).all()
    nodes = TEMPLATE.nodes
    mirror = torch.cdist(nodes * torch.tensor([-1.0, 1, 1]), nodes).min(1)
    exact = mirror.values < 0.1
    field = FIELDS[0].view(-1, 3)
    image = field[mirror.indices] * torch.tensor([-1.0, 1, 1])
    assert exact.sum() > 50
    torch.testing.assert_close(field[exact], image[exact], atol=0.05 * float(field.abs().max()), rtol=0)


def test_light_is_found_beside_outliers() -> None:
    generator = torch.Generator().manual_seed(5)
    normals = torch.nn.functional.normalize(torch.randn(2, 900, 3, generator=generator), dim=-1)
    reflectance = 0.3 + 0.4 * torch.rand(2, 900, 3, generator=generator)
    sh = 0.1 * torch.randn(2, 9, 3, generator=generator)
    sh[:, 0] += 0.8
    colors = shade_sh(reflectance, normals, sh)
    colors[:, ::5] = 0.02  # hair
    found = fit_light(colors, reflectance, normals, torch.ones(2, 900))
    torch.testing.assert_close(found, sh, atol=0.03, rtol=0)
    dark = fit_light(colors, reflectance, normals, torch.zeros(2, 900))
    assert dark.isfinite().all()
