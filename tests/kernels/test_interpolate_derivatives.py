"""Derivatives of attributes over the screen: against finite differences, every gradient, kernels against float64."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fmlfast.kernels.common.backend import Backend
from fmlfast.kernels.interpolate_derivatives import interpolate_derivatives
from fmlfast.kernels.rasterize import Fragments, rasterize
from tests.helpers.derivatives import with_derivatives

backends = pytest.mark.parametrize("backend", ["torch", "triton"])

pytestmark = pytest.mark.usefixtures("poisoned_memory")

K = torch.tensor([[30.0, 2, 8.5], [0, 33, 6.5], [0, 0, 1]])


def weights_at(corners: Tensor, x: Tensor, y: Tensor) -> Tensor:  # [N, 3, 3], [N], [N] -> [N, 3]
    """Weights of triangles' corners in camera space where the rays through the screen's points (x, y) meet them."""
    rays = torch.linalg.solve(K.double(), torch.stack([x, y, torch.ones_like(x)])).T
    weights = torch.linalg.solve(corners.transpose(1, 2), rays)
    return weights / weights.sum(-1, keepdim=True)


def scene(seed: int) -> tuple[Tensor, Tensor, Fragments]:
    """Random triangles: vertices [3, 20, 3], triangles [25, 3], what 13 x 17 pixels see of them."""
    g = torch.Generator().manual_seed(seed)
    vertices = torch.rand(3, 20, 3, generator=g) * torch.tensor([60.0, 60, 50]) + torch.tensor([-30.0, -30, 60])
    triangles = torch.randint(0, 20, (25, 3), generator=g, dtype=torch.int32)
    Ks = K.repeat(3, 1, 1)
    return vertices, triangles, with_derivatives(rasterize(vertices, triangles, Ks, 13, 17), vertices, triangles, Ks)


def soup(seed: int, frames: int, height: int, width: int, vertices: int, runs: int = 1):
    """Fragments that no rasteriser need have made: `runs` neighbours see one triangle; a third of them sees none."""
    g = torch.Generator().manual_seed(seed)
    triangles = torch.randint(0, vertices, (2 * vertices, 3), generator=g, dtype=torch.int32)
    pixels = frames * height * width
    ids = torch.randint(-vertices, 2 * vertices, (pixels // runs + 1,), generator=g).clamp(min=-1)
    ids = ids.repeat_interleave(runs)[:pixels].view(frames, height, width).int()
    derivatives = torch.randn(frames, height, width, 4, generator=g)
    derivatives[ids < 0] = 0
    unread = torch.full((frames, height, width, 3), torch.nan)
    return triangles, Fragments(ids, unread, unread[..., 0].clone(), derivatives), g


def gradients(
    attributes: Tensor, triangles: Tensor, fragments: Fragments, upstream: Tensor, backend: Backend
) -> tuple[Tensor, Tensor, Tensor]:
    """The derivatives and their gradients, to attributes and to the fragments' derivatives."""
    assert fragments.derivatives is not None
    attributes = attributes.detach().clone().requires_grad_()
    slopes = fragments.derivatives.detach().to(attributes.dtype).clone().requires_grad_()
    image = interpolate_derivatives(attributes, triangles, replace(fragments, derivatives=slopes), None, backend)
    to_attributes, to_slopes = torch.autograd.grad(image, (attributes, slopes), upstream.to(image.dtype))
    return image.detach(), to_attributes, to_slopes


def to(device: str, fragments: Fragments) -> Fragments:
    return Fragments(*(a.to(device) for a in vars(fragments).values()))


@backends
@pytest.mark.parametrize("shared", [False, True])
def test_are_the_differences_of_attributes_over_the_screen(shared: bool, backend: Backend):
    """Central differences, a step h of 2^-10 px: rounding is 2^-52 / h, the rest h^2 of the third derivative's."""
    vertices, triangles, fragments = scene(3)
    attributes = torch.randn(1 if shared else 3, 20, 5, generator=torch.Generator().manual_seed(0))
    got = interpolate_derivatives(attributes, triangles, fragments, backend=backend)
    assert got.shape == (3, 13, 17, 10) and got.dtype == torch.float32
    f, y, x = (fragments.triangle_id >= 0).nonzero().T
    assert 100 < len(f) < 650 and not got[fragments.triangle_id < 0].any()
    seen = triangles[fragments.triangle_id[f, y, x].long()].long()
    values, corners = attributes[0 if shared else f[:, None], seen].double(), vertices[f[:, None], seen].double()
    screen = torch.stack([x, y], -1).double() + 0.5
    h = 2**-10
    for axis in range(2):
        step = h * torch.eye(2, dtype=torch.float64)[axis]
        after, before = (weights_at(corners, *(screen + s).T) for s in (step, -step))
        expected = (((after - before) / (2 * h))[..., None] * values).sum(1)
        torch.testing.assert_close(got[f, y, x, axis::2].double(), expected, rtol=1e-4, atol=1e-5)


