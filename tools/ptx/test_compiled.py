# SPDX-License-Identifier: Apache-2.0
"""What compiled kernels promise beyond their results; runs with the emulator's plugin."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from fmlfast.kernels.normals import vertex_normals
from fmlfast.kernels.rasterize import rasterize
from fmlfast.kernels.shading import shade_vertices
from fmlfast.kernels.sparsity import sparsity
from tools.ptx.driver import settings
from tools.ptx.execute import Kernel

ROW = re.compile(r"\bld\.global[^ ]*\.v4\.")  # loads four floats


@pytest.fixture
def launched() -> Iterator[dict[str, list[Kernel]]]:
    """The kernels of all launches, by name."""
    kernels: dict[str, list[Kernel]] = {}

    def keep(name: str, kernel: Kernel, grid: tuple[int, int, int], values: list[Any], names: list[str]) -> None:
        kernels.setdefault(name, []).append(kernel)

    settings.on_launch = keep
    yield kernels
    settings.on_launch = None


def test_both_passes_of_a_fixed_point_sum_compute_the_same_numbers(launched: dict[str, list[Kernel]]) -> None:
    """Compiled twice, products and sums must not be fused, or what is added may exceed the largest that was found."""
    vertices = torch.tensor([[[-1.0, -1, 3], [1, -1, 3], [0, 1, 4]]]).requires_grad_()
    Ks = torch.tensor([[[20.0, 0, 8], [0, 20, 8], [0, 0, 1]]])
    seen = rasterize(vertices, torch.tensor([[0, 1, 2]]), Ks, 16, 16, backend="triton")
    torch.autograd.grad(seen.barycentrics.square().sum(), vertices)
    assert [sum(i.op == "fma_f" for i in kernel.program.code) for kernel in launched["rasterize_bwd_kernel"]] == [0, 0]


def test_neighbours_are_gathered_in_rows_of_four(launched: dict[str, list[Kernel]]) -> None:
    """One load a neighbour: a vertex's own row, and those of a pair; backward also those of the gradients."""
    vertices, reflectance = torch.rand(2, 1, 5, 3).requires_grad_()
    triangles = torch.tensor([[0, 1, 2], [0, 2, 3], [0, 3, 4]])
    torch.autograd.grad(vertex_normals(vertices, triangles, backend="triton").sum(), vertices)
    shade_vertices(vertices, triangles, reflectance, torch.rand(1, 9, 3), backend="triton")
    sparsity(
        reflectance,
        torch.rand(1, 5, 2),
        torch.ones(1, 5, dtype=torch.bool),
        triangles[:, :2].contiguous(),
        backend="triton",
    )
    loads = {name: sum(ROW.search(i.text) is not None for i in k.program.code) for name, (k, *_) in launched.items()}
    assert loads["vertex_normals_fwd_kernel"] == loads["shade_vertices_fwd_kernel"] == 3
    assert loads["area_vectors_bwd_kernel"] == 5
    assert loads["sparsity_fwd_kernel"] >= 2
