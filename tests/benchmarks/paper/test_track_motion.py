"""The motion that tracking is measured on, and how its delay is found."""

import numpy as np
import pytest

from benchmarks.paper.track_motion import BLINKS, FAST, RATE, SECONDS, STILL, _delay, script
from fmlfast.template.face_template import FaceTemplate

NAMES = FaceTemplate.default(0).expression_names
FRAMES = np.arange(round(SECONDS * RATE))


def test_the_head_is_still_and_then_fast() -> None:
    motion = script(FRAMES, NAMES, np.array([5.0, -3.0, 2.0]))
    turned = np.abs(np.diff(motion.angles, axis=0)).max(1)
    assert turned[: round(FAST[0] * RATE)].max() == 0
    fast = slice(round(FAST[0] * RATE), round(FAST[1] * RATE))
    assert turned[fast].max() > 5  # degrees a frame
    np.testing.assert_allclose(motion.angles[0], [5.0, -3.0, 2.0])
    assert np.ptp(motion.expression[STILL], axis=0).max() == 0


def test_lids_close_when_they_are_said_to() -> None:
    motion = script(FRAMES, NAMES, np.zeros(3))
    lids = motion.expression[[round(at * RATE) for at in BLINKS], NAMES.index("eyeBlinkLeft")]
    np.testing.assert_allclose(lids, 1, atol=1e-6)
    assert motion.expression.min() >= 0 and motion.expression.max() <= 1


def test_parts_of_the_motion_join() -> None:
    whole = script(FRAMES, NAMES, np.zeros(3))
    part = script(FRAMES[40:50], NAMES, np.zeros(3))
    np.testing.assert_array_equal(part.angles, whole.angles[40:50])
    np.testing.assert_array_equal(part.expression, whole.expression[40:50])


@pytest.mark.parametrize(("late", "gain"), [(0.0, 1.0), (1.3, 0.8), (-0.75, 1.1)])
def test_delay_and_amplitude_of_a_curve_are_found(late: float, gain: float) -> None:
    true = np.sin(2 * np.pi * 1.5 * FRAMES / RATE)
    found = 0.2 + gain * np.sin(2 * np.pi * 1.5 * (FRAMES - late) / RATE)
    lag, turn = _delay(found, true)
    assert lag == pytest.approx(late, abs=0.06) and turn == pytest.approx(gain, abs=0.03)
