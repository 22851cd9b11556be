# SPDX-License-Identifier: Apache-2.0
"""What compiled kernels promise beyond their results; runs with the emulator's plugin."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from fmlfast.kernels.rasterize import rasterize
from tools.ptx.driver import settings
from tools.ptx.execute import Kernel


@pytest.fixture
def fused() -> Iterator[dict[str, list[int]]]:
    """How many products are fused with a sum in each launch, by kernel."""
    counts: dict[str, list[int]] = {}

    def count(name: str, kernel: Kernel, grid: tuple[int, int, int], values: list[Any], names: list[str]) -> None:
        counts.setdefault(name, []).append(sum(i.op == "fma_f" for i in kernel.program.code))

    settings.on_launch = count
    yield counts
    settings.on_launch = None


def test_both_passes_of_a_fixed_point_sum_compute_the_same_numbers(fused: dict[str, list[int]]) -> None:
    """Compiled twice, products and sums must not be fused, or what is added may exceed the largest that was found."""
    vertices = torch.tensor([[[-1.0, -1, 3], [1, -1, 3], [0, 1, 4]]]).requires_grad_()
    Ks = torch.tensor([[[20.0, 0, 8], [0, 20, 8], [0, 0, 1]]])
    seen = rasterize(vertices, torch.tensor([[0, 1, 2]]), Ks, 16, 16, backend="triton")
    torch.autograd.grad(seen.barycentrics.square().sum(), vertices)
    assert fused["rasterize_bwd_kernel"] == [0, 0]
