"""Where antialias finds silhouettes: wherever a surface ends or folds, by a walk over the mesh, and nowhere else."""

import math

import pytest
import torch
from torch import Tensor

from fmlfast.kernels.antialias import antialias, find_silhouettes
from fmlfast.kernels.common.backend import Backend
from fmlfast.kernels.rasterize import Fragments, rasterize
from tests.helpers.silhouette_scenes import DEPTH, FOCAL, at_pixels, camera, mask_of, sphere

backends = pytest.mark.parametrize("backend", ["torch", "triton"])
pytestmark = pytest.mark.usefixtures("poisoned_memory")


@backends
def test_the_walk_stops_at_the_triangle_that_the_other_pixel_sees(backend: Backend):
    """Its centre lies on the border of that triangle, inside by the tie rule; the walk comes from the other side."""
    K = camera(4, 8)
    K[0, 0, 2] = 2.5  # vertices on the axis are projected to the centre exactly
    points = torch.tensor([[x, y] for x in (2.5, 3.0, 60.0) for y in (-50.0, 60.0)])
    vertices = at_pixels(points, K[0], torch.tensor([510.0, 510, 505, 505, 400, 400]))[None]
    triangles = torch.tensor([[0, 2, 1], [1, 2, 3], [2, 4, 3], [3, 4, 5]])
    fragments = rasterize(vertices, triangles, K, 4, 8)
    assert (fragments.triangle_id[..., 2] < 2).all() and (fragments.triangle_id[..., 2] >= 0).all()
    image = torch.rand(1, 4, 8, 2, generator=torch.Generator().manual_seed(0))
    found = antialias(image, vertices, triangles, K, fragments, backend)
    expected = image.clone()
    expected[:, :, 2] = 0.5 * (image[:, :, 1] + image[:, :, 2])
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("seed", range(4))
def test_no_silhouette_is_overlooked(monkeypatch: pytest.MonkeyPatch, seed: int, dtype: torch.dtype):
    """Walking between all pixels finds nothing else: soups and spheres, turned over, torn, flat, huge and broken."""
    g = torch.Generator().manual_seed(seed)
    points, triangles = sphere(6, 22.0)
    flipped = torch.rand(len(triangles), 1, generator=g) < 0.3 * (seed % 2)
    triangles = torch.where(flipped, triangles.flip(1), triangles)[torch.rand(len(triangles), generator=g) < 0.97]
    triangles = torch.cat([triangles, torch.randint(0, len(points), (8, 3), generator=g)])
    offset = torch.tensor([[0.0, 0, DEPTH], [15, -9, 0.7 * DEPTH]], dtype=torch.float64)[:, None]
    rough = 0.3 * torch.randn(2, *points.shape, generator=g, dtype=torch.float64)
    vertices = points * torch.tensor([1.0, 1, 0 if seed == 2 else 1]) + offset + (seed - 1) * rough
    vertices[:, ::50, 2] *= -1
    vertices[1, 5:9] *= torch.tensor([torch.nan, torch.inf, 300, 1e30]).double()[:, None]
    vertices[0] = (vertices[0] * 8).round() / 8  # many on a line
    vertices, Ks = vertices.to(dtype), camera(50, 60).repeat(2, 1, 1).to(dtype)
    fragments = rasterize(vertices.float(), triangles, Ks.float(), 50, 60)
    found = find_silhouettes(vertices, triangles, Ks, fragments)
    monkeypatch.setattr(
        "fmlfast.kernels.antialias.pairs_at_outlines",
        lambda screen, triangles, height, width: torch.ones(2, 2, height, width, dtype=torch.bool),
    )
    assert torch.equal(found, find_silhouettes(vertices, triangles, Ks, fragments))
    assert ((found >= 0).flatten(1).sum(1) > 30).all()


def silhouette_pairs(fragments: Fragments, Ks: Tensor) -> Tensor:
    """[F, 2, H, W] bool: pairs of a covered and an empty pixel where a circle around the middle is steep, or flat."""
    seen = fragments.triangle_id >= 0
    _, height, width = seen.shape
    y, x = torch.meshgrid(torch.arange(height) - Ks[0, 1, 2], torch.arange(width) - Ks[0, 0, 2], indexing="ij")
    pairs = torch.zeros(len(seen), 2, height, width, dtype=torch.bool)
    pairs[:, 0, :, :-1] = (seen[:, :, 1:] != seen[:, :, :-1]) & ((x + 1).abs() > (y + 0.5).abs())[:, :-1]
    pairs[:, 1, :-1] = (seen[:, 1:] != seen[:, :-1]) & ((x + 0.5).abs() <= (y + 1).abs())[:-1]
    return pairs


