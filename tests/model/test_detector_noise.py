"""How the errors of surface points and scores are modelled."""

import pytest
import torch

from fmlfast.data.landmark_assets import landmark_assets
from fmlfast.data.mediapipe478 import NUM_POINTS, NUM_SCORES, SCORE_NAMES
from fmlfast.model.detector_noise import DetectorNoise, spread_points
from tests.helpers.landmark_scenes import TEMPLATE


@pytest.fixture(scope="module")
def noise() -> DetectorNoise:
    return DetectorNoise(TEMPLATE)


def test_points_cover_the_face_evenly_and_leave_out_the_irises(noise: DetectorNoise) -> None:
    picked = noise.picked
    assert 100 < len(picked) < NUM_POINTS - 10 and (picked.diff() > 0).all() and picked.max() < NUM_POINTS - 10
    points = TEMPLATE.surface_points(TEMPLATE.vertices, picked)
    every = TEMPLATE.surface_points(TEMPLATE.vertices, torch.arange(NUM_POINTS - 10))
    own = torch.cdist(points, points).fill_diagonal_(torch.inf).min(1).values
    farthest = torch.cdist(every, points).min(1).values.max()
    assert farthest <= own.min() + 1e-3  # else farthest-point sampling would have taken that one
    assert torch.equal(spread_points(TEMPLATE), picked)


def test_weights_are_a_part_of_the_precision_and_zero_without_points(noise: DetectorNoise) -> None:
    precision = torch.rand(3, NUM_POINTS, generator=torch.Generator().manual_seed(0))
    precision[1] = 0.0
    weights = noise.weights(precision)
    assert weights.shape == (3, len(noise.picked)) and not weights[1].any()
    ratio = precision[::2, noise.picked] / weights[::2]
    torch.testing.assert_close(ratio, ratio[:1, :1].expand_as(ratio))
    assert ratio[0, 0] > 1  # neighbours err alike, so that each tells less than its variance says


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
