"""Depth peeling: layers are all hits of a pixel, in the order of depth and then of index."""

import pytest
import torch
from torch import Tensor

from fmlfast.kernels.rasterize_clip import peel, rasterize_clip
from tests.helpers.clip_scenes import DrawClip, cast_clip_rays, changed, draw_clip, moved, same

__all__ = ["draw_clip"]  # a fixture
ONE = torch.tensor([[0, 1, 2]])


def crowd(seed: int) -> tuple[Tensor, Tensor, int, int]:
    """Large triangles one behind the other, some through the planes, each third one twice."""
    g = torch.Generator().manual_seed(seed)
    center = (torch.rand(24, 1, 4, generator=g) - torch.tensor([0.5, 0.5, 0.5, -0.5])) * torch.tensor([1.0, 1, 2, 1])
    positions = center + 2 * (torch.rand(24, 3, 4, generator=g) - 0.5)
    triangles = torch.arange(72).view(-1, 3)
    return positions.view(1, -1, 4), torch.cat([triangles, triangles[::3]]), 13 + seed, 21


def sorted_hits(alone: Tensor) -> tuple[Tensor, Tensor]:
    """Depth and index of the hits of each pixel, sorted by depth, equal ones by index; inf and -1 behind them."""
    depth, order = alone.sort(stable=True, dim=0)
    return depth, torch.where(depth < torch.inf, order, -1).int()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("cull", [False, True])
def test_layers_are_the_hits_of_triangles_drawn_alone_to_the_bit(seed: int, cull: bool):
    positions, triangles, height, width = crowd(seed)
    alone = rasterize_clip(positions[0][triangles], ONE, height, width, cull_backfaces=cull)
    depth, order = sorted_hits(alone.depth)
    behind, layers = None, 0
    for layer in range(len(triangles) + 1):
        behind = rasterize_clip(positions, triangles, height, width, cull_backfaces=cull, behind=behind)
        if bool((behind.triangle_id < 0).all()):
            break
        assert torch.equal(behind.triangle_id[0], order[layer]) and torch.equal(behind.depth[0], depth[layer])
        seen = order[layer] >= 0
        exact = alone.barycentrics[order[layer, seen].long(), *seen.nonzero().T]
        assert torch.equal(behind.barycentrics[0, seen], exact)
        layers += 1
    assert layers == int((order >= 0).sum(0).max()) and layers > 3


def test_layers_match_ray_casting_in_float64():
    positions, triangles, height, width = crowd(4)
    barycentrics, depth, w = cast_clip_rays(positions[0], triangles, height, width)
    hit = (barycentrics >= 0).all(-1) & (w > 0) & (depth.abs() <= 1)
    exact, order = sorted_hits(torch.where(hit, depth, torch.inf))
    sure = (barycentrics.abs() > 1e-10).all(-1).all(0) & ((depth.abs() - 1).abs() > 1e-10).all(0)
    layers = list(peel(positions.double(), triangles, height, width, 9))
    assert sure.float().mean() > 0.99 and (layers[4].triangle_id >= 0).any()
    for layer, fragments in enumerate(layers):
        assert torch.equal(fragments.triangle_id[0][sure], order[layer][sure])
        seen = sure & (order[layer] >= 0)
        torch.testing.assert_close(fragments.depth[0][seen], exact[layer][seen], rtol=0, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_surfaces_of_one_depth_come_in_the_order_of_their_indices(dtype: torch.dtype):
    corners = torch.tensor([[-9.0, -9, 0.3, 1], [9, -9, -0.1, 2], [0, 9, 0, 1]], dtype=dtype)
    triangles = torch.tensor([[0, 1, 2]]).repeat(5, 1)
    for k, fragments in enumerate(peel(corners[None], triangles, 7, 9, 6)):
        assert (fragments.triangle_id == (k if k < 5 else -1)).all()


@pytest.mark.parametrize(("seed", "cull"), [(0, False), (1, False), (2, True)])
def test_kernels_equal_the_reference_to_the_bit(device: str, poisoned_memory: None, seed: int, cull: bool):
    """Frames of ranges, and derivatives of every layer."""
    positions, triangles, height, width = crowd(seed)
    ranges = torch.tensor([[0, len(triangles)], [3, 5]], dtype=torch.int32)
    arguments = height, width, 5, ranges, True, cull
    expected = list(peel(positions[0], triangles, *arguments))
    got = list(peel(positions[0].to(device), triangles.to(device), *arguments, backend="triton"))
    assert (expected[3].triangle_id >= 0).any()
    assert all(same(a, moved(b, "cpu")) for a, b in zip(expected, got, strict=True))


def test_a_layer_is_read_without_its_graph_and_every_layer_has_gradients(draw_clip: DrawClip):
    positions, triangles, height, width = crowd(1)
    leaf = positions.clone().requires_grad_()
    first = draw_clip(leaf, triangles, height, width)
    second = draw_clip(leaf, triangles, height, width, behind=first)
    first = changed(first, Tensor.detach)
    assert same(second, draw_clip(positions, triangles, height, width, behind=first))
    seen = (second.triangle_id >= 0).nonzero()
    frame, row, column = seen[len(seen) // 2].tolist()
    (gradient,) = torch.autograd.grad(second.depth[frame, row, column], leaf)
    moving = gradient[0].abs().amax(1).nonzero().view(-1)
    corners = triangles[int(second.triangle_id[frame, row, column])].sort().values
    assert torch.equal(moving, corners)


def test_layers_of_no_number_are_none():
    positions, triangles, height, width = crowd(1)
    assert list(peel(positions, triangles, height, width, 0)) == []
    (only,) = peel(positions, triangles, height, width, 1)
    assert same(only, rasterize_clip(positions, triangles, height, width))
