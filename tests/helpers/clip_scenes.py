"""Scenes in clip space, exact answers and backends shared by the tests of clip-space rasterisation."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fmlfast.kernels.common.fragments import Fragments
from fmlfast.kernels.rasterize_clip import rasterize_clip
from tests.helpers.rasterize_scenes import BACKENDS, cast_rays

DrawClip = Callable[..., Fragments]


@pytest.fixture(params=BACKENDS, ids=lambda p: "-".join(p))
def draw_clip(request: pytest.FixtureRequest) -> DrawClip:
    """`rasterize_clip` by a backend on a device, from tensors on the CPU to tensors on the CPU, and so back."""
    backend, device = request.param

    def run(positions: Tensor, triangles: Tensor, *args, behind: Fragments | None = None, **options) -> Fragments:
        behind = None if behind is None else moved(behind, device)
        drawn = rasterize_clip(
            positions.to(device), triangles.to(device), *args, behind=behind, **options, backend=backend
        )
        return moved(drawn, "cpu")

    return run


def changed(fragments: Fragments, change: Callable[[Tensor], Tensor]) -> Fragments:
    """Fragments of which every tensor is changed."""
    return Fragments(**{name: change(x) for name, x in vars(fragments).items() if x is not None})


def moved(fragments: Fragments, device: str) -> Fragments:
    """The same fragments on another device."""
    return changed(fragments, lambda x: x.to(device))


def frame(fragments: Fragments, f: int) -> Fragments:
    """One frame of them."""
    return changed(fragments, lambda x: x[f : f + 1])


def same(a: Fragments, b: Fragments) -> bool:
    """Whether two pictures are the same to the bit, derivatives included."""
    pairs = zip(vars(a).values(), vars(b).values(), strict=True)
    return all(x is y if x is None or y is None else torch.equal(x, y) for x, y in pairs)


def viewport(height: int, width: int) -> Tensor:
    """The camera that sees the points (x, y, w) where they are seen in clip space."""
    return torch.tensor([[width / 2, 0, width / 2], [0, height / 2, height / 2], [0, 0, 1]])


def clip_soup(seed: int) -> tuple[Tensor, Tensor, int, int]:
    """Triangles of all sizes in and around the frustum, some behind the eye and some through its planes."""
    g = torch.Generator().manual_seed(seed)
    height, width = (int(a) for a in torch.randint(1, 60, (2,), generator=g))
    count = int(torch.randint(10, 40, (1,), generator=g))
    center = (torch.rand(count, 1, 4, generator=g) - torch.tensor([0.5, 0.5, 0.5, 0.2])) * torch.tensor([3.0, 3, 2, 2])
    size = 10 ** (2 * torch.rand(count, 1, 1, generator=g) - 1)
    positions = center + size * (torch.rand(count, 3, 4, generator=g) - 0.5)
    return positions.reshape(1, -1, 4), torch.arange(3 * count).view(-1, 3), height, width


def cast_clip_rays(positions: Tensor, triangles: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Every triangle's plane at every pixel centre in float64: barycentrics [T, H, W, 3], z/w and w [T, H, W]."""
    points = positions[:, [0, 1, 3]]
    barycentrics, w = cast_rays(points, triangles, viewport(height, width), height, width)
    z = (barycentrics * positions.double()[triangles.long(), 2][:, None, None]).sum(-1)
    return barycentrics, z / w, w
