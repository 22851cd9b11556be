"""Kernels of antialiased silhouettes against float64, what broken and missing input does, errors."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fmlfast.kernels.antialias import antialias, find_silhouettes
from fmlfast.kernels.common.backend import Backend
from fmlfast.kernels.rasterize import Fragments, rasterize
from tests.helpers.silhouette_scenes import bumpy

backends = pytest.mark.parametrize("backend", ["torch", "triton"])
pytestmark = pytest.mark.usefixtures("poisoned_memory")


def gradients(image, vertices, triangles, Ks, fragments, upstream, backend, dtype=torch.float32) -> list[Tensor]:
    """The picture and the gradients of image and vertices."""
    image, vertices = (x.detach().clone().to(dtype).requires_grad_() for x in (image, vertices))
    out = antialias(image, vertices, triangles, Ks.to(dtype), fragments, backend)
    return [out.detach(), *torch.autograd.grad(out, (image, vertices), upstream.to(dtype))]


SIZES = [(1, 1, 1, 1), (1, 1, 7, 2), (2, 5, 1, 1), (2, 13, 17, 3), (1, 20, 25, 9)]


@pytest.mark.parametrize("frames,height,width,channels", SIZES)
def test_kernels_match_float64(device: str, frames: int, height: int, width: int, channels: int):
    for n in (1, 3):
        image, vertices, triangles, Ks, fragments, upstream = bumpy(7, frames, height, width, channels, n, device)
        inputs = (image, vertices, triangles, Ks, fragments, upstream)
        found = gradients(*inputs, "triton")
        expected = gradients(*inputs, "torch", torch.float64)
        assert height * width < 40 or expected[2].abs().amax((1, 2)).min() > 0
        for a, b, accuracy in zip(found, expected, (1e-5, 1e-4, 1e-3), strict=True):
            torch.testing.assert_close(a.double(), b, rtol=0, atol=accuracy * max(b.abs().max().item(), 1e-9))


def test_kernel_finds_the_same_edges_to_the_bit(device: str):
    from fmlfast.kernels.antialias_find_triton import find_silhouettes_triton

    for n, seed in ((2, 0), (9, 1)):
        _, vertices, triangles, Ks, fragments, _ = bumpy(seed, 2, 31, 30, 1, n, device)
        vertices[0, ::7, 2] = -1
        vertices[1, 5] = torch.nan
        vertices[1, 6, 0] = torch.inf
        for steps in (2, 64):
            codes = find_silhouettes(vertices, triangles, Ks, fragments, steps)
            assert torch.equal(codes, find_silhouettes_triton(vertices, triangles, Ks, fragments, steps))
            assert (codes >= 0).sum() > 20


def test_small_programs_runs_and_batches_give_the_same_bits(device: str, request: pytest.FixtureRequest):
    image, vertices, triangles, Ks, fragments, upstream = bumpy(5, 3, 7, 9, 3, 2, device)
    upstream = upstream * torch.tensor([1e-6, 1.0, 1e6], device=device).view(3, 1, 1, 1)
    batch = gradients(image, vertices, triangles, Ks, fragments, upstream, "triton")
    assert batch[2].abs().amax((1, 2)).min() > 0
    for f in range(3):
        frame = Fragments(**{name: x[f : f + 1] for name, x in vars(fragments).items() if x is not None})
        inputs = (image[f : f + 1], vertices[f : f + 1], triangles, Ks[f : f + 1], frame, upstream[f : f + 1])
        single = gradients(*inputs, "triton")
        assert all(torch.equal(a[f : f + 1], b) for a, b in zip(batch, single, strict=True))
    request.getfixturevalue("small_programs")
    again = gradients(image, vertices, triangles, Ks, fragments, upstream, "triton")
    assert all(torch.equal(a, b) for a, b in zip(batch, again, strict=True))


@backends
def test_which_inputs_need_gradients(device: str, backend: Backend):
    image, vertices, triangles, Ks, fragments, _ = bumpy(2, 1, 11, 12, 2, 2, device)
    Ks = Ks.transpose(1, 2).contiguous().transpose(1, 2)  # small inputs come in any layout
    inputs = (image, vertices, triangles, Ks, fragments, torch.ones_like(image))
    _, to_image, to_vertices = gradients(*inputs, backend)
    for i, expected in ((0, to_image), (1, to_vertices)):
        leaves = [image.clone(), vertices.clone()]
        leaves[i].requires_grad_()
        out = antialias(leaves[0], leaves[1], triangles, Ks, fragments, backend)
        (found,) = torch.autograd.grad(out.sum(), leaves[i])  # from an expanded gradient
        assert torch.equal(found, expected)
    assert not antialias(image, vertices, triangles, Ks, fragments, backend).requires_grad


def test_gradcheck():
    image, vertices, triangles, Ks, fragments, _ = bumpy(4, 1, 4, 5, 1, 1)
    leaves = image.double().requires_grad_(), vertices.double().requires_grad_()
    blend = lambda image, vertices: antialias(image, vertices, triangles, Ks.double(), fragments)  # noqa: E731
    assert torch.autograd.gradcheck(blend, leaves, eps=1e-5, atol=1e-6)


@backends
def test_what_cannot_be_projected_leaks_no_nan(device: str, backend: Backend):
    image, vertices, triangles, Ks, fragments, upstream = bumpy(6, 1, 20, 21, 2, 3, device)
    points = [(torch.nan, 0, 1), (0, torch.inf, 1), (0, 0, -torch.inf), (0, 0, 0), (0, 0, -5), (1e30, 0, 1)]
    broken = vertices.clone()
    broken[:, :180:30] = torch.tensor(points, device=device)
    seen = rasterize(broken, triangles, Ks, 20, 21)
    found = gradients(image, broken, triangles, Ks, seen, upstream, backend)
    assert all(a.isfinite().all() for a in found)
    assert (found[2][:, :180:30] == 0).all()
    assert not torch.equal(found[0], image)


@backends
def test_broken_colors_break_their_own_frame_only(device: str, backend: Backend):
    image, vertices, triangles, Ks, fragments, upstream = bumpy(6, 2, 20, 21, 2, 2, device)
    image[0] = torch.nan
    found = gradients(image, vertices, triangles, Ks, fragments, upstream, backend)
    assert found[2][0].isnan().any() and found[0][0].isnan().all()
    assert found[0][1].isfinite().all() and found[2][1].isfinite().all()


@backends
def test_empty_batch(backend: Backend):
    image, vertices, triangles, Ks, fragments, _ = bumpy(1, 1, 5, 6, 2, 1)
    none = Fragments(**{name: x[:0] for name, x in vars(fragments).items() if x is not None})
    leaves = image[:0].requires_grad_(), vertices[:0].requires_grad_()
    out = antialias(*leaves, triangles, Ks[:0], none, backend)
    out.sum().backward()
    assert out.shape == (0, 5, 6, 2) and leaves[0].grad is not None and leaves[1].grad is not None
    assert antialias(image[..., :0], vertices, triangles, Ks, fragments, backend).shape == (1, 5, 6, 0)


IMAGE, VERTICES, TRIANGLES, KS, FRAGMENTS, _ = bumpy(1, 2, 5, 6, 2, 1)
GOOD = {"image": IMAGE, "vertices": VERTICES, "triangles": TRIANGLES, "Ks": KS, "fragments": FRAGMENTS}
IDS = FRAGMENTS.triangle_id


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": IMAGE[0]}, "image must be"),
        ({"image": IMAGE[:1]}, r"image must be \[2, H, W, C\]"),
        ({"image": IMAGE.double()}, "image must be float32, not float64"),
        ({"image": IMAGE.to("meta")}, "image is on meta"),
        ({"image": IMAGE.transpose(1, 2).contiguous().transpose(1, 2)}, "image must be contiguous"),
        ({"vertices": VERTICES[0]}, "vertices must be"),
        ({"vertices": VERTICES.half()}, "vertices must be float32 or float64"),
        ({"vertices": VERTICES.transpose(1, 2).contiguous().transpose(1, 2)}, "vertices must be contiguous"),
        ({"triangles": TRIANGLES[:0]}, "triangles must hold"),
        ({"triangles": TRIANGLES + 999}, "triangles hold the index"),
        ({"triangles": TRIANGLES.float()}, "triangles must be int32 or int64"),
        ({"triangles": TRIANGLES[:3]}, "fragments hold a triangle beyond the 3"),
        ({"Ks": KS[:1]}, r"Ks must be \[2, 3, 3\]"),
        ({"Ks": KS.double()}, "Ks must be float32"),
        ({"fragments": replace(FRAGMENTS, triangle_id=IDS[:, 1:])}, "fragments.triangle_id must be"),
        ({"fragments": replace(FRAGMENTS, triangle_id=IDS.long())}, "fragments.triangle_id must be int32"),
        ({"fragments": replace(FRAGMENTS, depth=IDS)}, "fragments.depth must be float32"),
        ({"backend": "cuda"}, "backend must be"),
    ],
)
def test_bad_input_is_named(change: dict, message: str):
    antialias(**GOOD)
    with pytest.raises(ValueError, match=f"^{message}"):
        antialias(**(GOOD | change))
