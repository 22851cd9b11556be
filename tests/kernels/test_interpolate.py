"""Interpolation: against the definition, every gradient, the kernels against the reference in float64."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fmlfast.kernels.common.backend import Backend
from fmlfast.kernels.interpolate import interpolate
from fmlfast.kernels.rasterize import Fragments, rasterize

backends = pytest.mark.parametrize("backend", ["torch", "triton"])


pytestmark = pytest.mark.usefixtures("poisoned_memory")


def scene(seed: int, frames: int = 3, height: int = 13, width: int = 17) -> tuple[Tensor, Tensor, Fragments]:
    """Twenty random corners, 25 triangles: vertices [F, 20, 3], triangles [25, 3], what 13 x 17 pixels see of them."""
    g = torch.Generator().manual_seed(seed)
    vertices = torch.rand(frames, 20, 3, generator=g) * torch.tensor([60.0, 60, 50]) + torch.tensor([-30.0, -30, 60])
    triangles = torch.randint(0, 20, (25, 3), generator=g, dtype=torch.int32)
    K = torch.tensor([[30.0, 0, width / 2], [0, 30, height / 2], [0, 0, 1]]).repeat(frames, 1, 1)
    return vertices, triangles, rasterize(vertices, triangles, K, height, width)


def soup(
    seed: int, frames: int, height: int, width: int, vertices: int, runs: int = 1
) -> tuple[Tensor, Fragments, torch.Generator]:
    """Fragments that no rasteriser need have made: `runs` neighbours see one triangle; a third of them sees none."""
    g = torch.Generator().manual_seed(seed)
    triangles = torch.randint(0, vertices, (2 * vertices, 3), generator=g, dtype=torch.int32)
    pixels = frames * height * width
    ids = torch.randint(-vertices, 2 * vertices, (pixels // runs + 1,), generator=g).clamp(min=-1)
    ids = ids.repeat_interleave(runs)[:pixels].view(frames, height, width).int()
    barycentrics = torch.rand(frames, height, width, 3, generator=g)
    barycentrics /= barycentrics.sum(-1, keepdim=True)
    barycentrics[ids < 0] = 0
    return triangles, Fragments(ids, barycentrics, torch.ones(frames, height, width)), g


def gradients(
    attributes: Tensor, triangles: Tensor, fragments: Fragments, upstream: Tensor, backend: Backend
) -> tuple[Tensor, Tensor, Tensor]:
    """The image and its gradients, to attributes and barycentrics."""
    attributes = attributes.detach().clone().requires_grad_()
    weights = fragments.barycentrics.detach().to(attributes.dtype).clone().requires_grad_()
    image = interpolate(attributes, triangles, replace(fragments, barycentrics=weights), backend)
    to_attributes, to_weights = torch.autograd.grad(image, (attributes, weights), upstream.to(image.dtype))
    return image.detach(), to_attributes, to_weights


def to(device: str, fragments: Fragments) -> Fragments:
    return Fragments(*(a.to(device) for a in (fragments.triangle_id, fragments.barycentrics, fragments.depth)))


@backends
@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("shared", [False, True])
def test_matches_the_definition(channels: int, shared: bool, backend: Backend):
    _, triangles, fragments = scene(channels)
    attributes = torch.randn(1 if shared else 3, 20, channels, generator=torch.Generator().manual_seed(0))
    image = interpolate(attributes, triangles, fragments, backend)
    assert image.shape == (3, 13, 17, channels) and image.dtype == torch.float32
    covered = 0
    for f, y, x in torch.cartesian_prod(torch.arange(3), torch.arange(13), torch.arange(17)).tolist():
        triangle = int(fragments.triangle_id[f, y, x])
        expected = torch.zeros(channels)
        if triangle >= 0:
            covered += 1
            corners = attributes[0 if shared else f, triangles[triangle].long()]
            expected = fragments.barycentrics[f, y, x] @ corners
        torch.testing.assert_close(image[f, y, x], expected)
    assert 100 < covered < 600


@backends
def test_positions_come_back_at_the_pixel(backend: Backend):
    """Camera-space positions interpolated with perspective-correct weights lie on the pixel's ray, at its depth."""
    vertices, triangles, fragments = scene(9)
    points = interpolate(vertices, triangles, fragments, backend)
    f, y, x = (fragments.triangle_id >= 0).nonzero().T
    seen = points[f, y, x]
    torch.testing.assert_close(seen[:, 2], fragments.depth[f, y, x], rtol=1e-5, atol=0)
    torch.testing.assert_close(30 * seen[:, 0] / seen[:, 2] + 8.5, x + 0.5, rtol=0, atol=1e-3)
    torch.testing.assert_close(30 * seen[:, 1] / seen[:, 2] + 6.5, y + 0.5, rtol=0, atol=1e-3)


