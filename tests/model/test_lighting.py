"""Meshes and poses recovered from pictures by gradient descent through `render`, with either backend."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fmlfast.camera import look_at
from fmlfast.kernels.common.backend import Backend
from fmlfast.renderer import render
from fmlfast.rotation import rotation_from_axis_angle

SIZE = 48


def sphere(rings: int, segments: int, radius: float) -> tuple[Tensor, Tensor]:
    """Vertices [V, 3] and outward triangles [T, 3] of a sphere of latitudes and longitudes."""
    theta = torch.linspace(0, math.pi, rings + 1)[1:-1]
    phi = torch.arange(segments) * (2 * math.pi / segments)
    t, p = torch.meshgrid(theta, phi, indexing="ij")
    body = torch.stack([t.sin() * p.cos(), t.sin() * p.sin(), t.cos()], -1).view(-1, 3)
    ends = torch.tensor([[0.0, 0, 1], [0, 0, -1]])
    north, south, last = len(body), len(body) + 1, (rings - 2) * segments
    triangles = []
    for s in range(segments):
        e = (s + 1) % segments
        triangles += [[north, s, e], [south, last + e, last + s]]
        for r in range(0, last, segments):
            triangles += [[r + s, r + s + segments, r + e + segments], [r + s, r + e + segments, r + e]]
    return torch.cat([body, ends]) * radius, torch.tensor(triangles, dtype=torch.int32)


def camera(device: str) -> tuple[Tensor, Tensor]:
    viewmats = look_at(torch.tensor([[0.0, 0, 500]]), torch.zeros(1, 3)).to(device)
    Ks = torch.tensor([[[150.0, 0, SIZE / 2], [0, 150, SIZE / 2], [0, 0, 1]]], device=device)
    return viewmats, Ks


def star_mask(device: str) -> Tensor:  # [1, SIZE, SIZE]
    """Share of each pixel inside a five-pointed, rounded star, by 8 x 8 samples."""
    samples = (torch.arange(SIZE * 8) + 0.5) / 8 - SIZE / 2
    y, x = torch.meshgrid(samples, samples, indexing="ij")
    rim = SIZE * (0.29 + 0.09 * torch.cos(5 * torch.atan2(y, x) + math.pi / 2))
    inside = (torch.hypot(x, y) < rim).float()
    return F.avg_pool2d(inside[None], 8).to(device)


def steps(backend: Backend, device: str, count: int) -> int:
    """Triton's interpreter is slow: fewer steps show the way there."""
    return count // 16 if backend == "triton" and device == "cpu" else count


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_a_sphere_becomes_a_star(backend: Backend, device: str):
    """Only the mask is looked at: all gradients come from the antialiased outline."""
    start, triangles = (a.to(device) for a in sphere(12, 24, 45.0))
    viewmats, Ks = camera(device)
    target = star_mask(device)
    pairs = torch.cat([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]]).long()
    colors = torch.ones(1, len(start), 1, device=device)
    offset = torch.zeros_like(start, requires_grad=True)
    optimizer = torch.optim.Adam([offset], lr=1.5)

    def overlap(mask: Tensor) -> float:
        return float(torch.minimum(mask, target).sum() / torch.maximum(mask, target).sum())

    overlaps = []
    for _ in range(steps(backend, device, 160)):
        vertices = (start + offset)[None]
        mask = render(vertices, triangles, colors, viewmats, Ks, SIZE, SIZE, backend=backend).mask
        overlaps.append(overlap(mask.detach()))
        stretch = (offset[pairs[:, 0]] - offset[pairs[:, 1]]).square().sum(-1).mean()
        loss = (mask - target).square().mean() + 2e-4 * stretch
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert overlaps[0] < 0.76
    assert overlaps[-1] > (0.95 if len(overlaps) == 160 else overlaps[0] + 0.03), overlaps


def blur(image: Tensor, sigma: float) -> Tensor:  # [1, H, W, C] -> [1, H, W, C]
    if sigma == 0:
        return image
    reach = math.ceil(2.5 * sigma)
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=image.device) / sigma) ** 2)
    kernel = (kernel / kernel.sum()).expand(image.shape[-1], 1, -1)
    planes = image.movedim(-1, 1)
    planes = F.conv2d(planes, kernel[:, :, None], padding=(0, reach), groups=len(kernel))
    return F.conv2d(planes, kernel[..., None], padding=(reach, 0), groups=len(kernel)).movedim(1, -1)


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_a_pose_is_found_from_a_blurred_start(backend: Backend, device: str):
    """25 degrees and 30 mm away: pictures are compared blurred first, then sharper and sharper."""
    g = torch.Generator().manual_seed(5)
    shape, triangles = sphere(10, 16, 40.0)
    shape = shape * torch.tensor([1.0, 0.8, 0.6])
    colors = (0.5 + 0.5 * torch.sin(shape @ torch.randn(3, 3, generator=g) * 0.06))[None].to(device)
    shape, triangles = shape.to(device), triangles.to(device)
    viewmats, Ks = camera(device)

    def draw(turn: Tensor, shift: Tensor) -> Tensor:
        vertices = shape @ rotation_from_axis_angle(turn[None])[0].T + shift
        picture = render(vertices[None], triangles, colors, viewmats, Ks, SIZE, SIZE, backend=backend)
        return torch.cat([picture.image, picture.mask[..., None]], -1)

    turn, shift = torch.tensor([0.3, -0.25, 0.2], device=device), torch.tensor([20.0, -15, 16], device=device)
    with torch.no_grad():
        target = draw(turn, shift)
    pose = [torch.zeros(3, device=device, requires_grad=True), torch.zeros(3, device=device, requires_grad=True)]
    optimizer = torch.optim.Adam([{"params": [pose[0]], "lr": 0.03}, {"params": [pose[1]], "lr": 2.0}])
    count = steps(backend, device, 160)
    errors = []
    for step in range(count):
        share = step / 160
        sigma = 6.0 * max(0.0, 1 - 1.6 * share)
        for group, rate in zip(optimizer.param_groups, (0.03, 2.0), strict=True):
            group["lr"] = rate * min(1.0, 2.5 * (1 - share))
        errors.append(float((pose[1] - shift).detach().norm()))
        optimizer.zero_grad()
        (blur(draw(*pose), sigma) - blur(target, sigma)).square().mean().backward()
        optimizer.step()
    turned = rotation_from_axis_angle(pose[0].detach()[None])[0] @ rotation_from_axis_angle(turn[None])[0].T
    degrees = math.degrees(math.acos(min(1.0, float(turned.trace() - 1) / 2)))
    if count == 160:
        assert degrees < 1 and errors[-1] < 1, (degrees, errors[-1])
    else:
        assert errors[-1] < 0.9 * errors[0], errors
