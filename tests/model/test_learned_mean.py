"""The mean face: learned from a crowd's points, kept by the model, and the template's where it is not learned."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fmlfast.data.frames import Frames
from fmlfast.kernels.deform import skin_displacements
from fmlfast.metrics import vertex_error
from fmlfast.model.fml import FML
from fmlfast.model.landmark_fit import LandmarkObservations
from fmlfast.model.shape_prior import learn_shape_prior
from fmlfast.training.settle import settle_mean
from tests.helpers.landmark_scenes import FACE, FIELDS, TEMPLATE, dense, geometry
from tests.helpers.small_model import SMALL

EXPRESSIONS = len(TEMPLATE.expressions)


@pytest.fixture(scope="module")
def mean() -> Tensor:
    """[3G] mm"""
    return 2.0 * FIELDS[1] - 1.5 * FIELDS[4] + FIELDS[9]


@pytest.fixture(scope="module")
def crowd(mean: Tensor) -> list[LandmarkObservations]:
    """Two lots of 64 people in two frames each, whose faces vary about a mean that is not the template's."""
    lots = []
    for seed in range(2):
        smooth = 0.5 * torch.randn(64, 60, generator=torch.Generator().manual_seed(seed))
        lots.append(dense(geometry(smooth, torch.zeros(128, EXPRESSIONS), mean), 64, 0.5, turn=5.0 * seed))
    return lots


def shown(displacement: Tensor) -> Tensor:
    return geometry(torch.zeros(1, 60), torch.zeros(1, EXPRESSIONS), displacement)


def test_a_crowds_mean_is_found(crowd: list[LandmarkObservations], mean: Tensor) -> None:
    learned = learn_shape_prior(TEMPLATE, FIELDS, crowd, True)
    before = vertex_error(TEMPLATE.vertices[None], shown(mean), FACE)
    assert vertex_error(shown(learned.mean), shown(mean), FACE) < 0.5 * before
    inside = torch.linalg.lstsq(FIELDS.T.double(), learned.mean.double()[:, None], driver="gelsd").solution[:, 0]
    torch.testing.assert_close((inside @ FIELDS.double()).float(), learned.mean, atol=1e-3, rtol=0)
    few = learn_shape_prior(TEMPLATE, FIELDS, [first(crowd[0], 2)], True)
    assert few.mean.norm() < 0.4 * learned.mean.norm()  # the prior counts as 32 people with the template's mean


def first(seen: LandmarkObservations, people: int) -> LandmarkObservations:
    frames = people * (len(seen.Ks) // seen.subjects)
    some = {name: getattr(seen, name)[:frames] for name in seen._fields if name != "subjects"}
    return LandmarkObservations(**some, subjects=people)


def test_the_mean_stays_the_templates_where_it_is_not_learned(crowd: list[LandmarkObservations]) -> None:
    fixed, learned = (learn_shape_prior(TEMPLATE, FIELDS, [first(crowd[0], 16)], mean) for mean in (False, True))
    assert not fixed.mean.any() and learned.mean.any()
    # What the mean does not explain, the covariance does.
    assert fixed.smooth.square().sum() > learned.smooth.square().sum()


def test_a_model_has_the_mean_it_was_given(model: FML) -> None:
    mean = torch.randn(len(model.face.smooth), generator=torch.Generator().manual_seed(1)) @ model.face.smooth
    turned = torch.linalg.qr(torch.randn(len(model.face.smooth), len(model.face.smooth)))[0] @ model.face.smooth
    model.face.set_population(turned, mean)
    torch.testing.assert_close(model.face.smooth, turned)
    torch.testing.assert_close(model.face.mean_displacement.flatten(), mean)
    alpha = torch.zeros(2, SMALL.identity_dim + 3)
    expected = mean.view(-1, 3).expand(2, -1, 3)
    torch.testing.assert_close(model.face.displacements(alpha), expected)
    alpha[:, -1] = 0.7
    moved = (mean + 0.7 * turned[2]).view(-1, 3).expand(2, -1, 3)
    torch.testing.assert_close(model.face.displacements(alpha), moved, atol=2e-3, rtol=0)


def test_what_is_learned_of_the_mean_holds_no_expression(model: FML) -> None:
    mean, change = model.face.smooth[3] * 2, torch.randn(len(model.face.smooth))
    assert model.face.identity_mean is not None
    model.face.identity_mean.data.copy_(change)
    model.face.set_population(model.face.smooth, mean)
    assert torch.equal(model.face.mean_displacement.flatten(), mean)  # what was learned of another mean is gone
    model.face.identity_mean.data.copy_(change)
    learned, field = model.face.mean_displacement.detach().flatten() - mean, change @ model.face.smooth
    directions = model.face.complement
    assert (learned @ directions).norm() < 1e-4 * (field @ directions).norm()
    rest = field - directions @ (field @ directions)
    torch.testing.assert_close(learned, rest, atol=1e-4, rtol=1e-4)


def test_a_mean_that_is_not_learned_stays_zero() -> None:
    model = FML(replace(SMALL, learned_mean=False))
    model.face.set_population(model.face.smooth, model.face.smooth[3])
    assert model.face.identity_mean is None and not model.face.mean_displacement.any()
    assert model.face.mean_displacement.shape == model.template.nodes.shape
    assert "face.identity_mean" not in model.state_dict()


def test_what_is_learned_is_saved_and_loaded(dense_frames: Frames, tmp_path: Path) -> None:
    model = FML(SMALL).eval()
    model.learn_shape_prior([LandmarkObservations.of(dense_frames)])
    assert model.shape_fit is not None and model.face.population_mean.any()
    model.save(tmp_path)
    loaded = FML.load(tmp_path)
    assert loaded.shape_fit is not None
    assert torch.equal(loaded.face.population_mean, model.face.population_mean)
    torch.testing.assert_close(loaded.shape_fit.points, model.shape_fit.points)
    torch.testing.assert_close(loaded.encode(dense_frames).identity, model.encode(dense_frames).identity)
    fixed = FML(replace(SMALL, learned_mean=False)).eval()
    fixed.learn_shape_prior([LandmarkObservations.of(dense_frames)])
    assert not fixed.face.population_mean.any()


def test_a_settled_mean_face_keeps_the_face_and_forgets_the_rest() -> None:
    model = FML(SMALL)
    assert model.face.identity_mean is not None
    with torch.no_grad():
        model.face.identity_mean.normal_(0, 3.0, generator=torch.Generator().manual_seed(0))
    drifted, length = model.face.mean_displacement.detach(), float(model.face.identity_mean.detach().norm())
    settle_mean(model)
    settled = model.face.mean_displacement.detach()
    mesh = model.template
    before, after = (skin_displacements(t[None], mesh.skin_indices, mesh.skin_weights)[0] for t in (drifted, settled))
    face = mesh.regions["face"] > 0.9
    assert (after - before)[face].norm(dim=1).mean() < 0.1 * before[face].norm(dim=1).mean()
    assert float(model.face.identity_mean.detach().norm()) < 0.95 * length
    again = settled.clone()
    settle_mean(model)
    assert (model.face.mean_displacement - again).norm() < 0.2 * (settled - drifted).norm()
