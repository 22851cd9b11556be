"""Derivatives of barycentrics with the pixel, and gradients of all that clip-space rasterisation returns."""

from typing import Any

import pytest
import torch
from torch import Tensor

from fmlfast.kernels.common.backend import Backend
from fmlfast.kernels.common.fragments import Fragments
from fmlfast.kernels.rasterize import rasterize
from fmlfast.kernels.rasterize_clip import peel, rasterize_clip
from fmlfast.kernels.rasterize_locate_torch import locate
from tests.helpers.clip_scenes import DrawClip, clip_soup, draw_clip, viewport
from tests.helpers.rasterize_scenes import BACKENDS, picture

__all__ = ["draw_clip"]  # a fixture
ONE = torch.tensor([[0, 1, 2]])
TRIANGLE = torch.tensor([[[-9.0, -3, 0.5, 1.5], [10, -4, -1, 2], [0.5, 15, 1, 2.5]]], dtype=torch.float64)


def upstream(height: int, width: int, frames: int = 1) -> list[Tensor]:
    """Random gradients of barycentrics, depth and derivatives."""
    g = torch.Generator().manual_seed(height * width)
    return [torch.randn(frames, height, width, *shape, generator=g) for shape in ((3,), (), (4,))]


def outputs(fragments: Fragments) -> list[Tensor]:
    """What has a gradient, without the infinite depth of empty pixels."""
    depth = fragments.depth.masked_fill(fragments.triangle_id < 0, 0)
    found = [fragments.barycentrics, depth, fragments.derivatives]
    return [x for x in found if x is not None]


def gradient(draw: DrawClip, positions: Tensor, rest: tuple, up: list[Tensor]) -> Tensor:
    leaf = positions.clone().requires_grad_()
    fragments = draw(leaf, *rest, derivatives=True)
    assert not fragments.triangle_id.requires_grad
    return torch.autograd.grad(outputs(fragments), leaf, up)[0]


def exact_gradient(positions: Tensor, triangles: Tensor, ids: Tensor, up: list[Tensor]) -> Tensor:
    leaf = positions.double().requires_grad_()
    located = Fragments(ids, *locate(leaf, triangles, None, ids, True))
    return torch.autograd.grad(outputs(located), leaf, [u.double() for u in up])[0]


def solved(corners: Tensor, at: Tensor, height: int, width: int) -> Tensor:
    """Barycentrics of corners [3, 4] at a column and row [2] of the picture: sum_k b_k (x, y, w)_k is along the ray."""
    x, y = at
    ray = torch.stack([2 * x / width - 1, 2 * y / height - 1, torch.ones_like(x)])
    weights = torch.linalg.solve(corners[:, [0, 1, 3]].mT, ray)
    return weights / weights.sum()


@pytest.mark.parametrize("size", [(1, 1), (3, 63), (40, 30)])
def test_derivatives_are_those_of_the_solved_barycentrics(size: tuple[int, int]):
    height, width = size
    fragments = rasterize_clip(TRIANGLE, ONE, height, width, derivatives=True)
    assert (fragments.triangle_id == 0).all() and fragments.derivatives is not None
    g = torch.Generator().manual_seed(0)
    for _ in range(12):
        row, column = (int(torch.randint(0, n, (1,), generator=g)) for n in size)
        at = torch.tensor([column + 0.5, row + 0.5], dtype=torch.float64)
        jacobian = torch.autograd.functional.jacobian(lambda p: solved(TRIANGLE[0], p, height, width), at)  # [3, 2]
        torch.testing.assert_close(fragments.derivatives[0, row, column], jacobian[:2].flatten(), rtol=1e-9, atol=1e-12)


