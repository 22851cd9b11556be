"""Paths of heads that are still, nod and blink, with noise: calm where still, without lag where not."""

import numpy as np
import pytest
import torch

from fmlfast.reconstruction.track.motion import FrameFit
from fmlfast.reconstruction.track.smooth import (
    Path,
    _second_difference,
    _solve,
    expression_groups,
    smooth_path,
)
from fmlfast.rotation import FRONTAL, axis_angle_from_rotation, rotation_from_axis_angle

NAMES = ("jawOpen", "eyeBlinkLeft", "browInnerUp", "eyeLookInLeft")
GROUPS = expression_groups(NAMES)
NOISE = np.array([0.004] * 3 + [0.3] * 2 + [3.0] + [0.02] * 4)  # radians, mm, expressions
RATE = 30.0


def truth(times: np.ndarray) -> np.ndarray:  # [T, 10]
    """A head that does not move."""
    still = np.array([0.1, -0.2, 0.05, 10.0, -5.0, 600.0, 0.3, 0.2, 0.4, 0.3])
    return np.tile(still, (len(times), 1))


def fit_of(values: np.ndarray, noise: np.ndarray = NOISE) -> FrameFit:
    """Frames of which everything is known up to `noise`, [10] or [T, 10]."""
    tensors = torch.from_numpy(values).float()
    rotation = rotation_from_axis_angle(tensors[:, :3]) @ torch.tensor(FRONTAL)
    spread = torch.from_numpy(np.broadcast_to(noise, values.shape).copy()).float()
    return FrameFit(rotation, tensors[:, 3:6], tensors[:, 6:].clamp(min=0), torch.diag_embed(spread**-2))


def values_of(path: Path) -> np.ndarray:  # [T, 10]
    turn = axis_angle_from_rotation(path.rotation @ torch.tensor(FRONTAL).mT)
    return torch.cat([turn, path.translation, path.expression], 1).double().numpy()


def noisy(values: np.ndarray, seed: int = 0, noise: np.ndarray = NOISE) -> np.ndarray:
    return values + noise * np.random.default_rng(seed).standard_normal(values.shape)


def jitter(values: np.ndarray) -> np.ndarray:  # [10]
    """Change of each unknown from frame to frame."""
    return np.sqrt(np.mean(np.diff(values, axis=0) ** 2, axis=0))


def lag(found: np.ndarray, wanted: np.ndarray) -> int:
    """Frames by which `found` comes after `wanted`, at the peak of their cross correlation."""
    a, b = found - found.mean(), wanted - wanted.mean()
    return int(np.argmax(np.correlate(a, b, "full"))) - (len(b) - 1)


@pytest.mark.parametrize("count", [3, 4, 5, 6, 9])
def test_the_block_solver_solves_the_normal_equations(count: int) -> None:
    rng, size = np.random.default_rng(count), 4
    root = rng.standard_normal((count, size, 6))
    information = root @ root.transpose(0, 2, 1) * 10.0 ** rng.integers(-2, 5, (count, 1, 1))
    offset, weight = rng.standard_normal((count, size)), rng.uniform(0.1, 10, (count - 2, size))
    factors = _second_difference(np.cumsum(rng.uniform(0.5, 2, count)))
    acceleration = rng.standard_normal((count - 2, size))
    matrix, right = np.zeros((count * size, count * size)), np.zeros(count * size)
    for t in range(count):
        rows = slice(t * size, (t + 1) * size)
        matrix[rows, rows] = information[t]
        right[rows] = -information[t] @ offset[t]
    for t in range(count - 2):
        for n in range(size):  # weight * (acceleration + factors . step)^2
            row = np.zeros(count * size)
            row[[(t + k) * size + n for k in range(3)]] = factors[t]
            matrix += weight[t, n] * np.outer(row, row)
            right -= weight[t, n] * acceleration[t, n] * row
    expected = np.linalg.solve(matrix, right).reshape(count, size)
    found = _solve(information, offset, weight, factors, acceleration)
    np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-9)


def test_second_differences_are_exact_for_parabolas_at_irregular_times() -> None:
    times = np.cumsum(np.random.default_rng(0).uniform(0.01, 0.2, 20))
    values = 3 * times**2 - 5 * times + 2
    factors = _second_difference(times)
    found = (factors * np.stack([values[:-2], values[1:-1], values[2:]], 1)).sum(1)
    np.testing.assert_allclose(found, 6.0, rtol=1e-6)


def test_a_still_head_becomes_at_least_four_times_calmer() -> None:
    times = np.arange(150) / RATE
    wanted = truth(times)
    given = noisy(wanted)
    found = values_of(smooth_path(fit_of(given), times, GROUPS))
    lids = np.array([group == "lids" for group in ("pose",) * 6 + tuple(GROUPS)])
    assert (jitter(found) < jitter(given) / np.where(lids, 2.5, 4)).all()  # lids may move at any moment
    assert (np.abs(found - wanted).mean(0) < np.where(lids, 0.8, 0.6) * np.abs(given - wanted).mean(0)).all()


def test_a_fast_nod_keeps_its_time_and_its_amplitude() -> None:
    times = np.arange(150) / RATE
    wanted = truth(times)
    nod = 0.25 * np.exp(-(((times - 2.5) / 0.12) ** 2))  # 14 degrees within a fifth of a second
    wanted[:, 0] += nod
    wanted[:, 4] += 60 * nod
    found = values_of(smooth_path(fit_of(noisy(wanted)), times, GROUPS))
    for column in (0, 4):
        assert lag(found[:, column], wanted[:, column]) == 0
        rise = np.ptp(found[60:90, column]) / np.ptp(wanted[60:90, column])
        assert 0.85 < rise < 1.15
    assert jitter(found[:50])[0] < jitter(noisy(wanted)[:50])[0] / 3  # and before it the head is still


