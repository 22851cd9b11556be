"""Photometric losses at vertices: values, gradients, what is ignored, and kernels against reference."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from fmlfast.camera import project
from fmlfast.kernels.common.backend import Backend
from fmlfast.kernels.photometric import KINDS, photometric, sample_bilinear
from fmlfast.kernels.photometric_pixels import photometric_pixels
from tests.helpers.photometric_checks import BACKENDS, cost_of, near, refused


def test_samples_at_pixel_centres_and_between():
    image = torch.arange(12.0).view(1, 1, 3, 4)
    uv = torch.tensor([[[0.5, 0.5], [3.5, 2.5], [1.0, 0.5], [2.5, 2.0], [-5.0, 0.5], [math.inf, 9.0]]])
    assert sample_bilinear(image, uv)[0, :, 0].tolist() == pytest.approx([0, 11, 0.5, 8, 0, 11], abs=1e-5)


def test_an_unknown_position_gives_an_unknown_colour_and_no_crash():
    uv = torch.tensor([[[math.nan, 1.0], [1.0, 1.0], [1.0, math.nan]]] * 9, requires_grad=True)
    sampled = sample_bilinear(torch.rand(9, 2, 4, 4), uv)
    assert sampled[0].isnan().tolist() == [[True, True], [False, False], [True, True]]
    sampled.sum().backward()
    assert uv.grad is not None and bool(uv.grad[:, 1].isfinite().all())


class Scene:
    """Random vertices, each off the lines where the image's slope jumps, some of them outside of the image."""

    def __init__(self, frames: int, count: int, height: int, width: int, seed: int = 0) -> None:
        g = torch.Generator().manual_seed(seed)
        jitter = torch.rand(frames, 1, 1, generator=g)
        self.Ks = torch.tensor([[300.0, 7, 4], [0, 250, 3], [0, 0, 1]]) + jitter * torch.tensor(
            [[50.0, 5, 3], [0, 50, 3], [0, 0, 0]]
        )
        cell = torch.rand(frames, count, 2, generator=g) * torch.tensor([width + 3.0, height + 3.0])
        uv = cell.floor() - 1.5 + 0.05 + 0.9 * torch.rand(frames, count, 2, generator=g)
        rays = torch.linalg.solve(self.Ks, torch.cat([uv, torch.ones(frames, count, 1)], -1).mT).mT
        self.vertices = (rays * (300 + 200 * torch.rand(frames, count, 1, generator=g))).contiguous()
        self.images = torch.rand(frames, 3, height, width, generator=g)
        self.colors = torch.rand(frames, count, 3, generator=g)
        self.weights = torch.rand(frames, count, generator=g) * (torch.rand(frames, count, generator=g) > 0.4)
        self.upstream = 1 + torch.rand(frames, generator=g)

    def __call__(
        self, backend: Backend, kind: str, weighted: bool = True, device: str = "cpu", frame: int | None = None
    ) -> list[Tensor]:
        """Loss, sampled colours where they count, gradients to vertices and colours; the reference is in float64."""
        dtype = torch.float64 if backend == "torch" else torch.float32
        names = ("images", "vertices", "Ks", "colors", "weights", "upstream")
        rows = slice(None) if frame is None else slice(frame, frame + 1)
        images, vertices, Ks, colors, weights, upstream = (
            getattr(self, n)[rows].clone().to(device if backend == "triton" else "cpu", dtype) for n in names
        )
        vertices, colors = vertices.requires_grad_(), colors.requires_grad_()
        loss, sampled = photometric(images, vertices, Ks, colors, weights if weighted else None, kind, backend)
        assert not sampled.requires_grad and sampled.is_contiguous()
        if weighted:
            sampled = torch.where((weights != 0)[..., None], sampled, 0.0)  # has no meaning elsewhere
        gradients = torch.autograd.grad((loss * upstream).sum(), (vertices, colors))
        return [a.detach().cpu() for a in (loss, sampled, *gradients)]


