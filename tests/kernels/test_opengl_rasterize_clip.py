"""Clip-space rasterisation against OpenGL (llvmpipe): any projection, all planes, depth z / w, derivatives."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from benchmarks.peers.opengl_canvas import Picture
from fmlfast.kernels.interpolate import interpolate
from fmlfast.kernels.rasterize import Fragments
from fmlfast.kernels.rasterize_clip import rasterize_clip
from tests.helpers.opengl import Truth, assert_within, cast, draw, draw_and_cast
from tests.helpers.rasterize_scenes import grid

Scene = tuple[Tensor, Tensor, int, int]  # positions [V, 4], triangles [T, 3], height, width


def random(seed: int) -> Callable[..., Tensor]:
    g = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.rand(*shape, generator=g)


def homogeneous(seed: int) -> Scene:
    """Triangles across all six planes, corners behind the eye among them."""
    rand = random(seed)
    centre = (rand(60, 1, 4) * 2 - 1) * torch.tensor([1.5, 1.5, 1.2, 1.6]) + torch.tensor([0, 0, 0, 1.0])
    positions = centre + (rand(60, 3, 4) - 0.5) * 10 ** (1.5 * rand(60, 1, 1) - 1)
    return positions.view(-1, 4), torch.arange(180).view(60, 3), 63, 41


def orthographic(seed: int) -> Scene:
    """w = 1; triangles reach out of the box on all sides."""
    rand = random(seed)
    centre = rand(60, 1, 3) * 2.6 - 1.3
    positions = centre + (rand(60, 3, 3) - 0.5) * 10 ** (1.5 * rand(60, 1, 1) - 1)
    return torch.nn.functional.pad(positions, (0, 1), value=1.0).view(-1, 4), torch.arange(180).view(60, 3), 41, 63


def small(seed: int) -> Scene:
    """A bumpy sheet of pixel-sized triangles in perspective, that folds over itself."""
    rand, cells = random(seed), 18
    y, x = torch.meshgrid(torch.linspace(-1.2, 1.2, cells + 1), torch.linspace(-1.2, 1.2, cells + 1), indexing="ij")
    points = torch.stack([x, y, torch.full_like(x, 4.0)], -1)
    points += (rand(*points.shape) - 0.5) * torch.tensor([0.25, 0.25, 2.0])
    x, y, z = points.view(-1, 3).unbind(-1)
    return torch.stack([4 * x, 4 * y, 2 * z - 6, z], -1), grid(cells, cells, False), 27, 33


SCENES: dict[str, tuple[Callable[[int], Scene], int]] = {
    "homogeneous": (homogeneous, 8),
    "orthographic": (orthographic, 6),
    "small": (small, 2),
}


def check(found: Fragments, attributes: Tensor, triangles: Tensor, drawn: Picture, truth: Truth) -> Tensor:
    """Compares one frame; returns the pixels that are certain."""
    sure = truth.certain
    assert torch.equal(drawn.triangle_id[sure], truth.triangle_id[sure])
    assert torch.equal(found.triangle_id[0][sure], drawn.triangle_id[sure])
    seen = sure & (drawn.triangle_id >= 0)
    assert_within(found.barycentrics[0][seen], drawn.barycentrics[seen], truth.barycentrics_slack[seen])
    assert_within(found.depth[0][seen], drawn.depth[seen], truth.depth_slack[seen])
    image = interpolate(attributes[None], triangles, found)[0]
    assert_within(image[seen], drawn.attributes[seen], truth.barycentrics_slack[seen].sum(-1, keepdim=True))
    return sure


@pytest.mark.parametrize("cull", [False, True])
@pytest.mark.parametrize("name", SCENES)
def test_same_picture(name: str, cull: bool):
    make, count = SCENES[name]
    certain, covered = [], []
    for seed in range(count):
        positions, triangles, height, width = make(seed)
        attributes = random(seed)(len(positions), 4) * 2 - 1
        drawn, truth = draw_and_cast(positions, triangles, height, width, attributes, cull)
        found = rasterize_clip(positions[None], triangles, height, width, cull_backfaces=cull)
        certain.append(check(found, attributes, triangles, drawn, truth).double().mean())
        covered.append((drawn.triangle_id >= 0).double().mean())
    assert min(certain) > 0.95 and max(covered) > 0.15


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 3)])
def test_odd_sizes(size: tuple[int, int]):
    positions, triangles, _, _ = homogeneous(9)
    drawn, truth = draw_and_cast(positions, triangles, *size)
    found = rasterize_clip(positions[None], triangles, *size).triangle_id[0]
    assert torch.equal(found[truth.certain], drawn.triangle_id[truth.certain]) and truth.certain.double().mean() > 0.9


def test_of_equal_triangles_the_first_is_seen():
    positions, triangles, height, width = orthographic(7)
    again = torch.cat([triangles, triangles.flip(0)])
    drawn, truth = draw(positions, again, height, width), cast(positions, triangles, height, width)
    found = rasterize_clip(positions[None], again, height, width).triangle_id[0]
    assert torch.equal(found[truth.certain], drawn.triangle_id[truth.certain])
    assert 0 < int(found.max()) < len(triangles)


def test_ranges_are_draws_of_parts():
    positions, triangles, height, width = homogeneous(20)
    ranges = torch.tensor([[0, 15], [15, 25], [3, 30]], dtype=torch.int32)
    found = rasterize_clip(positions, triangles, height, width, ranges=ranges)
    for frame, (first, count) in enumerate(ranges.tolist()):
        part = triangles[first : first + count]
        drawn, truth = draw_and_cast(positions, part, height, width)
        sure = truth.certain
        ids = torch.where(drawn.triangle_id >= 0, drawn.triangle_id + first, -1)
        assert torch.equal(found.triangle_id[frame][sure], ids[sure]) and (ids >= 0).any()


def test_layers_are_pictures_of_what_is_left():
    """Large triangles that do not cut each other and are sorted: a layer's is the next one that OpenGL draws."""
    rand = random(21)
    corners = torch.cat([rand(12, 3, 2) * 6 - 3, torch.zeros(12, 3, 1), torch.ones(12, 3, 1)], -1)
    corners[..., 2] = torch.linspace(-0.9, 0.9, 12)[:, None] + (rand(12, 3) - 0.5) * 0.1
    positions, triangles, size = corners.view(-1, 4), torch.arange(36).view(12, 3), (37, 29)
    behind = None
    for layer in range(4):
        behind = rasterize_clip(positions[None], triangles, *size, behind=behind)
        hits = torch.stack([draw(positions, one[None], *size).triangle_id == 0 for one in triangles])
        sure = torch.stack([cast(positions, one[None], *size).certain for one in triangles]).all(0)
        rank = hits.cumsum(0) * hits - 1
        expected = torch.where((rank == layer).any(0), (rank == layer).int().argmax(0), -1)
        assert torch.equal(behind.triangle_id[0][sure], expected.int()[sure]) and sure.double().mean() > 0.9
        assert 0.2 < (expected >= 0).double().mean()


