"""Gradients of render(): to colours, background, vertices and cameras, the same bits each time."""

import math

import pytest
import torch
from torch import Tensor

from fmlfast.camera import look_at, project, to_camera
from fmlfast.kernels.common.backend import Backend
from fmlfast.renderer import interpolate, rasterize, render, vertex_normals
from tests.helpers.render_scenes import blob, front, plate


@pytest.mark.parametrize("antialiased", [False, True])
def test_gradients_reach_colors_and_background(antialiased: bool):
    g = torch.Generator().manual_seed(2)
    vertices = torch.rand(2, 12, 3, generator=g) * 100 - 50
    triangles = torch.randint(0, 12, (9, 3), generator=g)
    viewmats, Ks = front(7, 9, 40.0)
    viewmats, Ks = viewmats.expand(2, 4, 4), Ks.expand(2, 3, 3)
    colors = torch.rand(2, 12, 3, generator=g).requires_grad_()
    background = torch.rand(3, generator=g).requires_grad_()
    weights = torch.randn(2, 7, 9, 3, generator=g)

    def loss(c: Tensor, b: Tensor) -> Tensor:
        out = render(vertices, triangles, c, viewmats, Ks, 7, 9, b, antialiased=antialiased, supersample=2)
        return (out.image * weights).sum()

    gradients = torch.autograd.grad(loss(colors, background), (colors, background))
    for tensor, gradient in zip((colors, background), gradients, strict=True):
        direction = torch.randn(tensor.shape, generator=g)
        moved = (tensor + direction).detach()
        change = loss(*((moved, background) if tensor is colors else (colors, moved))) - loss(colors, background)
        assert float(gradient.abs().sum()) > 0.1
        assert float(change.detach()) == pytest.approx(float((gradient * direction).sum()), rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_gradients_of_area_and_depth_reach_vertices_and_cameras(backend: Backend, device: str):
    """A plate that comes 1 mm nearer grows by 2 / distance of its area, and its depth falls by 1 mm in every pixel."""
    vertices, triangles = (a.to(device) for a in plate(half=51.3))
    viewmats, Ks = (a.to(device) for a in front(31, 35, 60.0))
    vertices.requires_grad_()
    viewmats.requires_grad_()
    out = render(vertices, triangles, torch.ones(1, 4, 1, device=device), viewmats, Ks, 31, 35, backend=backend)
    area = out.mask.sum()
    assert float(area.detach()) == pytest.approx((2 * 51.3 * 60 / 500) ** 2, rel=5e-3)  # but for the corners
    to_vertices, to_viewmats = torch.autograd.grad(area, (vertices, viewmats), retain_graph=True)
    assert float(to_vertices[..., 2].sum()) == pytest.approx(2 * float(area.detach()) / 500, rel=0.1)
    assert float(to_viewmats[0, 2, 3]) == pytest.approx(-2 * float(area.detach()) / 500, rel=0.1)
    centre = torch.autograd.grad(out.depth[0, 15, 17], vertices)[0]
    assert float(centre[..., 2].sum()) == pytest.approx(-1.0, rel=1e-4)


@pytest.mark.parametrize("antialiased", [False, True])
@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_gradients_agree_with_finite_differences(backend: Backend, antialiased: bool, device: str):
    """Of everything that has one, inside the surface and, if antialiased, at its outline away from its corners."""
    g = torch.Generator().manual_seed(0)
    vertices, triangles = blob()
    viewmats, Ks = look_at(torch.tensor([[30.0, 20, 400]]), torch.zeros(1, 3)), front(24, 28, 60.0)[1]
    colors = torch.rand(1, 5, 3, generator=g)
    if antialiased:  # the blend is exact for one colour along an edge, and jumps a little with others
        colors = colors[:, :1].repeat(1, 5, 1)
    inputs = [a.to(device).requires_grad_() for a in (vertices, colors, viewmats, torch.rand(3, generator=g))]
    y, x = torch.meshgrid(torch.arange(24) + 0.5, torch.arange(28) + 0.5, indexing="ij")
    corners = project(to_camera(vertices, viewmats), Ks)[0]
    clear = (torch.stack([x, y], -1)[:, :, None] - corners).norm(dim=-1).amin(-1) > 3
    covered = render(vertices, triangles, colors, viewmats, Ks, 24, 28, antialiased=False).mask
    around = torch.nn.functional.avg_pool2d(covered, 3, 1, 1)[0]
    steady = (around < 0.05) | (around > 0.95)  # hard edges and depth jump at the outline
    weights = torch.randn(24, 28, 5, generator=g)
    weights[..., :4] *= (clear if antialiased else steady)[..., None]
    weights[..., 4] *= 0.01 * steady
    weights = weights.double().to(device)

    def loss(tensors: list[Tensor]) -> Tensor:
        vertices, colors, viewmats, background = tensors
        scene = vertices, triangles.to(device), colors, viewmats, Ks.to(device), 24, 28, background
        out = render(*scene, backend=backend, antialiased=antialiased)
        depth = torch.where(out.depth < math.inf, out.depth, 0.0)
        return (torch.cat([out.image, out.mask[..., None], depth[..., None]], -1) * weights).sum()

    step = 1e-2
    for i, gradient in enumerate(torch.autograd.grad(loss(inputs), inputs)):
        direction = torch.randn(inputs[i].shape, generator=torch.Generator().manual_seed(i))
        if i == 2:
            direction[:, :, :3] = 0  # stays a rotation
            direction[:, 3] = 0
        direction = direction.to(device)
        ends = [loss([*inputs[:i], inputs[i].detach() + s * direction, *inputs[i + 1 :]]) for s in (step, -step)]
        change = float((ends[0] - ends[1]).detach()) / (2 * step)
        assert float((gradient * direction).sum()) == pytest.approx(change, rel=1e-2, abs=1e-2), i


def test_sums_have_the_same_bits_on_two_cores():
    """Where many pixels add to few vertices."""
    vertices, triangles = blob()
    points = (vertices * torch.tensor([1.0, -1, -1]) + torch.tensor([0.0, 0, 300])).contiguous()
    fragments = rasterize(points, triangles, front(512, 512, 1000.0)[1], 512, 512)
    weights = torch.randn(1, 512, 512, 3, generator=torch.Generator().manual_seed(0))
    attributes = torch.rand(1, 5, 3, generator=torch.Generator().manual_seed(1)).requires_grad_()
    gradients = []
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for _ in range(8):
            loss = (interpolate(attributes, triangles, fragments) * weights).sum()
            gradients += torch.autograd.grad(loss, attributes)
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, gradients[0]) for a in gradients)


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_training_goes_on_after_evaluation_in_inference_mode(backend: Backend, device: str):
    vertices, triangles = (a.to(device) for a in blob())
    viewmats, Ks = (a.to(device) for a in front(15, 15, 40.0))
    colors = torch.ones(1, 5, 3, device=device)
    with torch.inference_mode():
        shown = render(vertices, triangles, colors, viewmats, Ks, 15, 15, backend=backend)
        normals = vertex_normals(vertices, triangles, backend)
    vertices.requires_grad_()
    out = render(vertices, triangles, colors, viewmats, Ks, 15, 15, backend=backend)
    again = vertex_normals(vertices, triangles, backend)
    (out.mask.sum() + again[..., 0].sum()).backward()
    assert vertices.grad is not None and float(vertices.grad.abs().sum()) > 0
    assert torch.equal(shown.image, out.image) and torch.equal(normals, again)


@pytest.mark.parametrize("backend", ["torch", "triton"])
@pytest.mark.parametrize("exponent", [-60, -20, 20])
def test_the_unit_of_length_changes_no_bit(backend: Backend, exponent: int, device: str):
    """Scaled by a power of two, which floats hold exactly, with `near` in the same unit."""
    vertices, triangles = (a.to(device) for a in blob())
    viewmats, Ks = (a.to(device) for a in front(15, 15, 40.0))
    results = []
    for scale in (1.0, 2.0**exponent):
        points, poses = (vertices * scale).requires_grad_(), viewmats.clone()
        poses[:, :3, 3] *= scale
        colors = torch.linspace(0.2, 1, 5, device=device)[None, :, None].contiguous()
        out = render(points, triangles, colors, poses, Ks, 15, 15, near=scale, backend=backend)
        (gradient,) = torch.autograd.grad(out.mask.sum() + out.image.sum(), points)
        results.append((out.image, out.mask, gradient * scale))
    assert float(results[0][2].abs().sum()) > 0 and bool(((results[0][1] > 0) & (results[0][1] < 1)).any())
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