@pytest.mark.parametrize("n,size", [(3, 61), (16, 120), (24, 90)])
def test_sphere(n: int, size: int):
    """With triangles of 7, 0.7 and 0.2 pixels: silhouettes are found, the area and its gradients are right."""
    radius = 0.4 * size * DEPTH / FOCAL
    points, triangles = sphere(n, radius)
    Ks = camera(size, size)
    offset = torch.tensor([0.3, -0.7, DEPTH], dtype=torch.float64, requires_grad=True)
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    vertices = (points * scale + offset)[None]
    fragments = rasterize(vertices.detach().float(), triangles, Ks, size, size)
    expected = silhouette_pairs(fragments, Ks)
    codes = find_silhouettes(vertices.detach(), triangles, Ks.double(), fragments)
    assert ((codes >= 0) & expected).sum() > 0.95 * expected.sum()
    assert abs((codes >= 0).sum() - expected.sum()) < 0.02 * expected.sum()
    if n > 10:  # looking at the visible triangle's own edges only would not do
        codes = find_silhouettes(vertices.detach(), triangles, Ks.double(), fragments, max_steps=1)
        assert ((codes >= 0) & expected).sum() < 0.05 * expected.sum()

    area = mask_of(vertices, triangles, Ks, fragments).sum()
    to_offset, to_scale = torch.autograd.grad(area, (offset, scale))
    # The cone that touches the sphere, cut at z = f; it makes no difference that the sphere is a little off the axis.
    r, z = radius, DEPTH
    exact = math.pi * FOCAL**2 * r**2 / (z**2 - r**2)
    flatter = (math.pi / (2 * n)) ** 2 / 12 if n < 10 else 0.0
    assert area.item() == pytest.approx(exact, rel=flatter + 2e-3)
    assert to_scale.item() == pytest.approx(2 * exact * z**2 / (z**2 - r**2), rel=0.03)
    assert to_offset[2].item() == pytest.approx(-2 * exact * z / (z**2 - r**2), rel=0.03)
    assert to_offset[:2].abs().max().item() < 0.01 * to_scale.item() / radius


@backends
def test_folds_are_silhouettes_and_creases_are_not(backend: Backend):
    """Two triangles over the edge x = 5.2: the second one bends away, folds back behind the first, or before it."""
    edge = [[5.2, -9.0], [5.2, 30.0]]
    K = camera(6, 11)
    for tip, depth, expected in ((40.0, 900.0, 6 * 11.0), (-30.0, 700.0, 6 * 5.2), (-30.0, 450.0, 6 * 5.2)):
        points = torch.tensor([*edge, [-60.0, 3.0], [tip, 3.0]])
        vertices = at_pixels(points, K[0], torch.tensor([500.0, 500, 500, depth]))[None]
        for cull, second in ((False, [1, 3, 0]), (False, [0, 3, 1]), (True, [1, 3, 0])):
            triangles = torch.tensor([[0, 2, 1], second])
            if cull and depth < 500:
                triangles = triangles.flip(1)  # so that the nearer one is seen
            fragments = rasterize(vertices, triangles, K, 6, 11, cull_backfaces=cull)
            assert mask_of(vertices, triangles, K, fragments, backend).sum().item() == pytest.approx(expected, rel=1e-5)


def test_inner_edges_and_intersections_stay_as_they_are():
    """Nothing but where a surface ends is blended."""
    g = torch.Generator().manual_seed(3)
    image = torch.rand(1, 20, 20, 3, generator=g)
    corners = torch.tensor([[-30.0, -30], [60, -30], [60, 60], [-30, 60]])
    K = camera(20, 20)
    first = at_pixels(corners, K[0], torch.tensor([400.0, 600, 600, 400]))
    second = at_pixels(corners, K[0], torch.tensor([600.0, 400, 400, 600]))
    vertices = torch.cat([first, second])[None]
    triangles = torch.tensor([[0, 1, 2], [0, 2, 3], [4, 5, 6], [4, 6, 7]])
    fragments = rasterize(vertices, triangles, K, 20, 20)
    assert len(fragments.triangle_id.unique()) == 4
    assert torch.equal(antialias(image, vertices, triangles, K, fragments), image)
