"""Gradients of rasterisation, and what its kernels share with the reference to the bit."""

import pytest
import torch
from torch import Tensor

from fmlfast.kernels.common.backend import Backend
from fmlfast.kernels.rasterize import Fragments, rasterize
from fmlfast.kernels.rasterize_clip import rasterize_clip
from fmlfast.kernels.rasterize_locate_torch import locate
from tests.helpers.rasterize_scenes import BACKENDS, Draw, draw, grid, picture, same

__all__ = ["draw"]  # a fixture


def upstream(height: int, width: int, frames: int = 1) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(height * width)
    return torch.randn(frames, height, width, 3, generator=g), torch.randn(frames, height, width, generator=g)


def gradient(draw: Draw, scene: tuple, upstream: tuple[Tensor, Tensor]) -> Tensor:
    vertices = scene[0].clone().requires_grad_()
    fragments = draw(vertices, *scene[1:])
    assert not fragments.triangle_id.requires_grad
    torch.autograd.backward((fragments.barycentrics, fragments.depth), upstream)
    assert vertices.grad is not None
    return vertices.grad


def batch() -> tuple[Tensor, Tensor, Tensor, int, int]:
    """Three frames with cameras of their own; the first sees a single triangle, the last nothing."""
    g = torch.Generator().manual_seed(21)
    vertices = torch.rand(3, 40, 3, generator=g) * torch.tensor([200.0, 200, 300]) + torch.tensor([-100.0, -100, 100])
    triangles = torch.cat([torch.tensor([[0, 1, 2]]), torch.randint(3, 40, (50, 3), generator=g)])
    vertices[0, :3] = torch.tensor([[-900.0, -900, 90], [900, -900, 95], [0, 900, 85]])
    vertices[2] *= -1
    Ks = torch.tensor([[60.0, 1.0, 20], [0.5, 55, 17], [0, 0, 1]]) + torch.rand(3, 1, 1, generator=g)
    Ks[:, 2] = torch.tensor([0.0, 0, 1])
    return vertices, triangles, Ks, 21, 31


@pytest.mark.parametrize("seed", range(6))
def test_gradients_match_float64(draw: Draw, seed: int):
    vertices, triangles, Ks, height, width = scene = picture(seed)
    Ks[0, 1, 0] = 0.7
    fragments = draw(*scene)
    exact = vertices.double().requires_grad_()
    barycentrics, depth = locate(exact, triangles, Ks.double(), fragments.triangle_id)
    weights = upstream(height, width)
    torch.autograd.backward((barycentrics, depth), [a.double() for a in weights])
    assert exact.grad is not None and float(exact.grad.norm()) > 0
    error = gradient(draw, scene, weights) - exact.grad
    size = exact.grad.norm(dim=-1)
    assert float(error.norm() / exact.grad.norm()) < 1e-4
    assert (error.norm(dim=-1) <= 1e-3 * size + 1e-7 * size.max()).all()


