"""The expressions of synthetic people, by name."""

import numpy as np
import pytest

from fmlfast.data.synthetic.motion import random_head_motion
from fmlfast.template.face_template import FaceTemplate

NAMES = FaceTemplate.default(0).expression_names


@pytest.fixture(scope="module")
def drawn() -> np.ndarray:
    """Expressions [F, E] of 600 clips of four frames."""
    clips = [random_head_motion(np.random.default_rng([3, i]), 4, NAMES).expression for i in range(600)]
    return np.concatenate(clips)


def share(drawn: np.ndarray, name: str, above: float) -> float:
    """The share of frames in which an expression shows, the stronger side's."""
    sides = [column for column, full in enumerate(NAMES) if full in (name, f"{name}Left", f"{name}Right")]
    return float((drawn[:, sides].max(axis=1) > above).mean())


@pytest.mark.parametrize(
    ("name", "above", "least"),
    [
        ("mouthSmile", 0.3, 0.17),
        ("mouthUpperUp", 0.2, 0.1),  # which bares the teeth
        ("jawOpen", 0.3, 0.1),
        ("eyeBlink", 0.95, 0.045),  # closed entirely
        ("browInnerUp", 0.3, 0.05),
        ("mouthPucker", 0.3, 0.05),
        ("eyeLookOut", 0.5, 0.15),
        ("eyeLookDown", 0.3, 0.08),
    ],
)
def test_expressions_of_real_people_are_frequent(drawn: np.ndarray, name: str, above: float, least: float) -> None:
    assert least < share(drawn, name, above) < 0.6


def test_every_expression_is_drawn_and_most_are_rare(drawn: np.ndarray) -> None:
    assert drawn.min() == 0.0 and drawn.max() <= 1.0
    shown = {name: share(drawn, name, 0.1) for name in NAMES if name != "tongueOut"}
    assert min(shown.values()) > 0.005, min(shown, key=lambda name: shown[name])
    assert (drawn == 0).mean() > 0.5


def test_eyes_move_together(drawn: np.ndarray) -> None:
    left, right = NAMES.index("eyeLookOutLeft"), NAMES.index("eyeLookInRight")
    np.testing.assert_array_equal(drawn[:, left], drawn[:, right])
    away = NAMES.index("eyeLookInLeft")
    assert not ((drawn[:, left] > 0) & (drawn[:, away] > 0)).any()


def test_closed_lids_stay_closed_and_do_not_cross(drawn: np.ndarray) -> None:
    """What widens, squints or turns an eye moves its lids, too."""
    movers = [column for column, name in enumerate(NAMES) if name.startswith(("eyeWide", "eyeSquint", "eyeLook"))]
    closed = drawn[:, NAMES.index("eyeBlinkLeft")] == 1.0
    assert closed.any() and not drawn[np.ix_(closed, movers)].any()
