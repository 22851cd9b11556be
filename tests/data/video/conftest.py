"""Fixtures of the tests that prepare drawn videos."""

from pathlib import Path

import numpy as np
import pytest

from fmlfast.data.video import prepare as module
from tests.helpers.drawn_faces import HEIGHT, WIDTH, SquareDetector
from tests.helpers.videos import smooth


@pytest.fixture
def detector(monkeypatch: pytest.MonkeyPatch) -> SquareDetector:
    """The drawn squares' detector, in place of MediaPipe."""
    drawn = SquareDetector()
    monkeypatch.setattr(module, "_detector", lambda model: drawn)
    monkeypatch.setattr(module, "face_landmarker_file", lambda path: Path("unused"))
    return drawn


@pytest.fixture
def grey() -> np.ndarray:
    """A background without colour."""
    return np.repeat(smooth(np.random.default_rng(0), HEIGHT, WIDTH)[..., :1] // 2 + 60, 3, axis=2)