def test_locate_solves_for_the_ray():
    """b_0 X_0 + b_1 X_1 + b_2 X_2 is proportional to K^-1 p, sum b = 1: values and gradients by a linear solver."""
    vertices, triangles, Ks, height, width = picture(5)
    triangle_id = rasterize(vertices, triangles, Ks, height, width).triangle_id
    assert (triangle_id >= 0).all()
    a, b = (vertices.double().requires_grad_() for _ in range(2))
    barycentrics, depth = locate(a, triangles, Ks.double(), triangle_id)
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    ray = torch.linalg.solve(Ks[0].double(), torch.stack([x, y, torch.ones_like(x)], -1).double()[..., None])
    corners = b[0, triangles[triangle_id[0].long()]].mT  # [H, W, 3, 3], a corner a column
    weights = torch.linalg.solve(corners, ray)[..., 0]
    total = weights.sum(-1)
    torch.testing.assert_close(barycentrics[0], weights / total[..., None])
    torch.testing.assert_close(depth[0], 1 / total)
    for got, expected in ((barycentrics[0], weights / total[..., None]), (depth[0], 1 / total)):
        up = torch.randn(got.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        (ga,), (gb,) = torch.autograd.grad(got, a, up, True), torch.autograd.grad(expected, b, up, True)
        torch.testing.assert_close(ga, gb, rtol=1e-7, atol=1e-9)


def test_gradcheck_of_the_reference():
    vertices, triangles, Ks, height, width = picture(3)
    triangle_id = rasterize(vertices, triangles, Ks, height, width).triangle_id

    def located(v: Tensor) -> tuple[Tensor, Tensor]:
        b, z = locate(v, triangles, Ks.double(), triangle_id)
        return b, z.masked_fill(triangle_id < 0, 0)

    used = vertices.double().requires_grad_()
    assert torch.autograd.gradcheck(located, used, eps=1e-5, atol=1e-4, rtol=1e-4, fast_mode=True)


def test_gradients_of_a_batch_are_those_one_by_one_and_repeat_bitwise(draw: Draw):
    vertices, triangles, Ks, height, width = scene = batch()
    up = upstream(height, width, 3)
    whole = gradient(draw, scene, up)
    assert (whole[:2].abs().amax((1, 2)) > 0).all() and (whole[2] == 0).all()
    assert torch.equal(whole, gradient(draw, scene, up))
    for f in range(3):
        one = slice(f, f + 1)
        part = gradient(draw, (vertices[one], triangles, Ks[one], height, width), (up[0][one], up[1][one]))
        assert torch.equal(whole[one], part)


def test_chunks_do_not_change_the_gradients_of_the_reference(monkeypatch: pytest.MonkeyPatch):
    scene = batch()
    whole = gradient(rasterize, scene, upstream(21, 31, 3))
    monkeypatch.setattr("fmlfast.kernels.rasterize_locate_torch.CHUNK", 50)
    assert torch.equal(whole, gradient(rasterize, scene, upstream(21, 31, 3)))


def test_parts_of_the_result_have_gradients_of_their_own(draw: Draw):
    vertices, triangles, Ks, height, width = scene = batch()
    up = upstream(height, width, 3)
    both = gradient(draw, scene, up)
    separate = torch.zeros_like(vertices)
    for k, name in enumerate(("barycentrics", "depth")):
        leaf = vertices.clone().requires_grad_()
        value = getattr(draw(leaf, triangles, Ks.clone().requires_grad_(), height, width), name)
        separate += torch.autograd.grad(value, leaf, up[k].mT.contiguous().mT)[0]  # not contiguous
    torch.testing.assert_close(separate, both, rtol=1e-4, atol=1e-4 * float(both.abs().max()))
    leaf = vertices.clone().requires_grad_()
    sums = torch.autograd.grad(draw(leaf, triangles, Ks, height, width).barycentrics.sum(), leaf)[0]  # always 1
    assert float(sums.abs().max()) < 1e-5 * float(both.abs().max())
    assert not draw(vertices, triangles, Ks.clone().requires_grad_(), height, width).depth.requires_grad


def test_gradients_are_once_differentiable(draw: Draw):
    vertices, *rest = picture(1)
    leaf = vertices.clone().requires_grad_()
    (first,) = torch.autograd.grad(draw(leaf, *rest).barycentrics.square().sum(), leaf, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivatives"):
        first.sum().backward()


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_upstream_that_is_not_finite_shows_in_its_frame_only_and_not_from_empty_pixels(draw: Draw, bad: float):
    vertices, triangles, Ks, height, width = scene = batch()
    up = upstream(height, width, 3)
    fragments = draw(*scene)
    expected = gradient(draw, scene, up)
    empty = (fragments.triangle_id < 0).nonzero()
    assert len(empty)
    up[1][tuple(empty[0])] = bad
    assert torch.equal(gradient(draw, scene, up), expected)
    up[0][1][fragments.triangle_id[1] >= 0] = bad
    broken = gradient(draw, scene, up)
    assert broken[1].isnan().any() and torch.equal(broken[::2], expected[::2])


@pytest.mark.parametrize("case", BACKENDS, ids=lambda p: "-".join(p))
def test_pixels_of_a_degenerate_triangle_move_nothing(case: tuple[Backend, str]):
    """It is seen by rounding only, so the ids are made up here; the other triangle's pixels count."""
    backend, device = case
    if backend == "torch":
        from fmlfast.kernels.rasterize_torch import gradient as implementation
    else:
        from fmlfast.kernels.rasterize_triton import gradient as implementation
    vertices = torch.tensor([[[-50.0, -50, 100], [50, -50, 120], [50, 50, 100], [0, 0, 100]]])
    K, up = torch.tensor([[[8.0, 0, 4], [0, 8, 4], [0, 0, 1]]]), upstream(8, 8)
    ids = torch.tensor([0, 1]).repeat_interleave(32).int().view(1, 8, 8)
    triangles = torch.tensor([[0, 3, 2], [0, 1, 2]])
    arguments = vertices, triangles, K, ids, *up
    got = implementation(*(a.to(device) for a in arguments)).cpu()
    alone = implementation(*(a.to(device) for a in (*arguments[:3], ids.masked_fill(ids == 0, -1), *up))).cpu()
    assert float(got.abs().max()) > 0 and torch.equal(got, alone) and (got[0, 3] == 0).all()


@pytest.mark.parametrize("factor", [1e10, 1e19, 1e20, 1e25, 9e37])
@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("case", BACKENDS, ids=lambda p: "-".join(p))
def test_corners_far_away_have_finite_gradients(case: tuple[Backend, str], clip: bool, factor: float):
    backend, device = case
    g = torch.Generator().manual_seed(3)
    centres = (torch.rand(1, 60, 1, 3, generator=g) - 0.5) * torch.tensor([2.0, 2, 1]) + torch.tensor([0, 0, 2.5])
    vertices = (centres + torch.rand(1, 60, 3, 3, generator=g) - 0.5).reshape(1, -1, 3)
    vertices[0, 6::13] *= factor
    vertices[0, 5::17, 0] *= factor
    vertices[0, 7::19, 2] *= factor
    vertices = (torch.cat([vertices, vertices[..., 2:]], 2) if clip else vertices).to(device).requires_grad_()
    triangles = torch.arange(180, device=device).view(-1, 3)
    Ks = torch.tensor([[[33.0, 0, 16], [0, 33, 16], [0, 0, 1]]], device=device)
    if clip:
        seen = rasterize_clip(vertices, triangles, 33, 29, derivatives=True, backend=backend)
    else:
        seen = rasterize(vertices, triangles, Ks, 33, 29, near=0.01, derivatives=True, backend=backend)
    assert seen.derivatives is not None and bool((seen.triangle_id % 13 < 5).any())
    for part in (seen.barycentrics, torch.where(seen.triangle_id >= 0, seen.depth, 0.0), seen.derivatives):
        weights = torch.rand(part.shape, generator=g).to(device)
        (gradient,) = torch.autograd.grad(part, vertices, weights, retain_graph=True)
        assert gradient.isfinite().all() and gradient.any()


@pytest.mark.parametrize("seed", [0, 4, 6, 8, 11])
@pytest.mark.parametrize("cull", [False, True])
def test_kernels_equal_the_reference_to_the_bit(device: str, seed: int, cull: bool):
    *_, height, width = scene = picture(seed)
    expected = rasterize(*scene, cull_backfaces=cull, near=2.3)
    vertices, triangles, Ks = (a.to(device) for a in scene[:3])
    got = rasterize(vertices, triangles, Ks, height, width, cull, 2.3, backend="triton")
    assert same(expected, Fragments(got.triangle_id.cpu(), got.barycentrics.cpu(), got.depth.cpu()))


def bumps(cells: int, size: int) -> tuple[Tensor, Tensor, Tensor, int, int]:
    """A bumpy sheet of 2 cells ** 2 triangles that covers a picture."""
    g = torch.Generator().manual_seed(cells)
    y, x = torch.meshgrid(torch.linspace(-60, 60, cells + 1), torch.linspace(-60, 60, cells + 1), indexing="ij")
    z = 500 + 3 * torch.sin(x / 5) + torch.rand(x.shape, generator=g)
    K = torch.tensor([[4.0 * size, 0, size / 2], [0, 4.0 * size, size / 2], [0, 0, 1]])
    vertices = torch.stack([x * z / 460, y * z / 460, z], -1).view(1, -1, 3)
    return vertices, grid(cells, cells, True).int(), K[None], size, size


def test_many_programs_and_garbage_in_memory(device: str, small_programs: None, poisoned_memory: None):
    """Programs of the size used on a GPU, and whatever is allocated holds NaN or nonsense at first."""
    sheet, triangles, K, height, width = bumps(12, 29)
    screen = torch.tensor([[-500.0, -500, 480], [500, -500, 480], [0, 40, 480]])  # fills programs of pixels
    vertices = torch.cat([sheet[0], screen])[None] * torch.tensor([1.0, 1.2])[:, None, None]
    triangles = torch.cat([triangles, torch.tensor([[0, 1, 2]]) + sheet.shape[1]]).int()
    scene, up = (vertices, triangles, K.expand(2, 3, 3), height, width), upstream(height, width, 2)
    expected, expected_grad = rasterize(*scene), gradient(rasterize, scene, up)
    assert expected.triangle_id.unique().numel() > 100 and (expected.triangle_id == len(triangles) - 1).sum() > 256

    def run(v: Tensor, t: Tensor, K: Tensor, height: int, width: int) -> Fragments:
        f = rasterize(v.to(device), t.to(device), K.to(device), height, width, backend="triton")
        return Fragments(f.triangle_id.cpu(), f.barycentrics.cpu(), f.depth.cpu())

    assert same(expected, run(*scene))
    got = gradient(run, scene, up)
    torch.testing.assert_close(got, expected_grad, rtol=1e-4, atol=1e-5 * float(expected_grad.abs().max()))


def test_many_triangles_below_a_pixel(device: str):
    scene = bumps(390, 100)
    expected = rasterize(*scene)
    vertices, triangles, Ks = (a.to(device) for a in scene[:3])
    got = rasterize(vertices, triangles, Ks, *scene[3:], backend="triton")
    assert len(scene[1]) > 300_000 and (expected.triangle_id >= 0).all()
    assert same(expected, Fragments(got.triangle_id.cpu(), got.barycentrics.cpu(), got.depth.cpu()))


@pytest.mark.gpu
def test_ten_million_triangles():
    scene = bumps(2240, 300)
    expected = rasterize(*scene)
    vertices, triangles, Ks = (a.to("cuda") for a in scene[:3])
    got = rasterize(vertices, triangles, Ks, *scene[3:])
    assert len(scene[1]) > 10_000_000 and (expected.triangle_id >= 0).all()
    assert same(expected, Fragments(got.triangle_id.cpu(), got.barycentrics.cpu(), got.depth.cpu()))