@backends
def test_gradients_reach_the_vertices(backend: Backend):
    """z at the pixel is the depth, and x / z is the pixel's own, whatever the vertices do."""
    vertices, triangles, _ = scene(9)
    vertices.requires_grad_()
    K = torch.tensor([[30.0, 0, 8.5], [0, 30, 6.5], [0, 0, 1]]).repeat(3, 1, 1)
    fragments = rasterize(vertices, triangles, K, 13, 17, backend=backend)
    upstream = torch.randn(3, 13, 17, generator=torch.Generator().manual_seed(0)) * (fragments.triangle_id >= 0)
    points = interpolate(vertices, triangles, fragments, backend)
    depth = torch.where(fragments.triangle_id >= 0, fragments.depth, 1)
    expected, got, ray = (
        torch.autograd.grad((value * upstream).sum(), vertices, retain_graph=True)[0]
        for value in (depth, points[..., 2], points[..., 0] / depth)
    )
    assert expected.abs().max() > 1
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
    assert ray.abs().max() < 1e-4 * expected.abs().max()


@pytest.mark.parametrize("count", [1, 2])
def test_gradients_of_the_reference(count: int):
    triangles, fragments, g = soup(4, 2, 3, 4, 9)
    weights = fragments.barycentrics.double().requires_grad_()
    attributes = torch.randn(count, 9, 2, dtype=torch.float64, generator=g).requires_grad_()

    def image(a: Tensor, b: Tensor) -> Tensor:
        return interpolate(a, triangles, replace(fragments, barycentrics=b))

    assert torch.autograd.gradcheck(image, (attributes, weights))


def test_autocast_does_not_round_gradients():
    triangles, fragments, g = soup(6, 2, 6, 5, 8)
    inputs = (torch.rand(2, 8, 3, generator=g), triangles, fragments, torch.randn(2, 6, 5, 3, generator=g), "torch")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = gradients(*inputs)
    assert all(torch.equal(a, b) for a, b in zip(inside, gradients(*inputs), strict=True))