@backends
def test_of_a_plane_in_front_of_the_camera(backend: Backend):
    """At 500 mm with f = 100 px a pixel is 5 mm wide; b0 falls along x and b1 along y over a leg of 200 mm, 40 px."""
    attributes = torch.tensor([[[100.0, -100, 500], [-100, 100, 500], [-100, -100, 500]]])
    derivatives = torch.tensor([1 / 40, 0, 0, 1 / 40]).repeat(1, 2, 3, 1)
    ids = torch.tensor([[[0, 0, -1], [0, -1, 0]]], dtype=torch.int32)
    fragments = Fragments(ids, torch.zeros(1, 2, 3, 3), torch.zeros(1, 2, 3), derivatives)
    got = interpolate_derivatives(attributes, torch.tensor([[0, 1, 2]]), fragments, None, backend)
    expected = torch.tensor([5.0, 0, 0, 5, 0, 0]) * (ids >= 0)[..., None]
    torch.testing.assert_close(got, expected)


@backends
def test_chosen_channels_are_those_of_all(backend: Backend, device: str):
    triangles, fragments, g = soup(5, 2, 7, 9, 12)
    attributes = torch.randn(2, 12, 5, generator=g)
    arguments = triangles.to(device), to(device, fragments)
    everything = interpolate_derivatives(attributes.to(device), *arguments, None, backend).unflatten(-1, (5, 2))
    for channels in ([3, 0], (4,), range(5), []):
        leaf = attributes.to(device).requires_grad_()
        some = interpolate_derivatives(leaf, *arguments, channels, backend)
        assert torch.equal(some, everything[..., list(channels), :].flatten(-2))
        (gradient,) = torch.autograd.grad((some**2).sum(), leaf)
        assert set(gradient.any(0).any(0).nonzero().view(-1).tolist()) == set(channels)


@backends
def test_large_attributes_lose_no_digits(backend: Backend, device: str):
    triangles, fragments, g = soup(7, 2, 7, 9, 12)
    attributes = torch.randint(0, 100, (2, 12, 2), generator=g).float()
    arguments = triangles.to(device), to(device, fragments), None, backend
    near, far = (interpolate_derivatives((attributes + o).to(device), *arguments) for o in (0, 1 << 23))
    assert torch.equal(near, far) and near.abs().max() > 1


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("channels", [None, (2, 0)])
def test_gradients_of_the_reference(count: int, channels: tuple[int, ...] | None):
    triangles, fragments, g = soup(4, 2, 3, 4, 9)
    assert fragments.derivatives is not None
    slopes = fragments.derivatives.double().requires_grad_()
    attributes = torch.randn(count, 9, 3, dtype=torch.float64, generator=g).requires_grad_()

    def image(a: Tensor, b: Tensor) -> Tensor:
        return interpolate_derivatives(a, triangles, replace(fragments, derivatives=b), channels)

    assert torch.autograd.gradcheck(image, (attributes, slopes))


def test_autocast_does_not_round_gradients():
    triangles, fragments, g = soup(6, 2, 6, 5, 8)
    inputs = (torch.rand(2, 8, 3, generator=g), triangles, fragments, torch.randn(2, 6, 5, 6, generator=g), "torch")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = gradients(*inputs)
    assert all(torch.equal(a, b) for a, b in zip(inside, gradients(*inputs), strict=True))


@pytest.mark.parametrize("indices", [torch.int32, torch.int64])
@pytest.mark.parametrize(
    ("size", "channels"), [((1, 1, 1), 1), ((2, 7, 63), 2), ((1, 3, 500), 3), ((2, 31, 33), 17), ((1, 9, 11), 65)]
)
@pytest.mark.parametrize("shared", [False, True])
def test_kernels_match_the_reference(
    size: tuple[int, int, int], channels: int, shared: bool, indices: torch.dtype, device: str
):
    """Sums of float32 products, each right to 2^-22, in fixed point, which is finer than that.

    Where frames share attributes they share the scale of the sums, so gradients differ among frames by orders.
    """
    triangles, fragments, g = soup(channels, *size, vertices=12)
    triangles = triangles.to(indices)
    attributes = torch.randn(1 if shared else size[0], 12, channels, generator=g)
    upstream = torch.randn(*size, 2 * channels, generator=g)
    if shared:
        upstream *= 1e4 ** torch.arange(size[0]).view(-1, 1, 1, 1)
    exact = gradients(attributes.double(), triangles, fragments, upstream.double(), "torch")
    on_device = (attributes.to(device), triangles.to(device), to(device, fragments), upstream.to(device))
    got = gradients(*on_device, "triton")
    for value, expected in zip(got, exact, strict=True):
        assert value.dtype == torch.float32 and value.is_contiguous()
        for a, b in zip(value.cpu().double(), expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=2e-6 * float(b.abs().max()))


