"""Antialiased silhouettes: areas and gradients in closed form, the walk over the mesh, a fit."""

import math

import pytest
import torch
from torch import Tensor

from fmlfast.kernels.antialias import antialias, find_silhouettes
from fmlfast.kernels.common.backend import Backend
from fmlfast.kernels.rasterize import Fragments, rasterize
from tests.helpers.silhouette_scenes import DEPTH, FOCAL, at_pixels, camera, draw_mask, mask_of, sphere, to_pixels

backends = pytest.mark.parametrize("backend", ["torch", "triton"])
pytestmark = pytest.mark.usefixtures("poisoned_memory")


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize(
    "backend,top,bottom",
    [
        *(("torch", *x) for x in ((10.2, 10.2), (3.3, 14.9), (19.0, 1.5), (11.5, 11.5), (8.0, 8.0))),
        *(("triton", *x) for x in ((3.3, 14.9), (11.5, 11.5))),
    ],
)
def test_half_plane_is_exact(backend: Backend, top: float, bottom: float, turned: bool, mirrored: bool):
    """The area to one side of an edge across the whole picture, and its gradient to the ends of the edge."""
    size = 21
    K = camera(size, size).double()
    x = torch.tensor([top, bottom], dtype=torch.float64)
    points = torch.stack([torch.stack([x[0] - (x[1] - x[0]), x[1] + (x[1] - x[0]), x.new_tensor(-300.0)])], 1)
    points = torch.cat([points, torch.tensor([[-float(size)], [2.0 * size], [size / 2]])], 1)
    if mirrored:
        points[:, 0] = size - points[:, 0]
    if turned:
        points = points.flip(1)
    depth = torch.tensor([400.0, 600.0, 500.0], dtype=torch.float64)
    vertices = at_pixels(points, K[0], depth)[None].requires_grad_()

    axis, other = (1, 0) if turned else (0, 1)
    edge = to_pixels(vertices[0, :2], K[0])
    middle = edge[0, axis] + (size / 2 - edge[0, other]) / (edge[1, other] - edge[0, other]) * (
        edge[1, axis] - edge[0, axis]
    )
    area = size * (size - middle if mirrored else middle)
    (expected,) = torch.autograd.grad(area, vertices)

    single = backend == "triton"
    leaf = vertices.detach().float().requires_grad_() if single else vertices
    found = draw_mask(leaf, torch.tensor([[0, 1, 2]]), K.float(), size, size, backend).sum()
    (gradient,) = torch.autograd.grad(found, leaf)
    accuracy = 1e-5 if single else 1e-12
    torch.testing.assert_close(found.double(), area.detach(), rtol=accuracy, atol=0)
    torch.testing.assert_close(
        gradient.double(), expected, rtol=10 * accuracy, atol=accuracy * expected.abs().max().item()
    )


@pytest.mark.parametrize("left,right", [(2.0, 9.0), (2.5, 9.5), (3.1, 6.7), (4.3, 4.9), (4.5, 4.5 + 1e-3)])
def test_strips_are_exact_however_they_hit_the_centers(left: float, right: float):
    """Also those thinner than a pixel where they hit a centre."""
    points = torch.tensor([[left, -50.0], [right, -50.0], [right, 90.0], [left, 90.0]], dtype=torch.float64)
    vertices = at_pixels(points, camera(7, 12)[0].double())[None]
    for triangles in ([[0, 1, 2], [0, 2, 3]], [[1, 2, 3], [1, 3, 0]]):
        for flip in (False, True):
            turned = vertices[..., [1, 0, 2]] if flip else vertices
            size = (12, 7) if flip else (7, 12)
            Ks = camera(*size)
            mask = draw_mask(turned, torch.tensor(triangles), Ks, *size)
            line = mask.sum(2 - flip)
            torch.testing.assert_close(line, torch.full_like(line, right - left), rtol=0, atol=2e-5)


def blend_by_segments(corners: Tensor, mask: Tensor) -> Tensor:
    """What one triangle's mask should become, pair by pair, from segments that cross its sides."""
    height, width = mask.shape
    out = mask.clone()
    for row in range(height):
        for column in range(width):
            for dx, dy in ((1, 0), (0, 1)):
                if column + dx >= width or row + dy >= height or mask[row, column] == mask[row + dy, column + dx]:
                    continue
                inside, outside = (row, column), (row + dy, column + dx)
                if mask[inside] == 0:
                    inside, outside = outside, inside
                p, q = (torch.tensor([i[1] + 0.5, i[0] + 0.5], dtype=torch.float64) for i in (inside, outside))
                for k in range(3):
                    a, b = corners[k], corners[(k + 1) % 3]
                    # p + s (q - p) = a + t (b - a)
                    s, t = torch.linalg.solve(torch.stack([q - p, a - b], 1), a - p).tolist()
                    rise = (b - a).abs()
                    if 0 <= s <= 1 and 0 <= t <= 1 and (rise[1] > rise[0] if dx else rise[1] <= rise[0]):
                        out[outside if s > 0.5 else inside] += s - 0.5
    return out