@pytest.mark.parametrize("indices", [torch.int32, torch.int64])
@pytest.mark.parametrize(
    ("size", "channels"),
    [
        ((1, 1, 1), 1),
        ((2, 7, 9), 2),
        ((3, 20, 25), 3),
        ((1, 9, 30), 5),
        ((2, 31, 33), 17),
        ((1, 9, 30), 33),
        ((1, 9, 11), 65),
    ],
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
    upstream = torch.randn(*size, channels, generator=g)
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
    """Programs of 128 pixels: most see one triangle where 400 neighbours see the same, few otherwise."""
    triangles, fragments, g = soup(runs, 2, 25, 30, 40, runs)
    attributes, upstream = torch.randn(1 if shared else 2, 40, 3, generator=g), torch.randn(2, 25, 30, 3, generator=g)
    exact = gradients(attributes.double(), triangles, fragments, upstream.double(), "torch")
    on_device = (attributes.to(device), triangles.to(device), to(device, fragments), upstream.to(device))
    got = gradients(*on_device, "triton")
    assert all(torch.equal(a, b) for a, b in zip(got, gradients(*on_device, "triton"), strict=True))
    for value, expected in zip(got, exact, strict=True):
        torch.testing.assert_close(value.cpu().double(), expected, rtol=1e-6, atol=1e-5)


def test_program_size_does_not_change_the_sums(monkeypatch: pytest.MonkeyPatch):
    """Neither does adding a large triangle up inside of a program: the sums are of integers."""
    triangles, fragments, g = soup(8, 1, 20, 40, 5, 300)
    attributes, upstream = torch.randn(1, 5, 2, generator=g), torch.randn(1, 20, 40, 2, generator=g)
    large = gradients(attributes, triangles, fragments, upstream, "triton")
    monkeypatch.setattr("fmlfast.kernels.common.backend.INTERPRETER_LANES", 1)
    small = gradients(attributes, triangles, fragments, upstream, "triton")
    assert all(torch.equal(a, b) for a, b in zip(large, small, strict=True))


@backends
def test_batch_equals_one_by_one_bitwise(backend: Backend, device: str):
    triangles, fragments, g = soup(6, 3, 13, 17, 20)
    triangles, fragments = triangles.to(device), to(device, fragments)
    attributes = torch.randn(3, 20, 4, generator=g).to(device)
    upstream = torch.randn(3, 13, 17, 4, generator=g).to(device) * torch.tensor([1e-8, 1.0, 1e8], device=device).view(
        3, 1, 1, 1
    )
    together = gradients(attributes, triangles, fragments, upstream, backend)
    assert all(map(torch.equal, together, gradients(attributes, triangles, fragments, upstream, backend)))
    for f in range(3):
        part = Fragments(*(a[f : f + 1] for a in (fragments.triangle_id, fragments.barycentrics, fragments.depth)))
        alone = gradients(attributes[f : f + 1], triangles, part, upstream[f : f + 1], backend)
        for whole, single in zip(together, alone, strict=True):
            assert torch.equal(whole[f], single[0])


@backends
@pytest.mark.parametrize("needed", [(True, False), (False, True)])
def test_gradients_that_are_not_needed_are_none(needed: tuple[bool, bool], backend: Backend, device: str):
    """The image summed up: an upstream gradient with no memory of its own."""
    triangles, fragments, g = soup(7, 2, 6, 5, 8)
    attributes = torch.randn(2, 8, 3, generator=g).to(device).requires_grad_(needed[0])
    weights = fragments.barycentrics.to(device).requires_grad_(needed[1])
    fragments = replace(to(device, fragments), barycentrics=weights)
    interpolate(attributes, triangles.to(device), fragments, backend).sum().backward()
    assert (attributes.grad is not None, weights.grad is not None) == needed
    corners = triangles[fragments.triangle_id.cpu().clamp(min=0).long()].long()  # [F, H, W, 3]
    seen = (fragments.triangle_id.cpu() >= 0)[..., None]
    if attributes.grad is not None:
        expected = torch.zeros(2, 8)
        expected.view(-1).index_add_(
            0, (corners + torch.tensor([0, 8]).view(2, 1, 1, 1)).flatten(), weights.cpu().flatten()
        )
        torch.testing.assert_close(attributes.grad.cpu(), expected[..., None].expand(2, 8, 3))
    if weights.grad is not None:
        sums = attributes.detach().cpu().sum(-1)
        expected = torch.where(seen, sums[torch.arange(2).view(2, 1, 1, 1), corners], 0.0)
        torch.testing.assert_close(weights.grad.cpu(), expected)


@backends
def test_empty_pixels_have_no_say_in_gradients(backend: Backend, device: str):
    """A square root at 0 has the slope inf: the background must not break the surface."""
    triangles, fragments, g = soup(3, 2, 6, 5, 8)
    attributes = (1 + torch.rand(1, 8, 2, generator=g)).to(device).requires_grad_()
    weights = fragments.barycentrics.to(device).requires_grad_()
    fragments = replace(to(device, fragments), barycentrics=weights)
    image = interpolate(attributes, triangles.to(device), fragments, backend).sqrt()
    for gradient in torch.autograd.grad(image.sum(), (attributes, weights)):
        assert gradient.isfinite().all() and gradient.abs().max() > 0


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # of NumPy in the interpreter
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_broken_gradients_are_passed_on(value: float, device: str):
    triangles, fragments, g = soup(2, 2, 6, 5, 8)
    upstream = torch.ones(2, 6, 5, 3)
    f, y, x = (fragments.triangle_id >= 0).nonzero()[-1]
    assert f == 1
    upstream[f, y, x, 0] = value
    arguments = (torch.rand(2, 8, 3, generator=g).to(device), triangles.to(device), to(device, fragments))
    _, to_attributes, to_barycentrics = gradients(*arguments, upstream.to(device), "triton")
    assert to_attributes[0].isfinite().all() and not to_attributes[1].isfinite().any()
    assert not to_barycentrics[f, y, x].isfinite().any() and to_barycentrics[0].isfinite().all()


@backends
@pytest.mark.parametrize("count", [0, 1])
def test_no_frames(count: int, backend: Backend, device: str):
    triangles, fragments, _ = soup(1, 0, 3, 5, 4)
    attributes = torch.ones(count, 4, 2, device=device)
    out = gradients(
        attributes, triangles.to(device), to(device, fragments), torch.ones(0, 3, 5, 2, device=device), backend
    )
    assert [a.shape for a in out] == [(0, 3, 5, 2), (count, 4, 2), (0, 3, 5, 3)]
    assert torch.equal(out[1], torch.zeros_like(attributes))


@pytest.mark.gpu
@backends
def test_foreign_fragments_are_empty_on_a_gpu(backend: Backend):
    """They are not looked for there, as that would mean waiting, but nothing is read beyond the triangles."""
    triangles, fragments, g = soup(5, 2, 6, 5, 8)
    attributes, upstream = torch.rand(2, 8, 3, generator=g), torch.rand(2, 6, 5, 3, generator=g)
    few = triangles[:9].clone()
    ids = torch.where(fragments.triangle_id < 9, fragments.triangle_id, -1)
    expected = gradients(attributes, few, replace(fragments, triangle_id=ids), upstream, "torch")
    got = gradients(attributes.cuda(), few.cuda(), to("cuda", fragments), upstream.cuda(), backend)
    for value, wanted in zip(got, expected, strict=True):
        torch.testing.assert_close(value.cpu(), wanted)


def bad(field: str, value: Tensor) -> dict[str, Fragments]:
    _, _, fragments = scene(5)
    return {"fragments": replace(fragments, **{field: value})}


@backends
@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("attributes", {"attributes": torch.zeros(20, 3)}),
        ("attributes", {"attributes": torch.zeros(2, 20, 3)}),
        ("attributes", {"attributes": torch.zeros(3, 20, 3, dtype=torch.int32)}),
        ("attributes", {"attributes": torch.zeros(1, 20, 3).expand(3, 20, 3)}),
        ("fragments", {"attributes": torch.zeros(3, 20, 3, device="meta")}),
        ("triangles", {"attributes": torch.zeros(3, 5, 3)}),
        ("triangles", {"triangles": torch.zeros(0, 3, dtype=torch.int32)}),
        ("triangles", {"triangles": torch.zeros(25, 3)}),
        ("triangles", {"triangles": torch.zeros(3, 25, dtype=torch.int32).T}),
        ("fragments", {"triangles": torch.zeros(2, 3, dtype=torch.int32)}),
        ("fragments.triangle_id", bad("triangle_id", torch.zeros(3, 13, dtype=torch.int32))),
        ("fragments.triangle_id", bad("triangle_id", torch.zeros(3, 13, 17))),
        ("fragments.barycentrics", bad("barycentrics", torch.zeros(3, 13, 17, 2))),
        ("fragments.barycentrics", bad("barycentrics", torch.zeros(3, 13, 17, 3).half())),
        ("fragments.barycentrics", bad("barycentrics", torch.zeros(3, 13, 17, 1).expand(3, 13, 17, 3))),
        ("backend", {"backend": "numpy"}),
    ],
)
def test_bad_input_names_the_argument(name: str, change: dict, backend: Backend):
    _, triangles, fragments = scene(5)
    good = {"attributes": torch.zeros(3, 20, 3), "triangles": triangles, "fragments": fragments, "backend": backend}
    interpolate(**good)
    with pytest.raises(ValueError, match=f"^{name}"):
        interpolate(**(good | change))


def test_kernels_compute_in_float32():
    _, triangles, fragments = scene(5)
    double = replace(fragments, barycentrics=fragments.barycentrics.double())
    for attributes, given in ((torch.zeros(3, 20, 3).double(), fragments), (torch.zeros(3, 20, 3), double)):
        interpolate(attributes, triangles, given, "torch")
        with pytest.raises(ValueError, match="float32"):
            interpolate(attributes, triangles, given, "triton")