@pytest.mark.parametrize("runs", [1, 400])
@pytest.mark.parametrize("shared", [False, True])
def test_several_programs(runs: int, shared: bool, device: str, small_programs: None):
    """Programs of 256 pixels: most see one triangle where 400 neighbours see the same, few otherwise."""
    triangles, fragments, g = soup(runs, 2, 25, 30, 40, runs)
    attributes, upstream = torch.randn(1 if shared else 2, 40, 2, generator=g), torch.randn(2, 25, 30, 4, generator=g)
    exact = gradients(attributes.double(), triangles, fragments, upstream.double(), "torch")
    on_device = (attributes.to(device), triangles.to(device), to(device, fragments), upstream.to(device))
    got = gradients(*on_device, "triton")
    assert all(torch.equal(a, b) for a, b in zip(got, gradients(*on_device, "triton"), strict=True))
    for value, expected in zip(got, exact, strict=True):
        torch.testing.assert_close(value.cpu().double(), expected, rtol=1e-6, atol=2e-6 * float(expected.abs().max()))


def test_program_size_does_not_change_the_sums(monkeypatch: pytest.MonkeyPatch):
    """Neither does adding a large triangle up inside of a program: the sums are of integers."""
    triangles, fragments, g = soup(8, 1, 20, 40, 5, 300)
    attributes, upstream = torch.randn(1, 5, 2, generator=g), torch.randn(1, 20, 40, 4, generator=g)
    large = gradients(attributes, triangles, fragments, upstream, "triton")
    monkeypatch.setattr("fmlfast.kernels.common.backend.INTERPRETER_LANES", 1)
    small = gradients(attributes, triangles, fragments, upstream, "triton")
    assert all(torch.equal(a, b) for a, b in zip(large, small, strict=True))


@backends
def test_batch_equals_one_by_one_bitwise(backend: Backend, device: str):
    triangles, fragments, g = soup(6, 3, 13, 17, 20)
    triangles, fragments = triangles.to(device), to(device, fragments)
    attributes = torch.randn(3, 20, 3, generator=g).to(device)
    upstream = torch.randn(3, 13, 17, 6, generator=g).to(device)
    upstream *= torch.tensor([1e-8, 1.0, 1e8], device=device).view(3, 1, 1, 1)
    together = gradients(attributes, triangles, fragments, upstream, backend)
    assert all(map(torch.equal, together, gradients(attributes, triangles, fragments, upstream, backend)))
    for f in range(3):
        part = Fragments(*(a[f : f + 1] for a in vars(fragments).values()))
        alone = gradients(attributes[f : f + 1], triangles, part, upstream[f : f + 1], backend)
        for whole, single in zip(together, alone, strict=True):
            assert torch.equal(whole[f], single[0])


@backends
@pytest.mark.parametrize("needed", [(True, False), (False, True)])
def test_gradients_that_are_not_needed_are_none(needed: tuple[bool, bool], backend: Backend, device: str):
    """The derivatives summed up: an upstream gradient with no memory of its own."""
    triangles, fragments, g = soup(7, 2, 6, 5, 8)
    assert fragments.derivatives is not None
    attributes = torch.randn(2, 8, 3, generator=g)
    whole = gradients(attributes, triangles, fragments, torch.ones(2, 6, 5, 6), "torch")
    leaf = attributes.to(device).requires_grad_(needed[0])
    slopes = fragments.derivatives.to(device).requires_grad_(needed[1])
    fragments = replace(to(device, fragments), derivatives=slopes)
    interpolate_derivatives(leaf, triangles.to(device), fragments, backend=backend).sum().backward()
    assert (leaf.grad is not None, slopes.grad is not None) == needed
    for found, expected in ((leaf.grad, whole[1]), (slopes.grad, whole[2])):
        if found is not None:
            torch.testing.assert_close(found.cpu(), expected, rtol=1e-5, atol=1e-5)