@pytest.mark.parametrize("seed", range(4))
def test_one_triangle_and_the_same_one_cut_into_many(seed: int):
    """Silhouettes are found from any number of triangles away."""
    g = torch.Generator().manual_seed(seed)
    corners = torch.rand(3, 2, generator=g, dtype=torch.float64) * 17
    K = camera(15, 16)
    depth = 400 + 200 * torch.rand(3, generator=g, dtype=torch.float64)
    vertices = at_pixels(corners, K[0].double(), depth)
    one = draw_mask(vertices[None], torch.tensor([[0, 1, 2]]), K, 15, 16)
    hard = (rasterize(vertices[None].float(), torch.tensor([[0, 1, 2]]), K, 15, 16).triangle_id >= 0).double()
    torch.testing.assert_close(one[0], blend_by_segments(corners, hard[0]), rtol=0, atol=1e-6)
    n = 25
    index = {(i, j): k for k, (i, j) in enumerate((i, j) for i in range(n + 1) for j in range(n + 1 - i))}
    weights = torch.tensor([[i, j, n - i - j] for i, j in index], dtype=torch.float64) / n
    cut = [[(i, j), (i + 1, j), (i, j + 1)] for i in range(n) for j in range(n - i)]
    cut += [[(i + 1, j), (i + 1, j + 1), (i, j + 1)] for i in range(n) for j in range(n - i - 1)]
    triangles = torch.tensor([[index[c] for c in t] for t in cut])
    flipped = torch.where(torch.rand(len(triangles), 1, generator=g) < 0.5, triangles, triangles.flip(1))
    for mesh in (triangles, flipped):  # the order of the corners plays no role
        many = draw_mask((weights @ vertices)[None], mesh, K, 15, 16)
        torch.testing.assert_close(many, one, rtol=0, atol=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_area_of_a_triangle_and_its_gradient(seed: int):
    """Right up to what happens at three corners."""
    g = torch.Generator().manual_seed(seed)
    K = camera(200, 200).double()
    corners = torch.tensor([[30.0, 20.0], [180, 70], [60, 170]], dtype=torch.float64)
    corners = corners + 20 * (torch.rand(3, 2, generator=g, dtype=torch.float64) - 0.5)
    vertices = at_pixels(corners, K[0], torch.tensor([400.0, 500, 600], dtype=torch.float64))[None].requires_grad_()
    a, b, c = to_pixels(vertices[0], K[0])
    area = ((b - a)[0] * (c - a)[1] - (b - a)[1] * (c - a)[0]).abs() / 2
    (expected,) = torch.autograd.grad(area, vertices)
    found = draw_mask(vertices, torch.tensor([[0, 1, 2]]), K.float(), 200, 200).sum()
    (gradient,) = torch.autograd.grad(found, vertices)
    assert abs(found.item() - area.item()) < 1.0
    torch.testing.assert_close(gradient, expected, rtol=0, atol=0.02 * expected.abs().max().item())


@backends
def test_diamond_counts_its_edges_once(backend: Backend):
    points = torch.tensor([[20.1, 5.3], [35.1, 20.3], [20.1, 35.3], [5.1, 20.3]])
    vertices = at_pixels(points, camera(40, 40)[0])[None]
    for turn in (1, -1):
        area = draw_mask(
            vertices * torch.tensor([turn, 1, 1]), torch.tensor([[0, 1, 2], [0, 2, 3]]), camera(40, 40), 40, 40, backend
        ).sum()
        assert abs(area.item() - 450) < 1


@backends
def test_surfaces_that_end_at_a_center_and_fragments_of_other_vertices(backend: Backend):
    """A pixel whose centre lies on the border of what it sees is not blended; nor are pairs far from the edge."""
    K, triangles = camera(5, 8), torch.tensor([[0, 1, 2], [0, 2, 3]])
    image = torch.rand(1, 5, 8, 2, generator=torch.Generator().manual_seed(0))
    for left, right in ((2.5, 90.0), (2.5 + 4, 90.0)):
        points = torch.tensor([[left, -50.0], [right, -50.0], [right, 60.0], [left, 60.0]])
        vertices = at_pixels(points, K[0])[None]
        fragments = rasterize(vertices, triangles, K, 5, 8)
        first = int((fragments.triangle_id[0, 2] >= 0).nonzero()[0])
        found = antialias(image, vertices, triangles, K, fragments, backend)
        assert torch.equal(found[:, :, first + 1 :], image[:, :, first + 1 :])
        moved = at_pixels(points - torch.tensor([3.0, 0]), K[0])[None]
        assert torch.equal(antialias(image, moved, triangles, K, fragments, backend), image)
        moved = at_pixels(points + torch.tensor([2.0, 0]), K[0])[None]
        assert torch.equal(antialias(image, moved, triangles, K, fragments, backend), image)


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


def test_translation_moves_the_first_moment():
    """d/dx of the sum of x times the mask is the area: every column's silhouette moves its share."""
    points, triangles = sphere(8, 20.0)
    offset = torch.tensor([1.0, 2.0, DEPTH], dtype=torch.float64, requires_grad=True)
    mask = draw_mask((points + offset)[None], triangles, camera(50, 60), 50, 60)[0]
    x, y = torch.arange(60, dtype=torch.float64), torch.arange(50, dtype=torch.float64)
    area = mask.sum().item()
    for moment, axis in (((mask * x).sum(), 0), ((mask * y[:, None]).sum(), 1)):
        (gradient,) = torch.autograd.grad(moment, offset, retain_graph=True)
        assert gradient[axis].item() == pytest.approx(area * FOCAL / DEPTH, rel=0.03)


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


@backends
def test_near_surface_blends_with_what_is_behind_it(backend: Backend):
    """Colours of two surfaces, no empty pixel anywhere; depth decides whose edge it is."""
    K = camera(5, 9)
    back = at_pixels(torch.tensor([[-30.0, -30], [60, -30], [60, 60], [-30, 60]]), K[0], 900.0)
    front = at_pixels(torch.tensor([[3.8, -30], [60, -30], [60, 60], [3.8, 60]]), K[0], 500.0)
    vertices = torch.cat([back, front])[None]
    triangles = torch.tensor([[0, 1, 2], [0, 2, 3], [4, 5, 6], [4, 6, 7]])
    fragments = rasterize(vertices, triangles, K, 5, 9)
    colors = torch.tensor([[0.2, 1.0], [0.9, 0.0]])
    image = colors[fragments.triangle_id.long() // 2]
    found = antialias(image, vertices, triangles, K, fragments, backend)
    share = torch.tensor([0, 0, 0, 0.2, 1, 1, 1, 1, 1]).view(1, 1, 9, 1)
    torch.testing.assert_close(
        found, (colors[0] * (1 - share) + colors[1] * share).expand(1, 5, 9, 2), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("backend,steps,below", [("torch", 60, 0.02), ("triton", 4, 0.8)])
def test_silhouette_fit(device: str, backend: Backend, steps: int, below: float):
    """A sphere is moved, scaled and dented until its mask is that of a shifted star with five points."""
    size = 40
    points, triangles = (x.to(device) for x in sphere(5, 11.0))
    points, Ks = points.float(), camera(size, size).to(device)
    angle = torch.atan2(points[:, 1], points[:, 0])
    waves = torch.stack([f(k * angle) for k in (2, 3, 4, 5) for f in (torch.cos, torch.sin)])

    def shape(numbers: Tensor) -> Tensor:  # shift x, y, in pixels / 10; log scale; waves
        scale = torch.exp(numbers[2] + numbers[3:] @ waves)[:, None]
        shift = torch.cat([numbers[:2] * (10 * DEPTH / FOCAL), numbers.new_tensor([DEPTH])])
        return (torch.cat([points[:, :2] * scale, points[:, 2:]], 1) + shift)[None]

    star = torch.tensor([0.4, -0.3, 0.25, 0, 0, 0, 0, 0, 0, 0.2, -0.1], device=device)
    with torch.no_grad():
        target = draw_mask(shape(star), triangles, Ks, size, size, backend)
    numbers = torch.zeros_like(star, requires_grad=True)
    optimizer = torch.optim.Adam([numbers], lr=0.04)
    losses = []
    for _ in range(steps):
        loss = (draw_mask(shape(numbers), triangles, Ks, size, size, backend) - target).square().sum()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[0] > 50
    assert losses[-1] < below * losses[0]
