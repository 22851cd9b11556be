"""Scenes, exact answers and backends shared by the tests of rasterisation."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fmlfast.kernels.rasterize import Fragments, rasterize

Draw = Callable[..., Fragments]
BACKENDS = [("torch", "cpu"), ("triton", "cpu"), pytest.param(("triton", "cuda"), marks=pytest.mark.gpu)]


@pytest.fixture(params=BACKENDS, ids=lambda p: "-".join(p))
def draw(request: pytest.FixtureRequest) -> Draw:
    """`rasterize` by a backend on a device, from tensors on the CPU to tensors on the CPU, and so its gradients."""
    backend, device = request.param

    def run(vertices: Tensor, triangles: Tensor, Ks: Tensor, *args, **options) -> Fragments:
        vertices, triangles, Ks = (a.to(device) for a in (vertices, triangles, Ks))
        fragments = rasterize(vertices, triangles, Ks, *args, **options, backend=backend)
        return Fragments(fragments.triangle_id.cpu(), fragments.barycentrics.cpu(), fragments.depth.cpu())

    return run


def cast_rays(vertices: Tensor, triangles: Tensor, K: Tensor, height: int, width: int, near: float = 1.0):
    """Every triangle's hit at every pixel centre, in float64: barycentrics [T, H, W, 3] and depth [T, H, W]."""
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    pixels = torch.stack([x, y, torch.ones_like(x)], -1).double()
    rays = torch.linalg.solve(K.double(), pixels[..., None])[..., 0]  # [H, W, 3]
    corners = vertices.double()[triangles.long()]  # [T, 3, 3]
    # The ray d meets the triangle where sum_i b_i X_i = t d, sum_i b_i = 1.
    volume = torch.linalg.det(corners)[:, None, None]
    cofactors = torch.stack([torch.linalg.cross(corners[:, i], corners[:, j]) for i, j in ((1, 2), (2, 0), (0, 1))], 1)
    weights = torch.einsum("hwc,tic->thwi", rays, cofactors)
    total = weights.sum(-1)
    return weights / total[..., None], volume / total


def picture(seed: int) -> tuple[Tensor, Tensor, Tensor, int, int]:
    """Triangles of all sizes, some behind the camera, some through the near plane, in an oddly sized picture."""
    g = torch.Generator().manual_seed(seed)
    rand = lambda *shape: torch.rand(*shape, generator=g)  # noqa: E731
    height, width = (int(a) for a in torch.randint(1, 60, (2,), generator=g))
    count = int(torch.randint(1, 30, (1,), generator=g)) + 8
    focal = 20 + 80 * rand(2)
    K = torch.tensor([[focal[0], 3.0, width * rand(1)], [0, focal[1], height * rand(1)], [0, 0, 1]])
    at = torch.stack([width * rand(count), height * rand(count), torch.ones(count)], -1)
    center = torch.linalg.solve(K, at[..., None])[..., 0] * (rand(count, 1) * 500 - 50)
    size = 10 ** (rand(count, 1, 1) * 2.2)
    vertices = (center[:, None] + size * (rand(count, 3, 3) - 0.5) * 2).reshape(1, -1, 3)
    return vertices, torch.arange(3 * count).view(-1, 3), K[None], height, width


def grid(rows: int, columns: int, flip: bool) -> Tensor:
    """Two triangles for every cell of a (rows + 1) x (columns + 1) grid of vertices, one winding or mixed."""
    i = torch.arange(rows * (columns + 1)).view(rows, columns + 1)[:, :-1].reshape(-1)
    a, b, c, d = i, i + 1, i + columns + 1, i + columns + 2
    lower = torch.stack([b, d, c] if flip else [b, c, d], -1)
    return torch.cat([torch.stack([a, b, c], -1), lower])


def same(a: Fragments, b: Fragments) -> bool:
    return all(torch.equal(x, y) for x, y in ((a.triangle_id, b.triangle_id), (a.depth, b.depth))) and torch.equal(
        a.barycentrics, b.barycentrics
    )
