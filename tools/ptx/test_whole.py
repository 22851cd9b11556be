# SPDX-License-Identifier: Apache-2.0
"""A whole reconstruction by compiled kernels; runs with the emulator's plugin. Whole training steps: tests/training."""

from pathlib import Path

import numpy as np
import pytest
import torch

from fmlfast.model.fml import FML
from fmlfast.reconstruction import pipeline
from tests.helpers.photographs import PLACES, FakeDetector, photograph
from tests.helpers.small_model import SMALL
from tools.ptx import driver


def test_a_reconstruction_of_either_backend_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    FML(SMALL).eval().save(tmp_path / "run")
    picture, face = photograph(*PLACES["left"])
    monkeypatch.setattr(FakeDetector, "faces", {PLACES["left"][:2]: [face]})
    monkeypatch.setattr(pipeline, "FaceDetector", FakeDetector)
    expected = pipeline.reconstruct(picture, tmp_path / "run", refine=2, texture=64)
    assert not driver.counts
    monkeypatch.setenv("PTX_DEFAULT_BACKEND", "triton")
    found = pipeline.reconstruct(picture, tmp_path / "run", refine=2, texture=64)
    assert len(driver.counts) > 10
    np.testing.assert_allclose(found.camera_vertices, expected.camera_vertices, atol=1e-2)  # mm
    np.testing.assert_allclose(found.shaded, expected.shaded, atol=1e-3)
