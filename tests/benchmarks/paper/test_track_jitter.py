"""The measure of jitter on real videos, on points whose noise is known."""

import pytest
import torch

from benchmarks.paper.track_jitter import measure
from fmlfast.ibug68 import OUTER_EYES


def test_jitter_is_measured_where_the_head_is_still() -> None:
    random = torch.Generator().manual_seed(3)
    face = 100 * torch.rand(68, 2, generator=random)
    face[OUTER_EYES[0]], face[OUTER_EYES[1]] = torch.tensor([20.0, 50.0]), torch.tensor([120.0, 50.0])
    time = torch.arange(400)
    place = torch.stack([(0.2 * time).sin().where(time < 200, 0.0) * 60, 0.0 * time], 1)  # px; still in the second half
    true = face + place[:, None]
    noisy, calmer = (true + size * torch.randn(400, 68, 2, generator=random) for size in (0.2, 0.05))
    found = measure(noisy, noisy, calmer)
    assert 180 <= found.frames < 240  # and where the swing turns back
    assert found.detector == found.network == pytest.approx(0.2 * 12**0.5, rel=0.15)  # of two coordinates, 6 each
    assert found.tracked == pytest.approx(0.05 * 12**0.5, rel=0.3)
    assert found.distance == pytest.approx((0.2**2 + 0.05**2) ** 0.5 * (torch.pi / 2) ** 0.5, rel=0.05)
