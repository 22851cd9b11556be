"""Antialiasing in clip space: that of camera space for the points (x, y, w), and its gradients."""

from typing import Any

import pytest
import torch
from torch import Tensor

from fmlfast.kernels.antialias import antialias
from fmlfast.kernels.antialias_clip import antialias_clip
from fmlfast.kernels.common.backend import Backend
from fmlfast.kernels.common.fragments import Fragments
from fmlfast.kernels.rasterize_clip import rasterize_clip
from tests.helpers.clip_scenes import moved, viewport
from tests.helpers.silhouette_scenes import sphere

backends = pytest.mark.parametrize("backend", ["torch", "triton"])
pytestmark = pytest.mark.usefixtures("poisoned_memory")
Scene = tuple[Tensor, Tensor, Tensor, Fragments]


def balls(height: int, width: int, channels: int = 3, frames: int = 2) -> Scene:
    """A bumpy ball before another one, in perspective: image, positions, triangles, fragments."""
    g = torch.Generator().manual_seed(height + width)
    points, triangles = sphere(2, 1.0)
    points = points.float() * (1 + 0.1 * torch.randn(frames, len(points), 1, generator=g))
    points = torch.cat([points + torch.tensor([0.5, 0.2, 4]), points.roll(1, 1) - torch.tensor([0.4, 0.3, -6])], 1)
    triangles = torch.cat([triangles, triangles + points.shape[1] // 2])
    x, y, z = points.unbind(-1)
    positions = torch.stack([2 * x, 2.5 * y, 1.2 * z - 2.4, z], -1)
    fragments = rasterize_clip(positions, triangles, height, width)
    return torch.rand(frames, height, width, channels, generator=g), positions, triangles, fragments


def both(scene: Scene, backend: Backend | None, upstream: Tensor) -> tuple[Tensor, ...]:
    """The picture and the gradients of image and positions."""
    image, positions = (x.clone().requires_grad_() for x in scene[:2])
    out = antialias_clip(image, positions, *scene[2:], backend)
    return out.detach(), *torch.autograd.grad(out, (image, positions), upstream)


@backends
@pytest.mark.parametrize("size", [(1, 1), (1, 63), (21, 17)])
def test_equals_camera_space_to_the_bit(backend: Backend, size: tuple[int, int]):
    image, positions, triangles, fragments = scene = balls(*size)
    upstream = torch.randn(image.shape, generator=torch.Generator().manual_seed(1))
    leaves = [image.clone().requires_grad_(), positions[..., [0, 1, 3]].clone().requires_grad_()]
    Ks = viewport(*size).repeat(2, 1, 1)
    expected = antialias(leaves[0], leaves[1], triangles, Ks, fragments, backend)
    to_image, to_points = torch.autograd.grad(expected, leaves, upstream)
    found, found_image, found_positions = both(scene, backend, upstream)
    assert size[0] < 20 or (found != image).sum() > 30
    assert torch.equal(found, expected.detach()) and torch.equal(found_image, to_image)
    assert (found_positions[..., 2] == 0).all()
    found_points = found_positions[..., [0, 1, 3]]
    torch.testing.assert_close(found_points, to_points, rtol=1e-4, atol=1e-5 * float(to_points.abs().max()) + 1e-12)


@pytest.mark.parametrize("backend", [None, "triton"])
@pytest.mark.parametrize("power", [-40, 40])
def test_a_factor_changes_nothing(backend: Backend | None, power: int):
    image, positions, triangles, fragments = balls(9, 8)
    whole = antialias_clip(image, positions, triangles, fragments, backend)
    assert not torch.equal(whole, image)
    assert torch.equal(whole, antialias_clip(image, positions * 2.0**power, triangles, fragments, backend))


def test_gradcheck():
    image, positions, triangles, fragments = balls(9, 8, 2, 1)
    mesh = triangles, fragments

    def blended(image: Tensor, positions: Tensor) -> Tensor:
        return antialias_clip(image, positions, *mesh)

    leaves = image.double().requires_grad_(), positions.double().requires_grad_()
    assert torch.autograd.gradcheck(blended, leaves, eps=1e-7, atol=1e-6, fast_mode=True)


def test_the_mask_of_a_half_plane_is_its_area():
    """The upper edge of a triangle across the picture, given in clip space, in closed form."""
    size, w = 16, torch.tensor([0.5, 2.0, 1.0], dtype=torch.float64)
    y = torch.tensor([-0.31, 0.17, -9.0], dtype=torch.float64)
    points = torch.stack([torch.tensor([-3.0, 3, 0]).double(), y, torch.zeros(3).double(), torch.ones(3).double()], -1)
    positions = (points * w[:, None])[None].requires_grad_()
    triangles = torch.tensor([[0, 1, 2]])
    fragments = rasterize_clip(positions.detach(), triangles, size, size)
    hard = (fragments.triangle_id >= 0).double()[..., None]
    area = antialias_clip(hard, positions, triangles, fragments).sum()
    at = positions[0, :2, 1] / positions[0, :2, 3]
    exact = size * (at.sum() / 2 + 1) * size / 2  # the edge at x = 0, where it divides the picture in two trapezoids
    torch.testing.assert_close(area, exact)
    found, expected = (torch.autograd.grad(value, positions)[0][0, :2, 1] for value in (area, exact))
    torch.testing.assert_close(found, expected)


@backends
def test_one_buffer_for_all_frames(backend: Backend):
    image, positions, triangles, _ = balls(9, 14, frames=1)
    image, half = image.repeat(2, 1, 1, 1), len(triangles) // 2
    ranges = torch.tensor([[0, half], [half, half]], dtype=torch.int32)
    fragments = rasterize_clip(positions[0], triangles, 9, 14, ranges)
    upstream = torch.randn(image.shape, generator=torch.Generator().manual_seed(2))
    found = both((image, positions[0], triangles, fragments), backend, upstream)
    expected = both((image, positions.repeat(2, 1, 1), triangles, fragments), backend, upstream)
    assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])
    total = expected[2].sum(0)
    torch.testing.assert_close(found[2], total, rtol=1e-5, atol=1e-6 * float(total.abs().max()))
    assert total.abs().amax(1)[: len(total) // 2].max() > 0 and total.abs().amax(1)[len(total) // 2 :].max() > 0


@backends
def test_vertices_that_cannot_be_seen_have_no_silhouettes(backend: Backend):
    image, positions, triangles, fragments = balls(7, 9)
    for bad in (-1.0, torch.nan) if backend == "triton" else (-1.0, 0.0, torch.nan, torch.inf):
        broken = positions.clone()
        broken[:, ::7, 3] = bad
        out, to_image, to_positions = both((image, broken, triangles, fragments), backend, torch.ones_like(image))
        assert out.isfinite().all() and to_image.isfinite().all() and to_positions.isfinite().all()
        assert (to_positions[:, ::7] == 0).all() and (out != image).any()


def test_kernels_match_float64(device: str):
    scene = balls(23, 21)
    upstream = torch.randn(scene[0].shape, generator=torch.Generator().manual_seed(3))
    exact = both((scene[0].double(), scene[1].double(), *scene[2:]), "torch", upstream.double())
    image, positions, triangles, fragments = scene
    single = image.to(device), positions.to(device), triangles.to(device), moved(fragments, device)
    for a, b, accuracy in zip(both(single, "triton", upstream.to(device)), exact, (1e-5, 1e-4, 1e-3), strict=True):
        torch.testing.assert_close(a.cpu().double(), b, rtol=0, atol=accuracy * float(b.abs().max()))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("image", {"image": torch.zeros(2, 20, 25)}),
        ("image", {"image": torch.zeros(2, 20, 25, 3, dtype=torch.float16)}),
        ("positions", {"positions": torch.zeros(1, 104, 4)}),
        ("positions", {"positions": torch.zeros(2, 104, 3)}),
        ("positions must be float32", {"positions": torch.zeros(2, 104, 4, dtype=torch.float64)}),
        ("positions", {"positions": None}),
        ("triangles", {"triangles": torch.full((1, 3), 999)}),
        ("fragments", {"fragments": None}),
        ("backend", {"backend": "cuda"}),
    ],
)
def test_bad_input_names_the_argument(name: str, change: dict):
    good: dict[str, Any] = dict(zip(("image", "positions", "triangles", "fragments"), balls(20, 25), strict=True))
    antialias_clip(**good)
    with pytest.raises(ValueError, match=f"^{name}"):
        antialias_clip(**(good | change))
