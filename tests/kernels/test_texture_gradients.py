"""Gradients of texture lookups: of the reference by finite differences, of the kernels against it, to the bit."""

from typing import Any

import pytest
import torch
from torch import Tensor

from fmlfast.kernels.common.backend import Backend
from fmlfast.kernels.texture import texture, texture_mips
from tests.kernels.test_texture import BOUNDARIES, FILTERS, scene

backends = pytest.mark.parametrize("backend", ["torch", "triton"])
boundaries = pytest.mark.parametrize("boundary", BOUNDARIES)
filters = pytest.mark.parametrize("filter_mode", FILTERS)

pytestmark = pytest.mark.usefixtures("poisoned_memory", "small_programs")


def inputs(seed: int, boundary: str, dtype: torch.dtype, device: str = "cpu", **size) -> dict[str, Any]:
    """A scene with its mips, moved away from them, as leaves."""
    given = scene(seed, boundary, **size)
    g = torch.Generator().manual_seed(seed)
    for level, mip in enumerate(texture_mips(given["texels"], cube=boundary == "cube"), 1):
        given[f"mip{level}"] = mip + torch.rand(mip.shape, generator=g)
    return {k: x.to(device, dtype).requires_grad_() for k, x in given.items()}


def look_up(given: dict[str, Any], filter_mode: Any, boundary: Any, backend: Backend) -> Tensor:
    mips = [x for k, x in given.items() if k.startswith("mip") and k != "mip_level_bias"]
    names = ("texels", "uv", "uv_da", "mip_level_bias")
    some = {k: given[k] for k in names if k in given}
    return texture(**some, mips=mips, filter_mode=filter_mode, boundary_mode=boundary, backend=backend)


def gradients(
    given: dict[str, Any], filter_mode: Any, boundary: Any, backend: Backend, upstream: Tensor
) -> dict[str, Tensor]:
    out = look_up(given, filter_mode, boundary, backend)
    found = torch.autograd.grad(out, list(given.values()), upstream.to(out), allow_unused=True)
    return {k: torch.zeros_like(x) if g is None else g for (k, x), g in zip(given.items(), found, strict=True)}


@boundaries
@filters
def test_gradients_of_the_reference(filter_mode: str, boundary: str):
    size = (2, 2) if boundary == "cube" else (4, 8)
    given = inputs(11, boundary, torch.float64, size=size, channels=1)
    for name in ("uv", "uv_da", "mip_level_bias"):
        given[name] = given[name][:, ::3, ::2].detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda *x: look_up(dict(zip(given, x, strict=True)), filter_mode, boundary, "torch"), list(given.values())
    )


@boundaries
@pytest.mark.parametrize(("filter_mode", "textures"), [(FILTERS[-1], 1), *((f, 2) for f in FILTERS)])
def test_kernels_match_the_reference(textures: int, filter_mode: str, boundary: str, device: str):
    """A weight is off by 2^-24 of 3 textures in texels, and so are products with it and slopes of a level by them."""
    channels = 17 if (textures, filter_mode, boundary) == (1, "linear-mipmap-linear", "clamp") else 3
    given = inputs(12, boundary, torch.float32, device, textures=textures, channels=channels)
    upstream = torch.randn(2, 7, 9, channels, generator=torch.Generator().manual_seed(0))
    exact = inputs(12, boundary, torch.float32, textures=textures, channels=channels)
    exact = {k: x.detach().double().requires_grad_() for k, x in exact.items()}
    expected = gradients(exact, filter_mode, boundary, "torch", upstream.double())
    found = gradients(given, filter_mode, boundary, "triton", upstream.to(device))
    slopes = ["uv"] * (filter_mode != "nearest") + ["uv_da", "mip_level_bias"] * filter_mode.endswith("mipmap-linear")
    for name, wanted in expected.items():
        largest = float(wanted.abs().max())
        assert found[name].dtype == torch.float32
        assert largest > 0 or name not in ("texels", *slopes), name
        error = (3 * 16 + 40) * 2**-23 * largest
        torch.testing.assert_close(found[name].cpu().double(), wanted, rtol=0, atol=error, msg=lambda m: f"{name}: {m}")  # noqa: B023