@pytest.mark.parametrize("kind", KINDS)
def test_matches_a_naive_loop(kind: str):
    scene = Scene(2, 25, 7, 9)
    loss, sampled, *_ = scene("torch", kind)
    for f in range(2):
        total = 0.0
        uv = project(scene.vertices[f].double(), scene.Ks[f].double()).tolist()
        image = scene.images[f].double()
        for v, (x, y) in enumerate(uv):
            x, y = min(max(x - 0.5, 0), 8), min(max(y - 0.5, 0), 6)
            x0, y0 = min(int(x), 7), min(int(y), 5)
            a, b = x - x0, y - y0
            value = (1 - b) * ((1 - a) * image[:, y0, x0] + a * image[:, y0, x0 + 1]) + b * (
                (1 - a) * image[:, y0 + 1, x0] + a * image[:, y0 + 1, x0 + 1]
            )
            weight = float(scene.weights[f, v])
            torch.testing.assert_close(sampled[f, v], value if weight else torch.zeros_like(value))
            total += weight * cost_of((value - scene.colors[f, v].double()).tolist(), kind)
        weights = max(float(scene.weights[f].double().sum()), 1.0)
        assert float(loss[f]) == pytest.approx(total / weights, rel=1e-6)


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_the_reference(kind: str, weighted: bool):
    scene = Scene(2, 9, 5, 6, seed=1)
    vertices, colors = (a.double().requires_grad_() for a in (scene.vertices, scene.colors))
    images, Ks, weights = (a.double() for a in (scene.images, scene.Ks, scene.weights))

    def loss(v: Tensor, c: Tensor) -> Tensor:
        return photometric(images, v, Ks, c, weights if weighted else None, kind)[0]

    assert torch.autograd.gradcheck(loss, (vertices, colors), eps=1e-5)
    rendered = torch.rand(2, 3, 4, 2, dtype=torch.float64, requires_grad=True)
    target, mask = torch.rand(2, 3, 4, 2, dtype=torch.float64), torch.rand(2, 3, 4, dtype=torch.float64).round()
    assert torch.autograd.gradcheck(
        lambda r: photometric_pixels(r, target, mask if weighted else None, kind), (rendered,)
    )


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(1, 1, 1, 1), (2, 63, 1, 7), (3, 500, 16, 5), (2, 1025, 33, 31)])
def test_kernel(size: tuple[int, int, int, int], kind: str, weighted: bool, device: str, poisoned_memory: None):
    scene = Scene(*size)
    found, expected = scene("triton", kind, weighted, device), scene("torch", kind, weighted)
    for a, b, relative in zip(found, expected, (1e-4, 1e-4, 1e-3, 1e-3), strict=True):
        near(a, b, relative)
    assert float(found[2].abs().max()) > 0 or 1 in size