def test_a_blink_of_three_frames_keeps_its_time_and_its_amplitude() -> None:
    times = np.arange(120) / RATE
    wanted = truth(times)
    wanted[60:63, 7] += (0.5, 0.7, 0.5)
    found = values_of(smooth_path(fit_of(noisy(wanted)), times, GROUPS))[:, 7]
    assert lag(found, wanted[:, 7]) == 0
    assert found[61] - np.median(found) > 0.85 * 0.7
    assert np.argmax(found) == 61
    assert (np.abs(np.delete(found, range(57, 66)) - 0.2) < 0.05).all()


def test_a_path_in_windows_is_nearly_the_whole_path() -> None:
    times = np.arange(160) / RATE
    wanted = truth(times)
    wanted[:, 1] += 0.3 * np.sin(3 * times)
    fit = fit_of(noisy(wanted))
    whole = values_of(smooth_path(fit, times, GROUPS))
    first = smooth_path(fit.map(lambda v: v[:104]), times[:104], GROUPS).part(0, 80)  # and 24 frames of outlook
    rest = smooth_path(fit.map(lambda v: v[80:]), times[80:], GROUPS, first.part(-2), times[78:80].tolist())
    assert len(rest.rotation) == 80
    joined = values_of(Path.join([first, rest]))
    alone = values_of(Path.join([first, smooth_path(fit.map(lambda v: v[80:]), times[80:], GROUPS)]))
    assert (np.abs(joined - whole)[70:100].mean(0) < 0.5 * NOISE).all()
    step, usual = np.abs(np.diff(joined, axis=0))[79], np.abs(np.diff(whole, axis=0)).max(0)
    assert (step < 2 * usual + 0.1 * NOISE).all()
    assert np.abs(np.diff(alone, axis=0))[79][0] > np.abs(np.diff(joined, axis=0))[79][0]


def test_frames_before_stay_where_they_are() -> None:
    times = np.arange(12) / RATE
    values = truth(times)
    moved = values.copy()
    moved[2:, 3] += 0.3  # what follows lies a little elsewhere
    fit = fit_of(moved)
    before = Path(fit.rotation[:2], fit.translation[:2], fit.expression[:2])
    rest = fit.map(lambda v: v[2:])
    near = smooth_path(rest, times[2:], GROUPS, before, times[:2].tolist())
    free = smooth_path(rest, times[2:], GROUPS)
    assert near.translation[0, 0] < free.translation[0, 0] - 0.1
    assert len(near.translation) == 10


def test_irregular_frame_times_are_respected() -> None:
    rng = np.random.default_rng(3)
    times = np.cumsum(rng.choice([1, 1, 1, 2, 5], 120)) / RATE
    wanted = truth(times)
    wanted[:, 3] += 80 * times  # at one speed: no acceleration, whatever the gaps
    wanted[:, 2] += 0.2 * times
    given = noisy(wanted, 1)
    found = values_of(smooth_path(fit_of(given), times, GROUPS))
    assert (np.abs(found - wanted).mean(0)[[2, 3]] < 0.5 * np.abs(given - wanted).mean(0)[[2, 3]]).all()
    even = values_of(smooth_path(fit_of(given), np.arange(120) / RATE, GROUPS))
    assert np.abs(found - wanted)[:, 3].mean() < 0.7 * np.abs(even - wanted)[:, 3].mean()


@pytest.mark.parametrize("count", [1, 2])
def test_fewer_than_three_frames_stay_as_they_are(count: int) -> None:
    fit = fit_of(noisy(truth(np.zeros(count))))
    found = smooth_path(fit, np.arange(count) / RATE, GROUPS)
    torch.testing.assert_close(found.rotation, fit.rotation)
    torch.testing.assert_close(found.translation, fit.translation)
    torch.testing.assert_close(found.expression, fit.expression)


def test_a_frame_after_two_given_ones_is_smoothed_with_them() -> None:
    values = truth(np.zeros(3))
    fit = fit_of(noisy(values))
    before = Path(fit.rotation[:2], fit.translation[:2], fit.expression[:2])
    found = smooth_path(fit.map(lambda v: v[2:]), np.array([2 / RATE]), GROUPS, before, [0.0, 1 / RATE])
    assert found.rotation.shape == (1, 3, 3) and found.translation.isfinite().all()


def test_frames_that_tell_little_follow_those_that_tell_much() -> None:
    times = np.arange(90) / RATE
    wanted = truth(times)
    noise = np.tile(NOISE, (90, 1))
    noise[40:44] *= 50  # a hand before the face
    noise[60] *= 1000
    given = noisy(wanted, 2, noise)
    found = values_of(smooth_path(fit_of(given, noise), times, GROUPS))
    sure = np.abs(noisy(wanted, 2)[:40] - wanted[:40]).max(0)
    for frame in (*range(40, 44), 60):
        assert (np.abs(found[frame] - wanted[frame]) < 1.5 * sure).all()


def test_expressions_stay_at_zero_or_above() -> None:
    times = np.arange(60) / RATE
    wanted = truth(times)
    wanted[:, 6:] = 0.0
    assert smooth_path(fit_of(noisy(wanted)), times, GROUPS).expression.min() >= 0


def test_expressions_belong_to_groups() -> None:
    assert GROUPS == ["mouth", "lids", "brows", "gaze"]
    assert expression_groups(["eyeSquintRight", "eyeWideLeft", "cheekPuff"]) == ["lids", "lids", "mouth"]
