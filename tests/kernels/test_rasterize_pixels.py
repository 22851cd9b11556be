"""How the torch backend finds the pixels to test: splits of windows, shortened rows, pairs of pixels at outlines."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from fmlfast.kernels import rasterize_pixels_torch, rasterize_torch
from fmlfast.kernels.common.gather import places, repeated
from fmlfast.kernels.common.outlines import pairs_at_outlines
from fmlfast.kernels.rasterize import Fragments, rasterize
from tests.helpers.rasterize_scenes import same


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shortened_rows_lose_no_hit(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype):
    g = torch.Generator().manual_seed(4)
    vertices = (torch.rand(2, 60, 3, generator=g, dtype=dtype) - 0.5) * torch.tensor([300.0, 300, 90]).to(dtype)
    vertices[0, :, 2] += 60  # the second frame has triangles that reach behind the camera
    vertices[1, ::9, :2] *= 1e4
    vertices[:, ::4] = vertices[:, ::4].round()
    triangles = torch.randint(0, 60, (40, 3), generator=g)
    Ks = torch.tensor([[30.0, 0, 32], [0, 30, 24], [0, 0, 1]], dtype=dtype).repeat(2, 1, 1)
    tested = []

    def draw() -> tuple[Fragments, int]:
        tested.clear()
        return rasterize(vertices, triangles, Ks, 48, 64, backend="torch"), sum(tested)

    split = rasterize_torch.single_pixels

    def counted(*arguments: Any) -> Iterator[Any]:
        for pixels in split(*arguments):
            tested.append(len(pixels.at))
            yield pixels

    monkeypatch.setattr(rasterize_torch, "single_pixels", counted)
    shortened, few = draw()
    monkeypatch.setattr(rasterize_pixels_torch, "_SHORT", 64)
    whole, many = draw()
    assert few < 0.6 * many and (whole.triangle_id >= 0).float().mean() > 0.5
    assert same(shortened, whole)


@pytest.mark.parametrize("most", [1, 4, 1000])
def test_places_are_repeated_as_often_as_counts_say(most: int):
    counts = torch.tensor([0, 3, 1, 0, 0, 9, 2, 0])
    found = list(repeated(counts, most))
    assert torch.equal(torch.cat([place for place, _ in found]), torch.repeat_interleave(counts))
    assert torch.cat([rank for _, rank in found]).tolist() == [0, 1, 2, 0, *range(9), 0, 1]
    assert max(len(place) for place, _ in found) < most + 9 and (len(found) > 1) == (most < 15)
    assert list(repeated(counts[:1], most)) == list(repeated(counts[:0], most)) == []


def test_places_count_through_all_of_a_mask():
    mask = torch.tensor([[False, True, False], [True, True, False]])
    assert places(mask).tolist() == [1, 3, 4]
    assert places(mask[:, :2]).tolist() == [1, 2, 3] and places(mask[:0]).tolist() == []


@pytest.mark.parametrize("flipped", [False, True])
def test_outlines_mark_pairs_beside_them_only(flipped: bool):
    points = torch.tensor([[3.0, 2.2], [50.0, 30.2], [9.0, 60.7]])
    screen = (points.flip(1) if flipped else points).T[:, None].contiguous()
    marked = pairs_at_outlines(screen, torch.tensor([[0, 1, 2]]), 64, 64)[0]
    x, y = torch.meshgrid(torch.arange(64) + 0.5, torch.arange(64) + 0.5, indexing="xy")
    for axis, centers in ((0, y), (1, x)):  # pairs in a row at the steep edges, pairs in a column at the flat one
        expected = torch.zeros(64, 64, dtype=torch.bool)
        for start, end in (((0, 1)), ((1, 2)), ((2, 0))):
            (a0, c0), (a1, c1) = (screen[:, 0, k].roll(-axis).tolist() for k in (start, end))
            if abs(c1 - c0) < abs(a1 - a0):
                continue
            crossing = a0 + (centers - c0) / (c1 - c0) * (a1 - a0)
            after = crossing - (x if axis == 0 else y)  # from the first centre of the pair: -1/2 to 3/2
            expected |= (centers > min(c0, c1)) & (centers < max(c0, c1)) & (after > -0.5) & (after < 1.5)
        assert expected.any() and not (expected & ~marked[axis]).any()
        assert marked[axis].sum() < 1.2 * expected.sum() + 3
