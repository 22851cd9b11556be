"""Vertex normals: values, gradients, edge cases, and the kernels against the reference."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from fmlfast.kernels.common.backend import Backend
from fmlfast.kernels.common.topology import topology
from fmlfast.kernels.normals import vertex_normals


def sphere(rings: int = 12, segments: int = 16) -> tuple[Tensor, Tensor]:
    """Unit sphere, vertices [V, 3] float64 and outward triangles [T, 3] int32."""
    theta = torch.linspace(0, math.pi, rings + 1, dtype=torch.float64)[1:-1]
    phi = torch.arange(segments, dtype=torch.float64) * 2 * math.pi / segments
    t, p = torch.meshgrid(theta, phi, indexing="ij")
    body = torch.stack([t.sin() * p.cos(), t.sin() * p.sin(), t.cos()], -1).view(-1, 3)
    vertices = torch.cat([body, torch.tensor([[0.0, 0, 1], [0, 0, -1]], dtype=torch.float64)])
    north, south, triangles = len(body), len(body) + 1, []
    for s in range(segments):
        e = (s + 1) % segments
        triangles.append([north, s, e])
        triangles.append([south, (rings - 2) * segments + e, (rings - 2) * segments + s])
        for r in range(rings - 2):
            a, b = r * segments + s, r * segments + e
            triangles += [[a, a + segments, b + segments], [a, b + segments, b]]
    return vertices, torch.tensor(triangles, dtype=torch.int32)


def test_normals_are_area_weighted_sums():
    g = torch.Generator().manual_seed(0)
    vertices = torch.randn(3, 11, 3, dtype=torch.float64, generator=g)
    triangles = torch.randint(0, 10, (17, 3), generator=g)
    normals = vertex_normals(vertices, triangles)
    expected = torch.zeros_like(vertices)
    for f in range(3):
        for i, j, k in triangles.tolist():
            a, b, c = vertices[f, [i, j, k]]
            for corner in (i, j, k):
                expected[f, corner] += torch.linalg.cross(b - a, c - a)
    expected = torch.nn.functional.normalize(expected, dim=-1)
    torch.testing.assert_close(normals, expected)
    assert (normals[:, 10] == 0).all()  # no triangle there


def test_normals_of_a_sphere_point_outwards():
    vertices, triangles = sphere()
    normals = vertex_normals(50 * vertices[None].float() + 400, triangles)
    assert normals.dtype == torch.float32
    torch.testing.assert_close(normals.norm(dim=-1), torch.ones(1, len(vertices)))
    assert float((normals[0] * vertices).sum(-1).min()) > 0.99


def test_normals_turn_with_the_mesh():
    vertices, triangles = sphere()
    g = torch.Generator().manual_seed(1)
    vertices = vertices + 0.1 * torch.randn(vertices.shape, dtype=torch.float64, generator=g)
    rotation = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=g)).Q
    rotation *= torch.linalg.det(rotation)
    both = vertex_normals(torch.stack([vertices, vertices @ rotation.T]), triangles)
    torch.testing.assert_close(both[0] @ rotation.T, both[1])


def test_degenerate_triangles_have_no_say_and_no_gradient():
    vertices = torch.tensor([[[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [2, 0, 0], [3, 0, 0]]], requires_grad=True)
    triangles = torch.tensor([[0, 1, 2], [1, 3, 4], [3, 3, 4]])
    normals = vertex_normals(vertices, triangles)
    assert normals[0].tolist() == [[0, 0, 1]] * 3 + [[0, 0, 0]] * 2
    normals.square().sum().backward()
    assert vertices.grad is not None and vertices.grad.isfinite().all() and (vertices.grad[0, 3:] == 0).all()


@pytest.mark.parametrize("frames", [1, 3])
def test_gradients(frames: int):
    g = torch.Generator().manual_seed(frames)
    triangles = torch.tensor([[0, 1, 2], [0, 2, 3], [1, 4, 2], [4, 0, 3]])
    vertices = torch.randn(frames, 6, 3, dtype=torch.float64, generator=g).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: vertex_normals(v, triangles), vertices)


def test_batch_equals_one_by_one_and_repeats_bitwise():
    vertices, triangles = sphere(7, 9)
    g = torch.Generator().manual_seed(4)
    batch = vertices.float() + 0.2 * torch.randn(5, *vertices.shape, generator=g)
    batch.requires_grad_()
    weights = torch.randn(batch.shape, generator=g)

    def run(v: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        normals = vertex_normals(v, triangles)
        return normals, torch.autograd.grad((normals * w).sum(), v)[0]

    whole = run(batch, weights)
    assert all(torch.equal(a, b) for a, b in zip(whole, run(batch, weights), strict=True))
    for f in range(5):
        one = run(batch[f : f + 1], weights[f : f + 1])
        assert torch.equal(one[0][0], whole[0][f])
        torch.testing.assert_close(one[1][0], whole[1][f], rtol=1e-5, atol=1e-6)


def test_empty_batch():
    backends: tuple[Backend, ...] = ("torch", "triton")
    for backend in backends:
        vertices = torch.zeros(0, 4, 3, requires_grad=True)
        normals = vertex_normals(vertices, torch.tensor([[0, 1, 2]]), backend)
        assert normals.shape == (0, 4, 3)
        normals.sum().backward()
        assert vertices.grad is not None and vertices.grad.shape == (0, 4, 3)


def soup(vertices: int, triangles: int, seed: int) -> Tensor:
    """Random triangles [T, 3] int32, some degenerate; vertex 0 is in 105 of them, the last one of many in none."""
    g = torch.Generator().manual_seed(seed)
    faces = torch.randint(0, max(vertices - 1, 1), (triangles, 3), generator=g, dtype=torch.int32)
    faces[:105, seed % 3] = 0
    return faces


def normals_and_gradient(
    vertices: Tensor, triangles: Tensor, weights: Tensor, backend: Backend
) -> tuple[Tensor, Tensor]:
    vertices = vertices.clone().requires_grad_()
    normals = vertex_normals(vertices, triangles, backend)
    return normals.detach(), torch.autograd.grad((normals * weights).sum(), vertices)[0]


@pytest.mark.parametrize(("frames", "vertices", "triangles"), [(1, 1, 1), (2, 2, 3), (2, 63, 130), (2, 500, 1001)])
def test_kernels_match_the_reference(
    device: str, poisoned_memory: None, small_programs: None, frames: int, vertices: int, triangles: int
):
    g = torch.Generator().manual_seed(vertices)
    points, weights = (torch.randn(frames, vertices, 3, generator=g) for _ in range(2))
    points = 10 * points + torch.tensor([0.0, 0, 600])
    faces = soup(vertices, triangles, vertices)
    right = normals_and_gradient(points.double(), faces, weights.double(), "torch")
    found = normals_and_gradient(points.to(device), faces.to(device), weights.to(device), "triton")
    normals, gradient = (a.double().cpu() for a in found)
    # Areas that cancel leave their rounding errors: 2^-24 of each, a few for every triangle.
    a, b, c = points.double()[:, faces.long()].unbind(2)
    area = torch.linalg.cross(b - a, c - a)
    total, size = torch.zeros_like(points).double(), torch.zeros(frames, vertices).double()
    for corner in faces.long().T:
        total.index_add_(1, corner, area)
        size.index_add_(1, corner, area.norm(dim=-1))
    error = 2**-24 * 8 * size / total.norm(dim=-1).clamp(min=1e-10)
    assert ((normals - right[0]).norm(dim=-1) <= error).all()
    assert (normals[:, -1] == 0).all()
    assert float((gradient - right[1]).abs().max()) <= 1e-4 * float(right[1].abs().max())


def test_kernels_of_a_smooth_mesh_are_exact(device: str, poisoned_memory: None, small_programs: None):
    vertices, triangles = sphere(20, 31)
    g = torch.Generator().manual_seed(8)
    points = (80 * vertices + torch.randn(3, *vertices.shape, generator=g) + 400).float()
    weights = torch.randn(points.shape, generator=g)
    right = normals_and_gradient(points.double(), triangles, weights.double(), "torch")
    found = normals_and_gradient(points.to(device), triangles.to(device), weights.to(device), "triton")
    torch.testing.assert_close(found[0].cpu().double(), right[0], rtol=0, atol=2e-6)
    torch.testing.assert_close(found[1].cpu().double(), right[1], rtol=0, atol=2e-6 * float(right[1].abs().max()))


def test_kernels_repeat_and_batch_equals_one_by_one(device: str, small_programs: None):
    g = torch.Generator().manual_seed(9)
    points, weights = (torch.randn(4, 70, 3, generator=g).to(device) for _ in range(2))
    faces = soup(70, 200, 9)[100:].to(device)
    whole, again = (normals_and_gradient(points, faces, weights, "triton") for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(whole, again, strict=True))
    for f in range(4):
        one = normals_and_gradient(points[f : f + 1], faces, weights[f : f + 1], "triton")
        assert all(torch.equal(a[0], b[f]) for a, b in zip(one, whole, strict=True))


def test_kernels_give_undefined_normals_no_gradient(device: str):
    points = torch.tensor([[[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [2, 0, 0], [3, 0, 0]]], device=device)
    triangles = torch.tensor([[0, 1, 2], [1, 3, 4], [3, 3, 4]], device=device)
    weights = torch.arange(5.0, device=device)[:, None].expand(1, 5, 3)  # no memory of its own
    normals, gradient = normals_and_gradient(points, triangles, weights, "triton")
    expected = torch.tensor([[0.0, 0, 1]] * 3 + [[0.0, 0, 0]] * 2, device=device)
    torch.testing.assert_close(normals[0], expected, rtol=2**-22, atol=0)  # a GPU's root may be off by an ulp
    torch.testing.assert_close(gradient, normals_and_gradient(points, triangles, weights, "torch")[1])
    assert torch.equal(
        gradient, normals_and_gradient(points, triangles, weights * normals.any(-1, keepdim=True), "triton")[1]
    )
    vertices = points.clone().requires_grad_()
    vertex_normals(vertices, triangles, "triton").backward(weights)
    assert vertices.grad is not None and torch.equal(vertices.grad, gradient)


def lines(count: int) -> tuple[Tensor, Tensor]:
    """Triangles whose corners lie on a line but for rounding, or two of which are one: vertices [1, 3 N, 3], [N, 3]."""
    g = torch.Generator().manual_seed(count)
    start = torch.rand(count, 1, 3, generator=g, dtype=torch.float64) * 100 + torch.tensor([-50.0, -50, 550])
    along = torch.randn(count, 1, 3, generator=g, dtype=torch.float64)
    vertices = (start + along * torch.rand(count, 3, 1, generator=g, dtype=torch.float64)).float()
    vertices[::3, 1] = vertices[::3, 2]
    return vertices.view(1, -1, 3), torch.arange(3 * count).view(-1, 3)


@pytest.mark.parametrize("unit", [1.0, 1e-6, 1e-3, 1e3, 1e9])
@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_triangles_without_area_have_no_normal_in_any_unit(device: str, backend: Backend, unit: float):
    flat, triangles = lines(60)
    points, faces = sphere(6, 7)
    mesh = torch.cat([flat, 60 * points[None].float() + 600], 1).to(device) * unit
    triangles = torch.cat([triangles, faces + flat.shape[1]]).to(device)
    weights = torch.randn(mesh.shape, generator=torch.Generator().manual_seed(0)).to(device)
    normals, gradient = normals_and_gradient(mesh, triangles, weights, backend)
    count = flat.shape[1]
    assert not normals[:, :count].any() and not gradient[:, :count].any()
    right, exact = normals_and_gradient(
        mesh[:, count:].double(), faces.to(device), weights[:, count:].double(), "torch"
    )
    torch.testing.assert_close(normals[:, count:].double(), right, rtol=0, atol=1e-4)
    assert float((gradient[:, count:] - exact).abs().max()) <= 1e-3 * float(exact.abs().max())


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_slivers_and_large_fans_keep_their_normals(device: str, backend: Backend):
    """A fan, and a strip a thousandth of a millimetre high, at a distance of 600 mm."""
    count = 5000 if backend == "torch" else 200  # one after the other, which takes time in the interpreter
    angle = torch.arange(count) * (2 * math.pi / count)
    rim = torch.stack([angle.cos(), angle.sin(), torch.zeros(count)], 1) * 80
    fan = torch.cat([torch.zeros(1, 3), rim])
    ends = torch.arange(1, count + 1)
    triangles = torch.stack([torch.zeros(count).long(), ends, ends % count + 1], 1)
    strip = torch.tensor([[0.0, 0, 0], [50, 0, 0], [0, 1e-3, 0]])
    mesh = torch.cat([fan, strip])[None].to(device) + torch.tensor([0.0, 0, 600], device=device)
    triangles = torch.cat([triangles, torch.tensor([[0, 1, 2]]) + count + 1]).to(device)
    up = torch.tensor([0.0, 0, 1], device=device).expand_as(mesh)
    torch.testing.assert_close(vertex_normals(mesh, triangles, backend), up, rtol=0, atol=1e-3)


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_broken_vertices_without_triangles_stay_alone(device: str, backend: Backend):
    vertices, triangles = sphere(6, 7)
    points = torch.cat([vertices, torch.full((1, 3), torch.nan)])[None].float().to(device)
    weights = torch.ones_like(points)
    weights[:, -1] = torch.nan
    normals, gradient = normals_and_gradient(points, triangles.to(device), weights, backend)
    assert normals[:, :-1].isfinite().all() and (normals[:, -1] == 0).all()
    assert gradient[:, :-1].isfinite().all() and (gradient[:, -1] == 0).all()


def test_topology_is_made_anew_after_triangles_change(device: str):
    vertices, triangles = sphere(6, 7)
    points, triangles = vertices[None].float().to(device), triangles.clone().to(device)
    outward = vertex_normals(points, triangles, "triton")
    assert topology(triangles, points.shape[1]) is topology(triangles, points.shape[1])
    triangles.copy_(triangles.flip(1))
    torch.testing.assert_close(vertex_normals(points, triangles, "triton"), -outward)


GOOD: dict[str, Any] = {"vertices": torch.zeros(1, 4, 3), "triangles": torch.tensor([[0, 1, 2]])}


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("vertices", {"vertices": torch.zeros(4, 3)}),
        ("vertices", {"vertices": torch.zeros(1, 4, 2)}),
        ("vertices", {"vertices": torch.zeros(1, 4, 3).int()}),
        ("vertices", {"vertices": torch.zeros(4, 1, 3).transpose(0, 1).expand(2, 4, 3)}),
        ("triangles", {"triangles": torch.zeros(1, 3)}),
        ("triangles", {"triangles": torch.zeros(0, 3).int()}),
        ("triangles", {"triangles": torch.zeros(1, 4).int()}),
        ("triangles", {"triangles": torch.full((1, 3), 4)}),
        ("triangles", {"triangles": torch.full((1, 3), -1)}),
        ("triangles", {"triangles": torch.zeros(1, 3, device="meta").int()}),
        ("backend", {"backend": "cuda"}),
        ("backend 'triton' computes in float32", {"vertices": torch.zeros(1, 4, 3).double(), "backend": "triton"}),
    ],
)
def test_bad_input_names_the_argument(name: str, change: dict):
    vertex_normals(**GOOD)
    with pytest.raises(ValueError, match=f"^{name}"):
        vertex_normals(**(GOOD | change))
