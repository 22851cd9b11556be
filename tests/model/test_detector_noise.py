"""How the errors of surface points and scores are modelled."""

import math

import pytest
import torch

from fmlfast.data.landmark_network import landmark_assets
from fmlfast.data.mediapipe478 import NUM_POINTS, NUM_SCORES, SCORE_NAMES
from fmlfast.model.detector_noise import DetectorNoise, spread_points
from tests.helpers.landmark_scenes import TEMPLATE

ONE = torch.ones(1)


@pytest.fixture(scope="module")
def noise() -> DetectorNoise:
    return DetectorNoise(TEMPLATE)


def placed(noise: DetectorNoise, scale: float = 40.0, angle: float = 0.0) -> torch.Tensor:
    """The mean face's points [1, 478, 2], px."""
    c, s = math.cos(angle), math.sin(angle)
    return (scale * noise.canonical @ torch.tensor([[c, -s], [s, c]]).T + torch.tensor([60.0, 70]))[None]


def test_points_cover_the_face_evenly_and_leave_out_the_irises(noise: DetectorNoise) -> None:
    picked = noise.picked
    assert 100 < len(picked) < NUM_POINTS - 10 and (picked.diff() > 0).all() and picked.max() < NUM_POINTS - 10
    points = TEMPLATE.surface_points(TEMPLATE.vertices, picked)
    every = TEMPLATE.surface_points(TEMPLATE.vertices, torch.arange(NUM_POINTS - 10))
    own = torch.cdist(points, points).fill_diagonal_(torch.inf).min(1).values
    farthest = torch.cdist(every, points).min(1).values.max()
    assert farthest <= own.min() + 1e-3  # else farthest-point sampling would have taken that one
    assert torch.equal(spread_points(TEMPLATE), picked)


def test_modes_turn_and_scale_with_the_face(noise: DetectorNoise) -> None:
    precision = torch.full((1, NUM_POINTS), 4.0)
    own, modes = noise.of(placed(noise), precision, ONE)
    known = landmark_assets()
    torch.testing.assert_close(modes[0], 0.5 * known["noise.modes"].float()[:, noise.picked].movedim(0, 2))
    torch.testing.assert_close(own[0], 4 / known["noise.own"].float()[noise.picked])
    large = noise.of(placed(noise, 90.0), precision, ONE)[1]  # their unit is the deviation, not the face
    torch.testing.assert_close(large, modes)
    doubled = noise.of(placed(noise), precision / 4, ONE)
    torch.testing.assert_close(doubled[1], 2 * modes)
    torch.testing.assert_close(doubled[0], own / 4)
    angle = 0.7
    turned = noise.of(placed(noise, 40.0, angle), precision, ONE)[1]
    turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    torch.testing.assert_close(turned, torch.einsum("ij,fpjr->fpir", turn, modes), atol=1e-5, rtol=1e-4)


def test_the_level_is_the_root_of_the_mean_variance(noise: DetectorNoise) -> None:
    deviation = 0.3 + torch.rand(1, NUM_POINTS, generator=torch.Generator().manual_seed(0))
    modes = noise.of(placed(noise), deviation**-2, ONE)[1]
    unit = noise.of(placed(noise), torch.ones(1, NUM_POINTS), ONE)[1]
    torch.testing.assert_close(modes, unit * deviation.square().mean().sqrt())


def test_what_frames_share_counts_more_the_more_there_are(noise: DetectorNoise) -> None:
    surface, precision = placed(noise).expand(4, -1, -1), torch.ones(4, NUM_POINTS)
    modes = noise.of(surface, precision, torch.tensor([0, 1, 2, 5]))[1]
    torch.testing.assert_close(modes[0], modes[1])
    for frame, count in ((2, 2), (3, 5)):
        variance = modes[1].square() * (1 + noise.shared * (count - 1))
        torch.testing.assert_close(modes[frame].square(), variance)
    # The average of M such frames is as uncertain as modes shared by a part can be.
    assert (modes[3].square().sum((0, 1)) / 5 < modes[1].square().sum((0, 1))).all() and (noise.shared > 0).all()


def test_frames_without_points_have_no_errors(noise: DetectorNoise) -> None:
    surface = torch.cat([torch.zeros(1, NUM_POINTS, 2), placed(noise)])
    precision = torch.zeros(2, NUM_POINTS)
    precision[1] = 2.0
    own, modes = noise.of(surface, precision, torch.tensor([1, 1]))
    assert not own[0].any() and not modes[0].any() and own[1].all() and modes[1].any()
    assert own.isfinite().all() and modes.isfinite().all()


def test_scores_tell_of_their_expressions(noise: DetectorNoise) -> None:
    known = landmark_assets()
    generator = torch.Generator().manual_seed(1)
    scores, told = torch.rand(3, NUM_SCORES, generator=generator), torch.tensor([[True], [False], [True]])
    precision, pull = noise.expression_evidence(scores, told)
    assert precision.shape == pull.shape == (3, len(TEMPLATE.expression_names))
    assert not precision[1].any() and not pull[1].any()
    for e, name in enumerate(TEMPLATE.expression_names):
        s = SCORE_NAMES.index(name)
        gain, offset, variance = (float(known[f"scores.{part}"][s]) for part in ("gain", "offset", "variance"))
        assert float(precision[0, e]) == pytest.approx(gain**2 / variance, rel=1e-5)
        assert float(pull[0, e]) == pytest.approx(gain * (float(scores[0, s]) - offset) / variance, rel=1e-4, abs=1e-5)
    assert (precision[0] > 0).sum() > 10
    exact = noise.expression_evidence(noise.gain[None] * 0.6 @ scatter(noise) + offsets(noise), told[:1])
    sure = exact[0][0] > 0
    torch.testing.assert_close((exact[1] / exact[0])[0, sure], torch.full((int(sure.sum()),), 0.6), atol=1e-4, rtol=0)


def scatter(noise: DetectorNoise) -> torch.Tensor:
    """[E, 52] puts each expression's value in the place of its score."""
    return torch.nn.functional.one_hot(noise.score, NUM_SCORES).float()


def offsets(noise: DetectorNoise) -> torch.Tensor:
    return noise.offset[None] @ scatter(noise)