@backends
def test_empty_pixels_have_no_say_in_gradients(backend: Backend, device: str):
    """A square root at 0 has the slope inf: the background must not break the surface."""
    triangles, fragments, g = soup(3, 2, 6, 5, 8)
    assert fragments.derivatives is not None
    leaves = torch.rand(1, 8, 2, generator=g).to(device), fragments.derivatives.to(device)
    attributes, slopes = (leaf.requires_grad_() for leaf in leaves)
    fragments = replace(to(device, fragments), derivatives=slopes)
    image = interpolate_derivatives(attributes, triangles.to(device), fragments, backend=backend)
    seen = (fragments.triangle_id >= 0)[..., None]
    upstream = torch.where(seen, 1.0, torch.nan).expand_as(image)
    for gradient in torch.autograd.grad(image, (attributes, slopes), upstream):
        assert gradient.isfinite().all() and gradient.abs().max() > 0


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # of NumPy in the interpreter
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_broken_gradients_are_passed_on(value: float, device: str):
    triangles, fragments, g = soup(2, 2, 6, 5, 8)
    upstream = torch.ones(2, 6, 5, 6)
    f, y, x = (fragments.triangle_id >= 0).nonzero()[-1]
    assert f == 1
    upstream[f, y, x, 0] = value
    arguments = (torch.rand(2, 8, 3, generator=g).to(device), triangles.to(device), to(device, fragments))
    _, to_attributes, to_slopes = gradients(*arguments, upstream.to(device), "triton")
    assert to_attributes[0].isfinite().all() and not to_attributes[1].isfinite().any()
    assert not to_slopes[f, y, x, ::2].isfinite().any() and to_slopes[f, y, x, 1::2].isfinite().all()
    assert to_slopes[0].isfinite().all()


@backends
@pytest.mark.parametrize("count", [0, 1])
def test_no_frames(count: int, backend: Backend, device: str):
    triangles, fragments, _ = soup(1, 0, 3, 5, 4)
    attributes = torch.ones(count, 4, 2, device=device)
    upstream = torch.ones(0, 3, 5, 4, device=device)
    out = gradients(attributes, triangles.to(device), to(device, fragments), upstream, backend)
    assert [a.shape for a in out] == [(0, 3, 5, 4), (count, 4, 2), (0, 3, 5, 4)]
    assert torch.equal(out[1], torch.zeros_like(attributes))


def bad(field: str, value: Tensor | None) -> dict[str, Fragments]:
    _, fragments, _ = soup(5, 3, 6, 5, 20)
    return {"fragments": replace(fragments, **{field: value})}


@backends
@pytest.mark.parametrize(
    ("message", "change"),
    [
        ("attributes", {"attributes": torch.zeros(2, 20, 3)}),
        ("attributes", {"attributes": torch.zeros(1, 20, 3).expand(3, 20, 3)}),
        ("triangles", {"triangles": torch.zeros(0, 3, dtype=torch.int32)}),
        ("fragments hold a triangle beyond", {"triangles": torch.zeros(2, 3, dtype=torch.int32)}),
        ("fragments must be what rasterize returned", {"fragments": None}),
        ("fragments.triangle_id", bad("triangle_id", torch.zeros(3, 6, 5))),
        (r"fragments have no derivatives: call rasterize\(..., derivatives=True\)", bad("derivatives", None)),
        ("fragments.derivatives", bad("derivatives", torch.zeros(3, 6, 5, 2))),
        ("fragments.derivatives", bad("derivatives", torch.zeros(3, 6, 5, 4).half())),
        ("fragments.derivatives", bad("derivatives", torch.zeros(3, 6, 5, 1).expand(3, 6, 5, 4))),
        ("channels must be different ints from 0 to 2", {"channels": [3]}),
        ("channels", {"channels": [-1]}),
        ("channels", {"channels": [1, 1]}),
        ("channels", {"channels": [True]}),
        ("backend", {"backend": "numpy"}),
    ],
)
def test_bad_input_names_the_argument(message: str, change: dict, backend: Backend):
    triangles, fragments, _ = soup(5, 3, 6, 5, 20)
    good = {"attributes": torch.zeros(3, 20, 3), "triangles": triangles, "fragments": fragments, "backend": backend}
    interpolate_derivatives(**good)
    with pytest.raises(ValueError, match=f"^{message}"):
        interpolate_derivatives(**(good | change))


def test_kernels_compute_in_float32():
    triangles, single, _ = soup(5, 3, 6, 5, 20)
    assert single.derivatives is not None
    double = replace(single, derivatives=single.derivatives.double())
    for attributes, given in ((torch.zeros(3, 20, 3).double(), single), (torch.zeros(3, 20, 3), double)):
        interpolate_derivatives(attributes, triangles, given, None, "torch")
        with pytest.raises(ValueError, match="float32"):
            interpolate_derivatives(attributes, triangles, given, None, "triton")
