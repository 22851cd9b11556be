"""The studies' measures on cases whose answer is known."""

import pytest
import torch
from torch import Tensor

from benchmarks.paper import pose
from benchmarks.paper.disentangling import explained_share, transfer_errors, variance_ratio, within_mm
from benchmarks.paper.disturbances import DISTURBANCES, bias, contrast, focal, noise, occlusion, side_light
from benchmarks.paper.spaces import Space, best_fit, identity_space, pca
from fmlfast import metrics
from fmlfast.data.frames import Frames
from fmlfast.model.fml import FML
from fmlfast.rotation import FRONTAL, rotation_from_axis_angle
from fmlfast.template.face_template import FaceTemplate
from tests.helpers.small_model import SMALL


@pytest.fixture
def random() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def some_space(random: torch.Generator, dims: int = 4) -> Space:
    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    return Space(30 * normal(50, 3), normal(dims, 50, 3))


def moved(shapes: Tensor, random: torch.Generator) -> Tensor:
    """Each shape under a similarity of its own."""
    turn = rotation_from_axis_angle(torch.randn(len(shapes), 3, generator=random, dtype=torch.float64))
    return 1.7 * shapes @ turn.mT + torch.tensor([3.0, 5.0, 700.0])


def test_shapes_of_the_space_are_fitted_exactly(random: torch.Generator) -> None:
    space = some_space(random)
    codes = torch.randn(6, 4, generator=random, dtype=torch.float64)
    shapes = moved(space.mean + torch.einsum("nk,kvc->nvc", codes, space.basis), random)
    weights = torch.rand(50, generator=random) * (torch.arange(50) % 5 > 0)
    spoiled = shapes.clone()
    spoiled[:, ::5] += 100  # outside the region
    assert best_fit(space, spoiled, weights, rounds=200).max() < 1e-6
    twice = Space(space.mean, torch.cat([space.basis, space.basis[:2] + space.basis[1:3]]))
    assert best_fit(twice, spoiled, weights, rounds=200).max() < 1e-6
    assert best_fit(space.leading(3), spoiled, weights).min() > 0.01


def test_a_fit_is_least_squares(random: torch.Generator) -> None:
    """Against gradient descent on the same squared distance in the true shape's millimetres."""
    space, shape = some_space(random), torch.randn(1, 50, 3, generator=random, dtype=torch.float64)
    shape = moved(space.mean + 3 * shape, random)
    weights = torch.rand(50, generator=random).double() + 0.1
    share = weights / weights.sum()
    codes = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    search = torch.optim.LBFGS([codes], max_iter=100, tolerance_grad=1e-9, tolerance_change=1e-12)

    def fitted() -> Tensor:
        return (space.mean + torch.einsum("k,kvc->vc", codes, space.basis))[None]

    def loss() -> Tensor:
        search.zero_grad()
        place = metrics.similarity_align(fitted(), shape, weights)
        value = ((place.apply(fitted()) - shape).square().sum(-1) * share).sum()
        value.backward()
        return value

    search.step(loss)
    expected = metrics.vertex_error(fitted().detach(), shape, weights)
    torch.testing.assert_close(best_fit(space, shape, weights, rounds=300), expected, rtol=1e-3, atol=0.0)


def test_without_components_the_mean_is_fitted(random: torch.Generator) -> None:
    space = some_space(random)
    shapes = moved(space.mean + 3 * torch.randn(2, 50, 3, generator=random).double(), random)
    expected = metrics.vertex_error(space.mean.expand_as(shapes), shapes, torch.ones(50))
    torch.testing.assert_close(best_fit(space.leading(0), shapes, torch.ones(50)), expected)


def test_pca_finds_the_space_of_its_scans(random: torch.Generator) -> None:
    space = some_space(random, 3)
    codes = torch.randn(40, 3, generator=random, dtype=torch.float64) * torch.tensor([1.0, 0.5, 0.1])
    scans = space.mean + torch.einsum("nk,kvc->nvc", codes, space.basis)
    weights = torch.ones(50)
    found = pca(scans, weights, 12)
    assert best_fit(found, scans, weights, rounds=100).max() < 0.02  # Procrustes bends the space a little
    flat = found.basis.flatten(1)
    gram = flat @ flat.T
    torch.testing.assert_close(gram, torch.diag(gram.diagonal()), atol=1e-6 * float(gram.max()), rtol=0.0)
    assert (gram.diagonal().diff() <= 0).all()
    errors = [float(best_fit(found.leading(k), scans, weights).mean()) for k in range(4)]
    assert errors[0] > 1.5 * errors[1] > errors[2] > errors[3]
    assert len(pca(scans[:5], weights, 12).basis) == 4  # five scans differ in four directions
    assert best_fit(pca(scans[:5], weights, 12), scans[:5], weights, rounds=100).max() < 0.01