@pytest.mark.parametrize("boundary", ["wrap", "cube"])
def test_gradients_without_a_bias_or_derivatives(boundary: str, device: str):
    upstream = torch.randn(2, 7, 9, 3, generator=torch.Generator().manual_seed(0))
    for left_out in ("uv_da", "mip_level_bias"):
        exact, given = (
            {k: x for k, x in inputs(13, boundary, dtype, where).items() if k != left_out}
            for dtype, where in ((torch.float64, "cpu"), (torch.float32, device))
        )
        expected = gradients(exact, "auto", boundary, "torch", upstream.double())
        found = gradients(given, "auto", boundary, "triton", upstream.to(device))
        for name, wanted in expected.items():
            error = (3 * 16 + 40) * 2**-23 * float(wanted.abs().max())
            torch.testing.assert_close(found[name].cpu().double(), wanted, rtol=0, atol=error)


@backends
def test_equally_long_sides_share_the_gradient(backend: Backend):
    texels = torch.rand(1, 8, 8, 1, generator=torch.Generator().manual_seed(2))
    uv_da = torch.tensor([0.3, 0.0, 0.0, 0.3]).view(1, 1, 1, 4).requires_grad_()
    out = texture(texels, torch.full((1, 1, 1, 2), 0.4), uv_da, backend=backend)
    (found,) = torch.autograd.grad(out, uv_da)
    assert found[0, 0, 0, 0] == found[0, 0, 0, 3] != 0 and found[0, 0, 0, 1] == found[0, 0, 0, 2] == 0


@backends
def test_a_level_that_is_whole_has_the_slope_to_the_next(backend: Backend):
    """Level 1 at a bias of 1: the share of level 2 is 0, but not its say in the gradient. None beyond both ends."""
    levels = [torch.full((1, 8 >> k, 8 >> k, 1), float(k * k)) for k in range(4)]
    bias = torch.tensor([-0.1, 0, 1, 1.5, 3, 3.1]).view(1, 1, 6).requires_grad_()
    uv = torch.full((1, 1, 6, 2), 0.3)
    out = texture(levels[0], uv, None, bias, levels[1:], backend=backend)
    torch.testing.assert_close(out.flatten(), torch.tensor([0, 0, 1, 2.5, 9, 9]))
    (found,) = torch.autograd.grad(out.sum(), bias)
    torch.testing.assert_close(found.flatten(), torch.tensor([0.0, 1, 3, 3, 0, 0]))


@backends
@boundaries
def test_two_runs_and_frames_alone_give_the_same_bits(boundary: str, backend: Backend, device: str):
    given = inputs(14, boundary, torch.float32, device)
    upstream = torch.randn(2, 7, 9, 3, generator=torch.Generator().manual_seed(0))
    upstream = (upstream * torch.tensor([1.0, 1e8]).view(2, 1, 1, 1)).to(device)
    found = gradients(given, "auto", boundary, backend, upstream)
    again = gradients(given, "auto", boundary, backend, upstream)
    assert all(torch.equal(found[k], again[k]) for k in found)
    one = {k: x[:1].detach().clone().requires_grad_() for k, x in given.items()}
    alone = gradients(one, "auto", boundary, backend, upstream[:1])
    assert all(torch.equal(alone[k][0], found[k][0]) for k in found)


@pytest.mark.parametrize("same", [False, True])
def test_program_size_does_not_change_the_sums(same: bool, monkeypatch: pytest.MonkeyPatch):
    """Neither does adding up inside of a program, as where a background looks at one place."""
    g = torch.Generator().manual_seed(15)
    uv = torch.rand(2, 20, 30, 2, generator=g) * (0 if same else 1)
    uv[1, :10] = 0.7
    upstream = torch.randn(2, 20, 30, 3, generator=g)
    given = {
        "texels": torch.rand(1, 4, 8, 3, generator=g),
        "uv": uv,
        "uv_da": torch.rand(2, 20, 30, 4, generator=g) * (0 if same else 1),
    }
    given = {k: x.requires_grad_() for k, x in given.items()}
    given |= {f"mip{k}": x.detach().requires_grad_() for k, x in enumerate(texture_mips(given["texels"]), 1)}
    small = gradients(given, "auto", "wrap", "triton", upstream)
    monkeypatch.setattr("fmlfast.kernels.common.backend.INTERPRETER_LANES", 1 << 12)
    large = gradients(given, "auto", "wrap", "triton", upstream)
    assert all(torch.equal(small[k], large[k]) for k in small)
    exact = {k: x.detach().double().requires_grad_() for k, x in given.items()}
    expected = gradients(exact, "auto", "wrap", "torch", upstream.double())
    for name, wanted in expected.items():
        torch.testing.assert_close(small[name].double(), wanted, rtol=1e-5, atol=1e-5 * float(wanted.abs().max()))


