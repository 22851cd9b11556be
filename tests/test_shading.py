"""Vertex normals and spherical harmonics shading: values, gradients, edge cases."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fmlfast.kernels.shading import sh_basis, shade_sh, vertex_normals


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
    rand: Callable[..., Tensor] = lambda *shape: torch.randn(*shape, dtype=torch.float64, generator=g)  # noqa: E731
    triangles = torch.tensor([[0, 1, 2], [0, 2, 3], [1, 4, 2], [4, 0, 3]])
    vertices = rand(frames, 6, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: vertex_normals(v, triangles), vertices)
    reflectance, normals, sh = (
        a.requires_grad_() for a in (rand(frames, 4, 3), rand(frames, 4, 3), rand(frames, 9, 3))
    )
    assert torch.autograd.gradcheck(shade_sh, (reflectance, normals, sh))
    shared = rand(1, 4, 3).requires_grad_()
    assert torch.autograd.gradcheck(shade_sh, (shared, normals, sh))


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


def test_sh_basis():
    n = torch.nn.functional.normalize(torch.randn(7, 2, 3, generator=torch.Generator().manual_seed(2)), dim=-1)
    h = sh_basis(n)
    assert h.shape == (7, 2, 9)
    for index in ((0, 0), (3, 1), (6, 0)):
        x, y, z = n[index].tolist()
        expected = [1, x, y, z, x * y, x * z, y * z, x * x - y * y, 3 * z * z - 1]
        torch.testing.assert_close(h[index], torch.tensor(expected))


def test_sh_basis_is_orthogonal_over_the_sphere():
    points = torch.randn(200_000, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    h = sh_basis(torch.nn.functional.normalize(points, dim=-1))
    gram = h.T @ h / len(h)
    assert float((gram - gram.diag().diag()).abs().max()) < 0.01
    expected = [1, 1 / 3, 1 / 3, 1 / 3, 1 / 15, 1 / 15, 1 / 15, 4 / 15, 4 / 5]
    torch.testing.assert_close(gram.diag(), torch.tensor(expected, dtype=torch.float64), rtol=0.02, atol=0)


def test_shading_is_reflectance_times_light():
    g = torch.Generator().manual_seed(5)
    normals = torch.nn.functional.normalize(torch.randn(2, 5, 3, generator=g), dim=-1)
    reflectance, sh = torch.rand(2, 5, 3, generator=g), torch.randn(2, 9, 3, generator=g)
    colors = shade_sh(reflectance, normals, sh)
    for f, v, c in ((0, 0, 0), (1, 4, 2), (0, 3, 1)):
        light = sum(float(sh[f, b, c]) * float(sh_basis(normals[f, v])[b]) for b in range(9))
        assert float(colors[f, v, c]) == pytest.approx(float(reflectance[f, v, c]) * light, rel=1e-4, abs=1e-6)
    ambient = torch.zeros(2, 9, 3)
    ambient[:, 0] = 0.7
    torch.testing.assert_close(shade_sh(reflectance[:1], normals, ambient), 0.7 * reflectance[:1].expand(2, -1, -1))


def test_empty_inputs():
    triangles = torch.zeros(0, 3, dtype=torch.int32)
    assert vertex_normals(torch.zeros(0, 4, 3), triangles).shape == (0, 4, 3)
    assert (vertex_normals(torch.rand(2, 4, 3), triangles) == 0).all()
    assert shade_sh(torch.zeros(0, 4, 3), torch.zeros(0, 4, 3), torch.zeros(0, 9, 3)).shape == (0, 4, 3)


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("vertices", lambda: vertex_normals(torch.zeros(4, 3), torch.zeros(1, 3).int())),
        ("vertices", lambda: vertex_normals(torch.zeros(1, 4, 3).int(), torch.zeros(1, 3).int())),
        ("triangles", lambda: vertex_normals(torch.zeros(1, 4, 3), torch.zeros(1, 3))),
        ("triangles", lambda: vertex_normals(torch.zeros(1, 4, 3), torch.full((1, 3), 4))),
        ("normals", lambda: sh_basis(torch.zeros(4, 2))),
        ("normals", lambda: shade_sh(torch.zeros(1, 4, 3), torch.zeros(4, 3), torch.zeros(1, 9, 3))),
        ("reflectance", lambda: shade_sh(torch.zeros(2, 4, 3), torch.zeros(3, 4, 3), torch.zeros(3, 9, 3))),
        ("reflectance", lambda: shade_sh(torch.zeros(3, 4, 3).double(), torch.zeros(3, 4, 3), torch.zeros(3, 9, 3))),
        ("sh", lambda: shade_sh(torch.zeros(3, 4, 3), torch.zeros(3, 4, 3), torch.zeros(3, 3, 9))),
        ("sh", lambda: shade_sh(torch.zeros(3, 4, 3), torch.zeros(3, 4, 3), torch.zeros(3, 9, 3, device="meta"))),
    ],
)
def test_bad_input_names_the_argument(name: str, call: Callable[[], Tensor]):
    with pytest.raises(ValueError, match=f"^{name}"):
        call()
