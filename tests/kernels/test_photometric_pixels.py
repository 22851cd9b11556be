"""Photometric losses over pixels: values, gradients, what is ignored, and kernels against reference."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from fmlfast.kernels.common.backend import Backend
from fmlfast.kernels.photometric import KINDS
from fmlfast.kernels.photometric_pixels import photometric_pixels
from tests.helpers.photometric_checks import BACKENDS, cost_of, near, refused


@pytest.mark.parametrize("backend", BACKENDS)
def test_geman_is_squared_near_and_constant_far(backend: Backend, device: str):
    """Its pull is greatest at s / sqrt(3) and falls with the third power of the difference."""
    differences = torch.tensor([0.0, 1e-4, 1e-3, 0.1 / math.sqrt(3), 1.0, 100.0, 1e4])
    black, white = torch.zeros(1, 1, 7, 1), differences.view(1, 1, 7, 1)

    def costs_and_pulls(kind: str) -> tuple[Tensor, Tensor]:
        parts = [
            pixels(backend, kind, [white[:, :, i : i + 1], black[:, :, :1], torch.ones(1)], device) for i in range(7)
        ]
        return torch.stack([p[0].double() for p in parts]).view(7), torch.stack([p[1].double() for p in parts]).view(7)

    (cost, pull), (squared, squared_pull) = costs_and_pulls("geman"), costs_and_pulls("squared")
    torch.testing.assert_close(cost[:3], squared[:3] / 0.1, rtol=2e-4, atol=0)
    torch.testing.assert_close(pull[:3], squared_pull[:3] / 0.1, rtol=3e-4, atol=0)
    assert cost[5:].tolist() == pytest.approx([0.1, 0.1], rel=1e-5)
    assert int(pull.argmax()) == 3 and float(pull[3]) == pytest.approx(9 / (8 * math.sqrt(3)), rel=1e-5)
    torch.testing.assert_close(pull[5:], 2e-3 / differences[5:].double() ** 3, rtol=1e-4, atol=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_of_large_and_small_differences_keep_their_digits(backend: Backend, kind: str, device: str):
    rendered = torch.logspace(-4, 3, 50).view(1, 5, 5, 2).to(device if backend == "triton" else "cpu")
    found = []
    for dtype, by in ((torch.float32, backend), (torch.float64, "torch")):
        leaf = rendered.to(dtype).requires_grad_()
        loss = photometric_pixels(leaf, torch.zeros_like(leaf), kind=kind, backend=by)  # type: ignore[arg-type]
        found.append(torch.autograd.grad(loss.sum(), leaf)[0])
    torch.testing.assert_close(found[0].double(), found[1], rtol=1e-5, atol=0)


def pixels(backend: Backend, kind: str, arrays: list[Tensor], device: str, expanded: bool = False) -> list[Tensor]:
    """Loss and gradient; the reference computes in float64. `expanded`: the upstream gradient is one number."""
    dtype = torch.float64 if backend == "torch" else torch.float32
    place = device if backend == "triton" else "cpu"
    rendered, *rest, upstream = (a.clone().to(place, dtype) for a in arrays)
    rendered.requires_grad_()
    loss = photometric_pixels(rendered, *rest, kind=kind, backend=backend)
    total = loss.sum() if expanded else (loss * upstream).sum()
    return [loss.detach().cpu(), torch.autograd.grad(total, rendered)[0].cpu()]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "shape", [(1, 1, 1, 1), (2, 9, 7, 3), (3, 20, 25, 4), (2, 63, 5, 1), (2, 3, 5, 67), (0, 3, 3, 3)]
)
def test_pixels(shape: tuple[int, ...], kind: str, device: str, poisoned_memory: None, small_programs: None):
    g = torch.Generator().manual_seed(sum(shape))
    rendered, images = torch.rand(2, *shape, generator=g)
    weights = torch.rand(shape[:3], generator=g).round() * torch.rand(shape[:3], generator=g)
    upstream = 1 + torch.rand(shape[0], generator=g)
    for arrays in ([rendered, images, weights, upstream], [rendered, images, upstream]):
        for expanded in (False, True):
            found = pixels("triton", kind, arrays, device, expanded)
            for a, b, relative in zip(
                found, pixels("torch", kind, arrays, device, expanded), (1e-5, 1e-4), strict=True
            ):
                near(a, b, relative)
            again = pixels("triton", kind, arrays, device, expanded)
            parts = [pixels("triton", kind, [a[f : f + 1] for a in arrays], device, expanded) for f in range(shape[0])]
            for i in range(2):
                assert torch.equal(found[i], again[i])
                assert torch.equal(found[i], torch.cat([p[i] for p in parts]) if parts else found[i])


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_match_a_naive_loop(kind: str):
    g = torch.Generator().manual_seed(4)
    rendered, images = torch.rand(2, 2, 3, 4, 5, generator=g, dtype=torch.float64)
    weights = torch.rand(2, 3, 4, generator=g, dtype=torch.float64)
    loss = photometric_pixels(rendered, images, weights, kind)
    for f in range(2):
        difference = (rendered[f] - images[f]).flatten(0, 1).tolist()
        total = sum(w * cost_of(d, kind) for w, d in zip(weights[f].flatten().tolist(), difference, strict=True))
        assert float(loss[f]) == pytest.approx(total / float(weights[f].sum()), rel=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_pixels_of_weight_zero_leave_no_trace(backend: Backend, kind: str, device: str):
    g = torch.Generator().manual_seed(0)
    rendered, images = torch.rand(2, 2, 6, 5, 3, generator=g)
    weights = torch.rand(2, 6, 5, generator=g).round()
    clean = pixels(backend, kind, [rendered, images, weights, torch.ones(2)], device)
    rendered[weights == 0], images[weights == 0] = math.nan, math.inf
    for a, b in zip(pixels(backend, kind, [rendered, images, weights, torch.ones(2)], device), clean, strict=True):
        assert torch.equal(a, b)
    assert not clean[1][weights == 0].any()
    assert not pixels(backend, kind, [rendered, images, 0 * weights, torch.ones(2)], device)[0].any()


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("rendered", lambda a: a[0]),
        ("rendered", lambda a: a.long()),
        ("rendered", lambda a: a.transpose(1, 2)),
        ("images", lambda a: a[..., :1]),
        ("images", lambda a: a.double()),
        ("images", lambda a: a.to("meta")),
        ("weights", lambda a: a[..., None]),
        ("weights", lambda a: a.bool()),
        ("kind", lambda _: "huber"),
        ("backend", lambda _: "cuda"),
    ],
)
def test_bad_arguments_over_pixels_are_named(name: str, change: Callable[[Any], Any]):
    inputs = {"rendered": torch.rand(2, 4, 4, 3), "images": torch.rand(2, 4, 4, 3), "weights": torch.rand(2, 4, 4)}
    refused(photometric_pixels, inputs, name, change(inputs.get(name)), name)
