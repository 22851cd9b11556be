"""Spherical harmonics shading: values, gradients, edge cases, and the kernels against the reference."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from fmlfast.kernels.common.backend import Backend
from fmlfast.kernels.normals import vertex_normals
from fmlfast.kernels.shading import sh_basis, shade_sh, shade_vertices


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


def rand(g: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=g)


@pytest.mark.parametrize(("frames", "sets"), [(1, 1), (3, 3), (3, 1), (4, 2)])
def test_gradients(frames: int, sets: int):
    g = torch.Generator().manual_seed(frames)
    triangles = torch.tensor([[0, 1, 2], [0, 2, 3], [1, 4, 2], [4, 0, 3]])
    inputs = [rand(g, sets, 5, 3), rand(g, frames, 5, 3), rand(g, frames, 9, 3)]
    reflectance, normals, sh = (a.requires_grad_() for a in inputs)
    assert torch.autograd.gradcheck(shade_sh, (reflectance, normals, sh))
    assert torch.autograd.gradcheck(lambda r, v, s: shade_vertices(v, triangles, r, s), (reflectance, normals, sh))


def test_frames_of_a_set_share_its_reflectance():
    g = torch.Generator().manual_seed(1)
    reflectance, normals, sh = rand(g, 2, 5, 3), rand(g, 6, 5, 3), rand(g, 6, 9, 3)
    torch.testing.assert_close(
        shade_sh(reflectance, normals, sh), shade_sh(reflectance.repeat_interleave(3, 0), normals, sh)
    )


class Scene:
    """Random inputs and upstream gradients, well conditioned: a bumpy plane cut into triangles of random diagonals."""

    def __init__(self, frames: int, sets: int, side: int, seed: int = 0) -> None:
        g = torch.Generator().manual_seed(seed)
        x, y = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
        plane = torch.stack([y, x, 500 + torch.zeros(side, side)], -1).view(-1, 3)
        corner = (side * x + y)[:-1, :-1].flatten()
        a, b, c, d = corner, corner + 1, corner + side, corner + side + 1
        turn = torch.rand(len(corner), 1, generator=g) < 0.5
        first = torch.where(turn, torch.stack([a, c, b], 1), torch.stack([a, c, d], 1))
        second = torch.where(turn, torch.stack([b, c, d], 1), torch.stack([a, d, b], 1))
        self.triangles = torch.cat([first, second]).int()
        self.vertices = plane + 0.3 * torch.randn(frames, side**2, 3, generator=g)
        self.reflectance = torch.rand(sets, side**2, 3, generator=g)
        self.sh = torch.randn(frames, 9, 3, generator=g)
        self.upstream = torch.randn(2, frames, side**2, 3, generator=g)

    def cast(self, device: str, dtype: torch.dtype) -> "Scene":
        other = Scene.__new__(Scene)
        other.triangles = self.triangles.to(device)
        for name in ("vertices", "reflectance", "sh", "upstream"):
            setattr(other, name, getattr(self, name).to(device, dtype))
        return other

    def shade(self, backend: Backend, needed: str = "vrs", used: str = "cn") -> dict[str, Tensor]:
        """Colours, normals and the gradients by name."""
        inputs = {"v": self.vertices, "r": self.reflectance, "s": self.sh}
        leaves = {k: a.clone().requires_grad_(k in needed) for k, a in inputs.items()}
        colors, normals = shade_vertices(leaves["v"], self.triangles, leaves["r"], leaves["s"], backend)
        results = {"c": colors, "n": normals}
        loss = sum(((results[k] * self.upstream["cn".index(k)]).sum() for k in used), torch.zeros(()))
        gradients = torch.autograd.grad(loss, [leaves[k] for k in needed], allow_unused=True)
        return {k: a.detach() for k, a in results.items()} | {
            f"d{k}": a for k, a in zip(needed, gradients, strict=True) if a is not None
        }

    def shade_given_normals(self, backend: Backend) -> dict[str, Tensor]:
        normals = vertex_normals(self.vertices, self.triangles, backend)
        leaves = [a.clone().requires_grad_() for a in (self.reflectance, normals, self.sh)]
        colors = shade_sh(*leaves, backend=backend)
        gradients = torch.autograd.grad(colors, leaves, self.upstream[0])
        return {"c": colors.detach()} | dict(zip(("dr", "dn", "ds"), gradients, strict=True))


def assert_matches(found: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    """Float32 against float64, relative to the largest number: positions at 500 mm of triangles of 1 mm are exact."""
    assert found.keys() == right.keys()
    for name, expected in right.items():
        error = (found[name].cpu() - expected).abs().max() / expected.abs().max()
        assert float(error) < 5e-6, (name, float(error))


@pytest.mark.parametrize(("frames", "sets", "side"), [(1, 1, 2), (4, 2, 8), (3, 1, 19)])
def test_kernels_match_the_reference(
    device: str, poisoned_memory: None, small_programs: None, frames: int, sets: int, side: int
):
    scene = Scene(frames, sets, side)
    exact, single = scene.cast("cpu", torch.float64), scene.cast(device, torch.float32)
    assert_matches(single.shade("triton"), exact.shade("torch"))
    assert_matches(single.shade_given_normals("triton"), exact.shade_given_normals("torch"))


@pytest.mark.parametrize(
    ("needed", "used"),
    [
        (needed, used)
        for needed in ("v", "r", "s", "rs", "vr")
        for used in ("c", "n", "cn")
        if used != "n" or "v" in needed
    ],
)
def test_kernels_give_the_gradients_asked_for(
    device: str, poisoned_memory: None, small_programs: None, needed: str, used: str
):
    scene = Scene(4, 2, 6)
    found = scene.cast(device, torch.float32).shade("triton", needed, used)
    right = scene.cast("cpu", torch.float64).shade("torch", needed, used)
    zero = {f"d{k}": torch.zeros_like(a) for k, a in (("r", scene.reflectance), ("s", scene.sh)) if k in needed}
    for name in zero.keys() & found.keys() - right.keys():  # the reference leaves out what is 0
        assert (found.pop(name) == 0).all()
    assert_matches(found, right)


def test_kernels_repeat_and_batch_equals_one_by_one(device: str, small_programs: None):
    scene = Scene(3, 3, 9).cast(device, torch.float32)
    whole, given = scene.shade("triton"), scene.shade_given_normals("triton")
    again = scene.shade("triton")
    assert all(torch.equal(whole[k], again[k]) for k in whole)
    for f in range(3):
        one = scene.cast(device, torch.float32)
        for name in ("vertices", "reflectance", "sh"):
            setattr(one, name, getattr(scene, name)[f : f + 1])
        one.upstream = scene.upstream[:, f : f + 1]
        for single, batch in ((one.shade("triton"), whole), (one.shade_given_normals("triton"), given)):
            for name, value in single.items():
                if name == "ds":  # torch may add up blocks of vertices in another order
                    torch.testing.assert_close(value[0], batch[name][f])
                else:
                    assert torch.equal(value[0], batch[name][f]), name


def test_kernels_take_any_strides_of_light_and_upstream_gradient(device: str):
    scene = Scene(2, 1, 5).cast(device, torch.float32)
    normals = vertex_normals(scene.vertices, scene.triangles, "triton")
    expected = shade_sh(scene.reflectance, normals, scene.sh, "triton")
    sh = scene.sh.transpose(1, 2).contiguous().transpose(1, 2).requires_grad_()
    colors = shade_sh(scene.reflectance, normals, sh, "triton")
    assert torch.equal(colors, expected)
    colors.sum().backward()
    other = scene.sh.clone().requires_grad_()
    shade_sh(scene.reflectance, normals, other, "torch").sum().backward()
    assert sh.grad is not None and other.grad is not None
    torch.testing.assert_close(sh.grad, other.grad, rtol=1e-5, atol=1e-5)
    vertices, upstream = scene.vertices.clone().requires_grad_(), scene.upstream[0, :, :1]
    _, normals = shade_vertices(vertices, scene.triangles, scene.reflectance, scene.sh, "triton")
    (found,) = torch.autograd.grad(normals, vertices, upstream.expand_as(normals))
    again = shade_vertices(vertices, scene.triangles, scene.reflectance, scene.sh, "triton")[1]
    assert torch.equal(found, torch.autograd.grad(again, vertices, upstream.expand_as(normals).contiguous())[0])


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_empty_inputs(backend: Backend):
    for sets, frames, vertices in ((0, 0, 4), (2, 0, 4), (1, 2, 0)):
        reflectance = torch.zeros(sets, vertices, 3, requires_grad=True)
        colors = shade_sh(reflectance, torch.zeros(frames, vertices, 3), torch.zeros(frames, 9, 3), backend)
        assert colors.shape == (frames, vertices, 3)
        colors.sum().backward()
        assert reflectance.grad is not None and (reflectance.grad == 0).all()
    triangles = torch.tensor([[0, 1, 2]])
    pair = shade_vertices(torch.zeros(0, 4, 3), triangles, torch.zeros(0, 4, 3), torch.zeros(0, 9, 3), backend)
    assert [a.shape for a in pair] == [(0, 4, 3)] * 2


NORMALS: dict[str, Any] = {
    "normals": torch.zeros(4, 5, 3),
    "reflectance": torch.zeros(2, 5, 3),
    "sh": torch.zeros(4, 9, 3),
}
MESH: dict[str, Any] = NORMALS | {"vertices": NORMALS["normals"], "triangles": torch.tensor([[0, 1, 2]])}
del MESH["normals"]


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("reflectance", {"reflectance": torch.zeros(3, 5, 3)}),
        ("reflectance", {"reflectance": torch.zeros(0, 5, 3)}),
        ("reflectance", {"reflectance": torch.zeros(2, 6, 3)}),
        ("reflectance", {"reflectance": torch.zeros(2, 5, 3).double()}),
        ("reflectance", {"reflectance": torch.zeros(1, 5, 3).expand(2, 5, 3)}),
        ("sh", {"sh": torch.zeros(4, 3, 9)}),
        ("sh", {"sh": torch.zeros(3, 9, 3)}),
        ("sh", {"sh": torch.zeros(4, 9, 3, device="meta")}),
        ("backend", {"backend": "numpy"}),
    ],
)
def test_bad_input_names_the_argument(name: str, change: dict):
    shade_sh(**NORMALS)
    shade_vertices(**MESH)
    with pytest.raises(ValueError, match=f"^{name}"):
        shade_sh(**(NORMALS | change))
    with pytest.raises(ValueError, match=f"^{name}"):
        shade_vertices(**(MESH | change))


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("normals", lambda: sh_basis(torch.zeros(4, 2))),
        ("normals", lambda: shade_sh(**(NORMALS | dict[str, Any](normals=torch.zeros(5, 3))))),
        ("vertices", lambda: shade_vertices(**(MESH | dict[str, Any](vertices=torch.zeros(4, 5, 4))))),
        ("triangles", lambda: shade_vertices(**(MESH | dict[str, Any](triangles=torch.tensor([[0, 1, 5]]))))),
    ],
)
def test_bad_shapes_name_the_argument(name: str, call: Callable[[], object]):
    with pytest.raises(ValueError, match=f"^{name}"):
        call()