@pytest.mark.parametrize("kind", KINDS)
def test_kernel_in_several_programs(kind: str, device: str, poisoned_memory: None, small_programs: None):
    scene = Scene(3, 300, 20, 30)
    found = scene("triton", kind, device=device)
    for a, b, relative in zip(found, scene("torch", kind), (1e-4, 1e-4, 1e-3, 1e-3), strict=True):
        near(a, b, relative)
    again = scene("triton", kind, device=device)
    alone = [
        torch.cat(parts) for parts in zip(*(scene("triton", kind, True, device, f) for f in range(3)), strict=True)
    ]
    for a, b, c in zip(found, again, alone, strict=True):
        assert torch.equal(a, b) and torch.equal(a, c)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_vertices_of_weight_zero_leave_no_trace(backend: Backend, kind: str, device: str):
    scene = Scene(2, 80, 12, 12)
    hidden = scene.weights == 0
    clean = scene(backend, kind, device=device)
    assert all(bool((a[hidden] == 0).all()) for a in clean[2:])
    rubbish = torch.tensor([[math.nan, 0, 1], [math.inf, -math.inf, 1], [1, 1, 0], [1, 2, -3], [0, 0, math.inf]])
    count = int(hidden.sum())
    scene.vertices[hidden] = rubbish.repeat(count, 1)[:count]
    scene.colors[hidden] = torch.tensor([math.nan, math.inf, 0.0]).repeat(count, 1)
    for a, b in zip(scene(backend, kind, device=device), clean, strict=True):
        assert torch.equal(a, b)
    scene.vertices[hidden] = scene.vertices[0, :1].new_tensor([-1e4, -1e4, 300.0])  # all at an unknown pixel
    scene.vertices[~hidden] = torch.linalg.solve(scene.Ks, torch.tensor([6.2, 7.3, 1])).repeat_interleave(
        (~hidden).sum(1), 0
    )
    clean = scene(backend, kind, device=device)
    scene.images[:, :, 0, 0] = math.nan
    for a, b in zip(scene(backend, kind, device=device), clean, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("backend", BACKENDS)
def test_vertices_of_weight_zero_get_no_gradient_even_from_nan(backend: Backend, device: str):
    scene = Scene(2, 30, 6, 6)
    scene.upstream[0] = math.nan
    for gradient in scene(backend, "l1", device=device)[2:]:
        assert not gradient[scene.weights == 0].any()
        assert bool(gradient[0].isnan().any()) and bool(gradient[1].isfinite().all())


def test_the_second_stage_sums_any_number_of_blocks(device: str):
    from fmlfast.kernels.photometric_triton import weighted_mean  # not before the interpreter was chosen

    partial = torch.rand(3, 2500, 2, generator=torch.Generator().manual_seed(0))
    loss, total = weighted_mean(partial.to(device))
    cost, weight = partial.double().sum(1).unbind(1)
    torch.testing.assert_close(total.cpu().double(), weight, rtol=1e-6, atol=0)
    torch.testing.assert_close(loss.cpu().double(), cost / weight, rtol=1e-6, atol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_vertex_that_counts_and_is_unknown_shows(backend: Backend, device: str):
    scene = Scene(2, 20, 5, 5)
    scene.weights[0, 3], scene.vertices[0, 3, 0] = 1.0, math.nan
    loss = scene(backend, "l1", device=device)[0]
    assert loss.isnan().tolist() == [True, False]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_frame_without_visible_vertices_costs_nothing(backend: Backend, device: str):
    scene = Scene(2, 5, 4, 4)
    scene.weights[0] = 0
    loss, _, d_vertices, d_colors = scene(backend, "l1", device=device)
    assert float(loss[0]) == 0 and float(loss[1]) > 0
    assert not d_vertices[0].any() and not d_colors[0].any()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("size", [(0, 5, 4, 4), (2, 0, 4, 4)])
def test_nothing_to_compare(size: tuple[int, int, int, int], backend: Backend, device: str):
    for weighted in (True, False):
        loss, sampled, *gradients = Scene(*size)(backend, "l1", weighted, device)
        assert loss.tolist() == [0.0] * size[0]
        assert all(a.shape == (size[0], size[1], 3) for a in (sampled, *gradients))


@pytest.mark.parametrize("wanted", ["", "vertices", "colors"])
def test_gradients_are_made_where_they_are_wanted(wanted: str, device: str):
    scene = Scene(2, 30, 6, 6)
    both = scene("triton", "squared", device=device)
    inputs = {n: getattr(scene, n).to(device) for n in ("images", "vertices", "Ks", "colors", "weights")}
    for name in inputs:
        inputs[name].requires_grad_(name in (wanted, "images", "Ks"))  # the last two are constants all the same
    with torch.no_grad():
        assert not photometric(**inputs, backend="triton")[0].requires_grad
    loss, _ = photometric(**inputs, backend="triton")
    torch.testing.assert_close(loss.detach().cpu(), both[0])
    if wanted:
        (loss * scene.upstream.to(device)).sum().backward()
        torch.testing.assert_close(inputs[wanted].grad.cpu(), both[2 if wanted == "vertices" else 3])  # type: ignore[union-attr]
    assert all(a.grad is None for name, a in inputs.items() if name != wanted)


def test_both_gradients_take_one_launch(device: str, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("triton", reason="Triton is for Linux only")
    from fmlfast.kernels import photometric_triton

    kernel, grids = photometric_triton.photometric_bwd_kernel, []

    class Counted:
        def __getitem__(self, grid: Any) -> Any:
            grids.append(grid)
            return kernel[grid]

    monkeypatch.setattr(photometric_triton, "photometric_bwd_kernel", Counted())
    Scene(2, 30, 6, 6)("triton", "l1", device=device)
    assert len(grids) == 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_cameras_may_be_shared(backend: Backend, device: str):
    scene = Scene(2, 30, 6, 6)
    expanded = scene.Ks[:1].to(device).expand(2, 3, 3)
    images, vertices, colors = (a.to(device) for a in (scene.images, scene.vertices, scene.colors))
    both = (expanded, expanded.contiguous())
    losses = [photometric(images, vertices, Ks, colors, backend=backend)[0] for Ks in both]
    assert torch.equal(*losses)
    unlike = scene(backend, "squared", False, device)[0].float()
    assert torch.isclose(losses[0].cpu(), unlike).tolist() == [True, False]


def test_images_are_constants_of_the_reference_too():
    scene = Scene(1, 5, 4, 4)
    images, Ks = scene.images.requires_grad_(), scene.Ks.requires_grad_()
    assert not photometric(images, scene.vertices, Ks, scene.colors)[0].requires_grad


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("vertices", lambda a: a[0]),
        ("vertices", lambda a: a.int()),
        ("vertices", lambda a: a[:, :1].expand(2, 5, 3)),
        ("vertices", lambda a: a.mT.contiguous().mT),
        ("images", lambda a: a[:1]),
        ("images", lambda a: a[:, :2]),
        ("images", lambda a: a.double()),
        ("images", lambda a: a.mT),
        ("images", lambda a: a[:, :, :0]),
        ("images", lambda a: a.to("meta")),
        ("Ks", lambda a: a[:, :2]),
        ("Ks", lambda a: a.double()),
        ("colors", lambda a: a[:, 1:]),
        ("colors", lambda a: a.numpy()),
        ("weights", lambda a: a[:, 1:]),
        ("weights", lambda a: a.bool()),
        ("kind", lambda _: "huber"),
        ("backend", lambda _: "cuda"),
    ],
)
def test_bad_arguments_are_named(name: str, change: Callable[[Any], Any]):
    scene = Scene(2, 5, 4, 6)
    inputs = {n: getattr(scene, n) for n in ("images", "vertices", "Ks", "colors", "weights")}
    refused(photometric, inputs, name, change(inputs.get(name)), name)
