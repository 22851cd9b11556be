"""What every kernel owes autograd and its caller, whatever it computes."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fmlfast.kernels.antialias import antialias
from fmlfast.kernels.antialias_clip import antialias_clip
from fmlfast.kernels.blendshape import linear_decode
from fmlfast.kernels.deform import deform, skin_displacements
from fmlfast.kernels.deviation import deviation
from fmlfast.kernels.interpolate import interpolate
from fmlfast.kernels.interpolate_derivatives import interpolate_derivatives
from fmlfast.kernels.normals import vertex_normals
from fmlfast.kernels.photometric import photometric
from fmlfast.kernels.photometric_pixels import photometric_pixels
from fmlfast.kernels.rasterize import Fragments, rasterize
from fmlfast.kernels.rasterize_clip import rasterize_clip
from fmlfast.kernels.shading import shade_sh, shade_vertices
from fmlfast.kernels.sparsity import chromaticity, sparsity
from fmlfast.kernels.texture import texture, texture_mips
from fmlfast.kernels.visibility import vertex_visibility

F, V, H, W = 2, 20, 9, 8
Operation = Callable[..., tuple[Tensor, ...]]


def operation(name: str, device: str) -> tuple[Operation, list[Tensor]]:
    """An operation by kernels as a function of what it has gradients for, and values for that."""
    g = torch.Generator().manual_seed(3)

    def rand(*shape: int) -> Tensor:
        return torch.rand(shape, generator=g).to(device)

    def integers(high: int, *shape: int) -> Tensor:
        return torch.randint(0, high, shape, generator=g).to(device)

    triangles, indices, weights = integers(V, 30, 3), integers(5, V, 8), rand(V, 8)
    points = torch.cat([16 * rand(F, V, 2) - 8, 100 + 10 * rand(F, V, 1)], -1)
    Ks = torch.tensor([[20.0, 0, 4], [0, 20, 4.5], [0, 0, 1]], device=device).repeat(F, 1, 1)
    rotation = torch.linalg.qr(torch.rand(F, 2, 3, 3, generator=g)).Q.contiguous().to(device)
    seen = rasterize(points, triangles, Ks, H, W, backend="torch")
    clip = torch.cat([points[..., :2] / 10, points[..., 2:] - 105, 1 + rand(F, V, 1)], -1)
    clip[..., 2] /= 10
    clipped_seen = rasterize_clip(clip, triangles, H, W, backend="torch")
    pictures, image, edges = rand(F, H, W, 3), rand(F, 3, H, W), integers(V, 9, 2)
    chroma, known = chromaticity(rand(F, 2, V, 3), rand(F, 2, V), "torch")

    def picture(vertices: Tensor) -> tuple[Tensor, ...]:
        found = rasterize(vertices, triangles, Ks, H, W, backend="triton")
        return found.barycentrics, torch.where(found.triangle_id >= 0, found.depth, 0.0)

    def clipped(positions: Tensor) -> tuple[Tensor, ...]:
        found = rasterize_clip(positions, triangles, H, W, derivatives=True, backend="triton")
        assert found.derivatives is not None
        return found.barycentrics, torch.where(found.triangle_id >= 0, found.depth, 0.0), found.derivatives

    def blended(attributes: Tensor, weights: Tensor) -> tuple[Tensor, ...]:
        return (interpolate(attributes, triangles, Fragments(seen.triangle_id, weights, seen.depth), "triton"),)

    def differentiated(attributes: Tensor, slopes: Tensor) -> tuple[Tensor, ...]:
        return (interpolate_derivatives(attributes, triangles, replace(seen, derivatives=slopes), None, "triton"),)

    posed = [rand(V, 3), rand(F, 5, 3), rand(4, V, 3), rand(F, 2, 4), rotation, rand(F, 2, 3)]
    table: dict[str, tuple[Operation, list[Tensor]]] = {
        "linear_decode": (lambda c, b, m: (linear_decode(c, b, m, "triton"),), [rand(3, 5), rand(5, 7), rand(7)]),
        "deform": (lambda m, d, *x: (deform(m, d, indices, weights, *x, backend="triton"),), posed),
        "deform without pose": (lambda m, d, *x: (deform(m, d, indices, weights, *x, backend="triton"),), posed[:4]),
        "skin_displacements": (lambda d: (skin_displacements(d, indices, weights, "triton"),), [rand(F, 5, 3)]),
        "vertex_normals": (lambda v: (vertex_normals(v, triangles, "triton"),), [points]),
        "shade_sh": (lambda r, n, s: (shade_sh(r, n, s, "triton"),), [rand(1, V, 3), rand(F, V, 3), rand(F, 9, 3)]),
        "shade_vertices": (
            lambda v, r, s: shade_vertices(v, triangles, r, s, "triton"),
            [points, rand(1, V, 3), rand(F, 9, 3)],
        ),
        "rasterize": (picture, [points]),
        "rasterize_clip": (clipped, [clip]),
        "antialias_clip": (
            lambda i, v: (antialias_clip(i, v, triangles, clipped_seen, "triton"),),
            [rand(F, H, W, 3), clip],
        ),
        "interpolate": (blended, [rand(F, V, 5), seen.barycentrics]),
        "interpolate_derivatives": (differentiated, [rand(F, V, 5), rand(F, H, W, 4)]),
        "texture": (
            lambda t, u, d, b: (texture(t, u, d, b, boundary_mode="mirror", backend="triton"),),
            [rand(1, 4, 8, 3), rand(F, H, W, 2), rand(F, H, W, 4), rand(F, H, W)],
        ),
        "texture of a cube": (
            lambda t, u, d: (texture(t, u, d, boundary_mode="cube", backend="triton"),),
            [rand(F, 6, 4, 4, 2), rand(F, H, W, 3) - 0.5, rand(F, H, W, 6)],
        ),
        "texture_mips": (lambda t: tuple(texture_mips(t, backend="triton")), [rand(F, 4, 8, 3)]),
        "antialias": (lambda i, v: (antialias(i, v, triangles, Ks, seen, "triton"),), [rand(F, H, W, 3), points]),
        "photometric": (
            lambda v, c: photometric(image, v, Ks, c, None, "l1", "triton")[:1],
            [points, rand(F, V, 3)],
        ),
        "photometric_pixels": (lambda x: (photometric_pixels(x, pictures, None, "l1", "triton"),), [rand(F, H, W, 3)]),
        "sparsity": (lambda x: (sparsity(x, chroma, known, edges, backend="triton"),), [rand(F, V, 3)]),
        "deviation": (lambda x, m: (deviation(x, m, "triton"),), [rand(F, V, 3), rand(V, 3)]),
        "vertex_visibility": (lambda v: (vertex_visibility(v, -v, Ks, seen.depth, "triton"),), [points]),
    }
    return table[name]


DIFFERENTIABLE = (
    "linear_decode",
    "deform",
    "deform without pose",
    "skin_displacements",
    "vertex_normals",
    "shade_sh",
    "shade_vertices",
    "rasterize",
    "rasterize_clip",
    "antialias_clip",
    "interpolate",
    "interpolate_derivatives",
    "texture",
    "texture of a cube",
    "texture_mips",
    "antialias",
    "photometric",
    "photometric_pixels",
    "sparsity",
    "deviation",
)


@pytest.fixture
def restored_default() -> Iterator[None]:
    yield
    torch.set_default_dtype(torch.float32)


def gradients(outs: tuple[Tensor, ...], inputs: list[Tensor], upstream: list[Tensor]) -> list[Tensor]:
    return list(torch.autograd.grad(outs, inputs, upstream, retain_graph=True))


def same(found: list[Tensor], expected: list[Tensor]) -> bool:
    return all(torch.equal(a, b) and bool(a.isfinite().all()) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradients_do_not_depend_on_how_they_are_asked_for(name: str, device: str):
    function, values = operation(name, device)
    inputs = [x.clone().requires_grad_() for x in values]
    outs = function(*inputs)
    g = torch.Generator().manual_seed(4)
    upstream = [torch.rand(o.shape, generator=g).to(device) for o in outs]
    expected = gradients(outs, inputs, upstream)
    assert [x.shape for x in expected] == [x.shape for x in inputs]
    assert any(bool((x != 0).any()) for x in expected)
    assert same(gradients(outs, inputs, upstream), expected)  # a second time
    strided = [torch.stack([u, u], -1)[..., 0] for u in upstream]
    assert not strided[0].is_contiguous()
    assert same(gradients(outs, inputs, strided), expected)
    ones = gradients(outs, inputs, [torch.ones_like(o) for o in outs])
    assert same(gradients(outs, inputs, [o.new_ones(()).expand_as(o) for o in outs]), ones)
    for i in range(len(inputs)):  # one input alone
        only = [x.clone().requires_grad_(i == k) for k, x in enumerate(values)]
        (found,) = gradients(function(*only), [only[i]], upstream)
        torch.testing.assert_close(found, expected[i], rtol=1e-5, atol=1e-5 * float(expected[i].abs().max()))


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradients_are_of_the_values_that_went_in(name: str, device: str):
    """What changes between the passes is refused, or does not matter."""
    function, values = operation(name, device)
    inputs = [x.clone().requires_grad_() for x in values]
    outs = function(*inputs)
    upstream = [torch.ones_like(o) for o in outs]
    expected = gradients(outs, inputs, upstream)
    for x in inputs:
        before = x.detach().clone()
        with torch.no_grad():
            x.mul_(2)
        try:
            assert same(gradients(outs, inputs, upstream), expected)
        except RuntimeError as error:
            assert "modified by an inplace operation" in str(error)
        with torch.no_grad():
            x.copy_(before)
        outs = function(*inputs)


@pytest.mark.parametrize("name", [*DIFFERENTIABLE, "vertex_visibility"])
def test_results_are_single_whatever_the_default(name: str, device: str, restored_default: None):
    function, values = operation(name, device)
    torch.set_default_dtype(torch.float64)
    inputs = [x.clone().requires_grad_() for x in values]
    outs = function(*inputs)
    assert {o.dtype for o in outs} <= {torch.float32, torch.bool}
    if name in DIFFERENTIABLE:
        found = gradients(outs, inputs, [torch.ones_like(o) for o in outs])
        assert all(x.dtype == torch.float32 and bool(x.isfinite().all()) for x in found)