def blocks(x: Tensor) -> Tensor:
    """[H, W, ...] of even sides -> [H / 2, W / 2, 2 rows, 2 columns, ...]."""
    return x.unflatten(1, (-1, 2)).unflatten(0, (-1, 2)).movedim(1, 2)


@pytest.mark.parametrize("name", ["homogeneous", "orthographic"])
def test_derivatives_of_barycentrics(name: str):
    """A difference between neighbours is the geometric mean of the derivatives at both, as b is linear / linear."""
    make, count = SCENES[name]
    compared = 0
    for seed in range(count):
        positions, triangles, _, _ = make(seed)
        size = 46, 62
        found = rasterize_clip(positions[None], triangles, *size, derivatives=True)
        assert found.derivatives is not None
        drawn, truth = draw_and_cast(positions, triangles, *size)
        ids = blocks(drawn.triangle_id)
        whole = ((ids == ids[:, :, :1, :1]) & (ids >= 0) & blocks(truth.certain)).all(-1).all(-1)
        ours, theirs = (blocks(x)[whole].double() for x in (found.derivatives[0], drawn.derivatives))  # [N, 2, 2, 4]
        slack = 4 * blocks(truth.barycentrics_slack)[whole].amax(dim=(1, 2, 3))[:, None, None]
        for axis, channels in ((2, [0, 2]), (1, [1, 3])):
            first, second = ours[..., channels].unbind(axis)
            mean = first.sign() * (first * second).clamp(min=0).sqrt()
            assert_within(mean, theirs[..., channels].mean(axis), slack)
        compared += len(ours)
    assert compared > 500