def test_the_identity_space_holds_the_models_faces(model: FML) -> None:
    """Learned ones and those of the start from landmarks."""
    model.code_mean.normal_()
    with torch.no_grad():
        model.face.identity_basis.mul_(20.0)  # untrained it hardly moves the face
    space = identity_space(model)
    assert model.shape_fit is not None
    assert len(space.basis) == SMALL.identity_dim + model.shape_fit.count
    codes = torch.randn(3, len(space.basis), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        shapes = model.face.neutral(model.face.displacements(codes), FaceTemplate.default(1))
    moved = (shapes - space.mean).flatten(1).T

    def left(some: Space) -> Tensor:
        directions = some.basis.flatten(1).T
        return (moved - directions @ torch.linalg.lstsq(directions, moved, driver="gelsd").solution).abs().max()

    assert left(space) < 1e-3 < 0.1 < left(space.leading(40))
    lengths = space.basis.flatten(1).norm(dim=1)
    assert (lengths.diff() <= 1e-9).all()


def test_exact_codes_transfer_without_error(random: torch.Generator) -> None:
    neutral, moves = 30 * torch.randn(4, 20, 3, generator=random), torch.randn(4, 3, 20, 3, generator=random)
    weights = torch.ones(20)
    for shift in (0, 1):
        assert transfer_errors(neutral, moves, neutral, moves, weights, shift).max() < 1e-4
    own = transfer_errors(neutral, moves, neutral, moves.flip(0), weights, 0)
    assert own.min() > 0.1
    # Person 1 wears what person 0 does: only that pair notices a wrong expression of person 0.
    wrong = moves.clone()
    wrong[0] += torch.randn(3, 20, 3, generator=random)
    errors = transfer_errors(neutral, wrong, neutral, moves, weights)
    assert errors[1] > 0.1 and errors[[0, 2, 3]].max() < 1e-4


def test_variance_within_people_over_variance_across(random: torch.Generator) -> None:
    person, frame = torch.randn(2000, 1, 3, generator=random), torch.randn(2000, 4, 3, generator=random)
    assert variance_ratio(person.expand(-1, 4, -1)) == 0
    assert variance_ratio(person + 0.5 * frame) == pytest.approx(0.25 / (1 + 0.25 / 4), rel=0.05)
    assert variance_ratio(frame) == pytest.approx(4, rel=0.05)
    with pytest.raises(ValueError, match="two people"):
        variance_ratio(person)


def test_the_share_that_causes_explain(random: torch.Generator) -> None:
    causes, other = torch.randn(100, 8, 10, generator=random), torch.randn(100, 8, 6, generator=random)
    person = 9 * torch.randn(100, 1, 6, generator=random)
    effect = causes @ torch.randn(10, 6, generator=random) / 10**0.5
    assert explained_share(person + effect, causes) == pytest.approx(1, abs=1e-6)
    assert explained_share(person + effect + other, causes) == pytest.approx(0.5, abs=0.08)
    assert explained_share(person + other, causes) == pytest.approx(0, abs=0.03)
    few = torch.randn(12, 4, 400, generator=random)  # ten of 36 directions are explained by chance
    assert explained_share(few, causes[:12, :4]) == pytest.approx(0, abs=0.05)
    with pytest.raises(ValueError, match="too few"):
        explained_share(other[:1, :3], causes[:1, :3])


def test_drift_in_millimetres(random: torch.Generator) -> None:
    face = 60 * torch.randn(1, 1, 400, 3, generator=random, dtype=torch.float64)
    drift = torch.randn(5, 6, 400, 3, generator=random, dtype=torch.float64)
    shapes = moved((face + drift).flatten(0, 1), random) / 1.7
    _, apart = within_mm(shapes.unflatten(0, (5, 6)), torch.ones(400))
    torch.testing.assert_close(apart, torch.full_like(apart, 3**0.5), rtol=0.05, atol=0.0)


def test_yaw_is_the_turn_sideways() -> None:
    frontal = torch.tensor(FRONTAL)
    turns = [
        rotation_from_axis_angle(torch.tensor(axis)) for axis in ([0, 0.5, 0.0], [0, -0.5, 0], [0, 0, 0.4], [0.3, 0, 0])
    ]
    yaw = pose.yaw_degrees(torch.stack([frontal, *(frontal @ turn for turn in turns)]))
    torch.testing.assert_close(yaw, torch.tensor([0.0, 28.648, 28.648, 0.0, 0.0]), atol=0.05, rtol=0.0)


# ---------------------------------------------------------------------------------------------------- the disturbances


def test_disturbances_change_what_they_say(frames: Frames) -> None:
    before = frames.images.clone(), frames.landmarks.clone(), frames.Ks.clone()
    eyes = (frames.landmarks[:, :, 36] - frames.landmarks[:, :, 45]).norm(dim=-1)[..., None, None]
    noisy = (noise(0.02, frames).landmarks - frames.landmarks) / eyes
    assert float(noisy.std()) == pytest.approx(0.02, rel=0.1) and abs(float(noisy.mean())) < 2e-3
    off = (bias(0.04, frames).landmarks - frames.landmarks) / eyes
    torch.testing.assert_close(off.norm(dim=-1), torch.full(off.shape[:-1], 0.04), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(off, off[:1, :1].expand_as(off), rtol=1e-2, atol=1e-4)
    covered = (occlusion(0.25, frames).images == 0.5).all(2).sum((-1, -2))
    box = (frames.landmarks.amax(2) - frames.landmarks.amin(2)).prod(-1)
    assert ((covered / box > 0.15) & (covered / box < 0.35)).all()
    assert (focal(1.4, frames).Ks[..., 0, 0] / frames.Ks[..., 0, 0] - 1.4).abs().max() < 1e-5
    assert torch.equal(focal(1.4, frames).Ks[..., :2, 2], frames.Ks[..., :2, 2])
    dark = DISTURBANCES["half as bright"](frames)
    torch.testing.assert_close(dark.linear, 0.5 * frames.linear, atol=1e-3, rtol=1e-3)
    lit = side_light(0.6, frames).linear / frames.linear.clamp(min=1e-3)
    assert lit[..., 0].median() < 0.5 < 1.2 < lit[..., -1].median()
    assert contrast(1.5, frames).images.std() > frames.images.std()
    for name, disturb in DISTURBANCES.items():
        first, second = disturb(frames), disturb(frames)
        changes = [not torch.equal(a, b) for a, b in zip(first.tensors(), frames.tensors(), strict=True)]
        assert sum(changes) == 1, name  # one thing at a time
        assert all(torch.equal(a, b) for a, b in zip(first.tensors(), second.tensors(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(before, (frames.images, frames.landmarks, frames.Ks), strict=True))