def test_derivatives_are_the_differences_of_neighbours(draw_clip: DrawClip):
    height, width = 48, 40
    flat = TRIANGLE.clone()
    flat[..., 3] = 1
    for positions, tolerance in ((flat, 2e-6), (TRIANGLE, 1e-5)):  # without perspective the differences are exact
        fragments = draw_clip(positions.float(), ONE, height, width, derivatives=True)
        assert (fragments.triangle_id == 0).all() and fragments.derivatives is not None
        b = fragments.barycentrics[0, ..., :2]
        columns, rows = (b[1:-1, 2:] - b[1:-1, :-2]) / 2, (b[2:, 1:-1] - b[:-2, 1:-1]) / 2
        expected = torch.stack([columns, rows], -1).flatten(2)
        got = fragments.derivatives[0, 1:-1, 1:-1]
        assert got.abs().amax((0, 1)).min() > 1e-3
        torch.testing.assert_close(got, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("seed", range(4))
def test_derivatives_match_float64_and_are_zero_where_empty(draw_clip: DrawClip, seed: int):
    positions, triangles, height, width = clip_soup(seed)
    fragments = draw_clip(positions, triangles, height, width, derivatives=True)
    *_, exact = locate(positions.double(), triangles, None, fragments.triangle_id, True)
    got = fragments.derivatives
    assert got is not None and (got[fragments.triangle_id < 0] == 0).all()
    error = (got.double() - exact).norm(dim=-1) / exact.norm(dim=-1).clamp(min=1e-9)
    assert float(error.detach().max()) < 1e-3 and float(error.mean()) < 1e-5


@pytest.mark.parametrize("case", BACKENDS, ids=lambda p: "-".join(p))
def test_camera_space_has_derivatives_too(case: tuple[Backend, str]):
    backend, device = case
    vertices, triangles, Ks, height, width = picture(3)
    leaf = vertices.to(device).requires_grad_()
    mesh = leaf, triangles.to(device), Ks.to(device), height, width
    fragments = rasterize(*mesh, derivatives=True, backend=backend)
    assert fragments.derivatives is not None and rasterize(*mesh, backend=backend).derivatives is None
    ids = fragments.triangle_id.cpu()
    exact = vertices.double().requires_grad_()
    *_, expected = locate(exact, triangles, Ks.double(), ids, True)
    error = (fragments.derivatives.cpu().double() - expected).norm(dim=-1) / expected.norm(dim=-1).clamp(min=1e-9)
    assert (ids >= 0).any() and float(error.detach().max()) < 1e-3
    up = upstream(height, width)[2]
    (got,) = torch.autograd.grad(fragments.derivatives, leaf, up.to(device))
    (wanted,) = torch.autograd.grad(expected, exact, up.double())
    assert float((got.cpu() - wanted).norm() / wanted.norm()) < 1e-4


def test_gradcheck_of_the_operation():
    """Two layers that fill the picture, so that no pixel passes an edge."""
    low = TRIANGLE.clone()
    low[..., 2] -= 0.4 * low[..., 3]
    positions = torch.cat([TRIANGLE, low], 1) * torch.tensor([1.0, 1, 0.5, 1], dtype=torch.float64)
    triangles = torch.arange(6).view(2, 3)

    def drawn(leaf: Tensor) -> tuple[Tensor, ...]:
        layers = list(peel(leaf, triangles, 3, 4, 2, derivatives=True))
        assert [int(layer.triangle_id.unique()) for layer in layers] == [1, 0]
        return tuple(x for layer in layers for x in outputs(layer))

    assert torch.autograd.gradcheck(drawn, positions.requires_grad_(), eps=1e-6, atol=1e-7, rtol=1e-6)


def test_gradcheck_of_a_soup():
    positions, triangles, height, width = clip_soup(9)
    ids = rasterize_clip(positions, triangles, height, width).triangle_id

    def located(leaf: Tensor) -> tuple[Tensor, ...]:
        return tuple(outputs(Fragments(ids, *locate(leaf, triangles, None, ids, True))))

    leaf = positions.double().requires_grad_()
    assert torch.autograd.gradcheck(located, leaf, eps=1e-7, atol=1e-4, rtol=1e-4, fast_mode=True)


@pytest.mark.parametrize("seed", range(5))
def test_gradients_match_float64(draw_clip: DrawClip, seed: int):
    positions, triangles, height, width = clip_soup(seed)
    up = upstream(height, width)
    ids = draw_clip(positions, triangles, height, width).triangle_id
    expected = exact_gradient(positions, triangles, ids, up)
    got = gradient(draw_clip, positions, (triangles, height, width), up)
    assert (expected.abs().amax((0, 1)) > 0).all()
    size = expected.norm(dim=-1)
    error = (got - expected).norm(dim=-1)
    assert float(error.norm() / size.norm()) < 1e-4
    assert (error <= 1e-2 * size + 1e-6 * size.max()).all()


def test_gradients_match_finite_differences_of_the_float64_picture():
    """Without `locate`: of the drawn depth, barycentrics and derivatives of one pixel, by each coordinate."""
    leaf = TRIANGLE.clone().requires_grad_()

    def at(positions: Tensor) -> Tensor:
        fragments = rasterize_clip(positions, ONE, 9, 7, derivatives=True)
        assert fragments.derivatives is not None
        return torch.cat([fragments.barycentrics[0, 4, 2], fragments.depth[0, 4, 2:3], fragments.derivatives[0, 4, 2]])

    values = at(leaf)
    for k in range(len(values)):
        (got,) = torch.autograd.grad(values[k], leaf, retain_graph=True)
        for corner in range(3):
            for axis in range(4):
                step = torch.zeros_like(TRIANGLE)
                step[0, corner, axis] = 1e-5
                slope = float((at(TRIANGLE + step)[k] - at(TRIANGLE - step)[k]) / 2e-5)
                assert abs(slope - float(got[0, corner, axis])) < 1e-8


def test_parts_of_the_result_have_gradients_of_their_own(draw_clip: DrawClip):
    positions, triangles, height, width = clip_soup(5)
    up = upstream(height, width)
    both = gradient(draw_clip, positions, (triangles, height, width), up)
    separate = torch.zeros_like(positions)
    for k in range(3):
        leaf = positions.clone().requires_grad_()
        value = outputs(draw_clip(leaf, triangles, height, width, derivatives=True))[k]
        separate += torch.autograd.grad(value, leaf, torch.stack([up[k], up[k]], -1)[..., 0])[0]  # not contiguous
    torch.testing.assert_close(separate, both, rtol=1e-3, atol=1e-5 * float(both.abs().max()))
    leaf = positions.clone().requires_grad_()
    assert not draw_clip(leaf, triangles, height, width).triangle_id.requires_grad
    plain = torch.autograd.grad(outputs(draw_clip(leaf, triangles, height, width)), leaf, up[:2])[0]
    up[2] = torch.zeros_like(up[2])
    without = gradient(draw_clip, positions, (triangles, height, width), up)
    torch.testing.assert_close(plain, without, rtol=1e-5, atol=1e-6 * float(plain.abs().max()))


def test_gradients_of_a_batch_are_those_one_by_one_and_repeat_bitwise(draw_clip: DrawClip):
    positions, triangles, height, width = clip_soup(3)
    positions = torch.cat([positions, positions.flip(1), -positions])
    scene, up = (triangles, height, width), upstream(height, width, 3)
    whole = gradient(draw_clip, positions, scene, up)
    assert (whole[:2].abs().amax((1, 2)) > 0).all()
    assert torch.equal(whole, gradient(draw_clip, positions, scene, up))
    for f in range(3):
        one = slice(f, f + 1)
        assert torch.equal(whole[one], gradient(draw_clip, positions[one], scene, [u[one] for u in up]))


def test_gradients_of_ranges_are_the_sums_of_separate_calls(draw_clip: DrawClip):
    positions, triangles, height, width = clip_soup(6)
    ranges = torch.tensor([[0, 6], [3, len(triangles) - 3], [len(triangles), 0]], dtype=torch.int32)
    up = upstream(height, width, 3)
    got = gradient(draw_clip, positions[0], (triangles, height, width, ranges), up)
    assert torch.equal(got, gradient(draw_clip, positions[0], (triangles, height, width, ranges), up))
    expected = torch.zeros_like(positions)
    for f, (first, count) in enumerate(ranges.tolist()[:2]):
        part = triangles[first : first + count].contiguous()
        expected += gradient(draw_clip, positions, (part, height, width), [u[f : f + 1] for u in up])
    torch.testing.assert_close(got, expected[0], rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("double", [False, True])
def test_chunks_do_not_change_the_gradients_of_the_reference(monkeypatch: pytest.MonkeyPatch, double: bool):
    positions, triangles, height, width = clip_soup(3)
    positions = positions.double() if double else positions
    up = [u.to(positions.dtype) for u in upstream(height, width)]
    whole = gradient(rasterize_clip, positions, (triangles, height, width), up)
    monkeypatch.setattr("fmlfast.kernels.rasterize_locate_torch.CHUNK", 50)
    assert torch.equal(whole, gradient(rasterize_clip, positions, (triangles, height, width), up))


def test_gradients_are_once_differentiable(draw_clip: DrawClip):
    positions, triangles, height, width = clip_soup(1)
    leaf = positions.clone().requires_grad_()
    (first,) = torch.autograd.grad(
        draw_clip(leaf, triangles, height, width).barycentrics.square().sum(), leaf, create_graph=True
    )
    with pytest.raises(RuntimeError, match="no second derivatives"):
        first.sum().backward()


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("part", range(3))
def test_upstream_that_is_not_finite_shows_in_its_frame_only_and_not_from_empty_pixels(draw_clip: DrawClip, part: int):
    positions, triangles, height, width = clip_soup(4)
    positions = positions.repeat(2, 1, 1)
    ids = draw_clip(positions, triangles, height, width).triangle_id
    up = upstream(height, width, 2)
    expected = gradient(draw_clip, positions, (triangles, height, width), up)
    up[part][ids < 0] = torch.nan
    leaf = positions.clone().requires_grad_()
    found = draw_clip(leaf, triangles, height, width, derivatives=True)
    values = [found.barycentrics, found.depth, found.derivatives]
    assert torch.equal(torch.autograd.grad(values, leaf, up, retain_graph=True)[0], expected)
    up[part][1][ids[1] >= 0] = torch.inf
    (broken,) = torch.autograd.grad(values, leaf, up)
    assert not broken[1].isfinite().all() and torch.equal(broken[0], expected[0])


@pytest.mark.parametrize("case", BACKENDS, ids=lambda p: "-".join(p))
def test_pixels_of_a_degenerate_triangle_move_nothing(case: tuple[Backend, str]):
    """It is seen by rounding only, so the ids are made up here; the other triangle's pixels count."""
    backend, device = case
    if backend == "torch":
        from fmlfast.kernels.rasterize_torch import gradient as implementation
    else:
        from fmlfast.kernels.rasterize_triton import gradient as implementation
    positions = torch.tensor([[[-3.0, -3, 0, 1], [3, -3, 0.2, 1.2], [3, 3, 0.5, 1], [0, 0, 0.25, 1], [0, 0, 0, 0]]])
    ids = torch.tensor([0, 1, 2, 3]).repeat_interleave(16).int().view(1, 8, 8)
    triangles = torch.tensor([[0, 3, 2], [0, 1, 2], [4, 4, 4], [1, 1, 2]])
    arguments: tuple[Any, ...] = positions, triangles, None, ids, *upstream(8, 8)

    def run(*arguments: Any) -> Tensor:
        moved: tuple[Any, ...] = tuple(None if a is None else a.to(device) for a in arguments)
        return implementation(*moved).cpu()

    alone = run(*arguments[:3], ids.masked_fill(ids != 1, -1), *arguments[4:])
    got = run(*arguments)
    assert float(got.abs().max()) > 0 and torch.equal(got, alone) and (got[0, 3:] == 0).all()


def test_many_programs_and_garbage_in_memory(device: str, small_programs: None, poisoned_memory: None):
    """Blocks with one triangle and with many, and whatever is allocated holds NaN or nonsense at first."""
    positions, triangles, *_ = clip_soup(0)
    positions = torch.cat([positions[0], TRIANGLE[0].float() * torch.tensor([1, 1, 0.9, 1.0])])
    triangles = torch.cat([triangles, ONE + len(positions) - 3]).int()
    ranges = torch.tensor([[0, len(triangles)], [len(triangles) - 1, 1]], dtype=torch.int32)
    up = upstream(23, 31, 2)
    ids = rasterize_clip(positions, triangles, 23, 31, ranges).triangle_id
    assert (ids[1] == len(triangles) - 1).all() and len(ids[0].unique()) > 5
    expected = exact_gradient(positions, triangles, ids, up)

    def run(leaf: Tensor, height: int, width: int, ranges: Tensor, derivatives: bool) -> Fragments:
        mesh = leaf.to(device), triangles.to(device)
        return rasterize_clip(*mesh, height, width, ranges, derivatives=derivatives, backend="triton")

    got = gradient(run, positions, (23, 31, ranges), [u.to(device) for u in up])
    torch.testing.assert_close(got.double(), expected, rtol=1e-3, atol=1e-5 * float(expected.abs().max()))


def test_the_viewport_is_the_camera_of_clip_space():
    positions, triangles, height, width = clip_soup(2)
    ids = rasterize_clip(positions, triangles, height, width).triangle_id
    points = positions[..., [0, 1, 3]].double()
    b, w, slopes = locate(points, triangles, viewport(height, width)[None].double(), ids, True)
    clip = locate(positions.double(), triangles, None, ids, True)
    assert torch.equal(clip[0], b) and torch.equal(clip[2], slopes) and (w[ids >= 0] > 0).all()