@backends
@pytest.mark.parametrize("needed", ["texels", "uv", "uv_da", "mip3"])
def test_gradients_that_are_not_needed_are_none(needed: str, backend: Backend, device: str):
    given = inputs(16, "cube", torch.float32, device)
    expected = gradients(given, "auto", "cube", backend, torch.ones(2, 7, 9, 3))
    alone = {k: x.detach().clone().requires_grad_(k == needed) for k, x in given.items()}
    look_up(alone, "auto", "cube", backend).sum().backward()  # an upstream gradient with no memory of its own
    assert [k for k, x in alone.items() if x.grad is not None] == [needed]
    torch.testing.assert_close(alone[needed].grad, expected[needed])


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # of NumPy in the interpreter
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_broken_gradients_are_passed_on(value: float, device: str):
    given = inputs(17, "wrap", torch.float32, device)
    upstream = torch.ones(2, 7, 9, 3, device=device)
    upstream[1, 2, 3, 0] = value
    found = gradients(given, "auto", "wrap", "triton", upstream)
    assert found["texels"][0].isfinite().all() and not found["texels"][1].isfinite().any()
    assert not found["uv"][1, 2, 3].isfinite().any() and found["uv"][0].isfinite().all()


def test_autocast_does_not_round_gradients():
    given = inputs(18, "cube", torch.float32)
    upstream = torch.randn(2, 7, 9, 3, generator=torch.Generator().manual_seed(0))
    expected = gradients(given, "auto", "cube", "torch", upstream)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = gradients(given, "auto", "cube", "torch", upstream)
    assert all(torch.equal(found[k], expected[k]) for k in found)


@backends
@pytest.mark.parametrize(("shape", "cube"), [((2, 8, 4, 3), False), ((1, 1, 16, 1), False), ((2, 6, 4, 4, 2), True)])
def test_mips_are_means_of_blocks(shape: tuple[int, ...], cube: bool, backend: Backend, device: str):
    g = torch.Generator().manual_seed(19)
    texels = torch.randn(shape, generator=g).to(device).requires_grad_()
    mips = texture_mips(texels, cube=cube, backend=backend)
    assert [x.shape[-3:-1] for x in mips][-1] == (1, 1)
    expected = torch.zeros_like(texels, dtype=torch.float64)
    upstream = [torch.randn(x.shape, generator=g).to(device) for x in mips]
    for level, (mip, up) in enumerate(zip(mips, upstream, strict=True), 1):
        height, width = mip.shape[-3:-1]
        down, across = shape[-3] // height, shape[-2] // width
        assert (height, width) == (max(1, shape[-3] >> level), max(1, shape[-2] >> level))
        blocks = texels.detach().double().unflatten(-2, (width, across)).unflatten(-4, (height, down))
        torch.testing.assert_close(mip.double(), blocks.mean((-4, -2)), rtol=0, atol=1e-6)
        expected += up.double().repeat_interleave(down, -3).repeat_interleave(across, -2) / (down * across)
    (found,) = torch.autograd.grad(mips, texels, upstream)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=2e-6)
    assert torch.autograd.gradcheck(lambda x: texture_mips(x, cube=cube), texels.detach().double().requires_grad_())


@backends
def test_mips_made_inside_pass_their_gradient_on(backend: Backend, device: str):
    given = {k: x.to(device) for k, x in scene(20, "mirror").items()}
    texels = given.pop("texels").requires_grad_()
    upstream = torch.randn(2, 7, 9, 3, generator=torch.Generator().manual_seed(0)).to(device)
    out = texture(texels, **given, boundary_mode="mirror", backend=backend)
    mips = texture_mips(texels, backend=backend)
    by_hand = texture(texels, **given, mips=mips, boundary_mode="mirror", backend=backend)
    found, expected = (torch.autograd.grad(x, texels, upstream)[0] for x in (out, by_hand))
    assert torch.equal(found, expected) and found.abs().max() > 0
