"""Antialiased silhouettes: areas and gradients in closed form, what is blended with what, a fit."""

import pytest
import torch
from torch import Tensor

from fmlfast.kernels.antialias import antialias
from fmlfast.kernels.common.backend import Backend
from fmlfast.kernels.rasterize import rasterize
from tests.helpers.silhouette_scenes import DEPTH, FOCAL, at_pixels, camera, draw_mask, sphere, to_pixels

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
