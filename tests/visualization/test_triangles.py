"""Wireframes against distances from projected edges, colours of triangles."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fmlfast.camera import project
from fmlfast.kernels.rasterize import Fragments, rasterize
from fmlfast.visualization.triangles import id_colors, wireframe
from tests.helpers.derivatives import with_derivatives

H, W = 63, 81
K = torch.tensor([[[70.0, 0, 40.25], [0, 70, 31.5], [0, 0, 1]]])


def drawn(vertices: Tensor, triangles: Tensor) -> Fragments:
    return with_derivatives(rasterize(vertices, triangles, K, H, W), vertices, triangles, K)


def edge_distances(vertices: Tensor, triangles: Tensor, fragments: Fragments) -> Tensor:  # [N, 3]
    """Distances on the screen of covered pixels from the three lines that bound the triangles that they see."""
    _, y, x = (fragments.triangle_id >= 0).nonzero().T
    corners = project(vertices.double(), K.double())[0][triangles[fragments.triangle_id[0, y, x].long()].long()]
    along = corners.roll(-1, 1) - corners
    to = torch.stack([x, y], -1)[:, None] + 0.5 - corners
    return (along[..., 0] * to[..., 1] - along[..., 1] * to[..., 0]).abs() / along.norm(dim=-1)


@pytest.mark.parametrize("width", [0.3, 1.0, 4.0])
def test_lines_are_of_one_width_on_the_screen(width: float):
    """Triangles tilted by half of their depth: to first order in the distance, some pixels, of the edge."""
    g = torch.Generator().manual_seed(1)
    vertices = torch.rand(1, 30, 3, generator=g) * torch.tensor([200.0, 160, 60]) + torch.tensor([-100.0, -80, 90])
    triangles = torch.randint(0, 30, (12, 3), generator=g, dtype=torch.int32)
    fragments = drawn(vertices, triangles)
    covered = fragments.triangle_id >= 0
    got = wireframe(fragments, width)
    assert got.shape == (1, H, W) and covered.float().mean() > 0.5 and not got[~covered].any()
    distance, half = edge_distances(vertices, triangles, fragments).amin(1), width / 2
    share = torch.linspace(-0.5, 0.5, 2001, dtype=torch.float64)  # of a pixel, across the line
    expected = ((distance[:, None] + share).abs() < half).double().mean(1)
    torch.testing.assert_close(got[covered].double(), expected, rtol=0, atol=0.06)
    assert (got[covered].double() - expected).abs().mean() < 0.005
    assert 0.02 < expected.mean() < 0.7


def test_two_triangles_draw_a_line_together():
    """The diagonal of a square and its sides, on pixel borders; lines outside of the mesh are not drawn."""
    corners = torch.tensor([[10.0, 10], [50, 10], [50, 50], [10, 50]])
    vertices = torch.cat([(corners - K[0, :2, 2]) / 70, torch.ones(4, 1)], 1)[None] * 100
    lines = wireframe(drawn(vertices, torch.tensor([[0, 1, 2], [0, 2, 3]])), 1.0)[0]
    assert float(lines[20, 10]) == pytest.approx(0.5, abs=1e-4)  # half of it lies in the mesh
    assert not lines[20, :10].any() and not lines[:10].any()
    assert float(lines[30, 30]) == pytest.approx(1.0, abs=1e-4)  # the centre is on the diagonal
    assert float(lines[30, 18]) == 0


@pytest.mark.parametrize("width", [0, -1.0, float("nan"), float("inf"), "1", None])
def test_bad_widths_are_refused(width):
    fragments = Fragments(
        torch.zeros(1, 2, 2).int(), torch.ones(1, 2, 2, 3), torch.ones(1, 2, 2), torch.ones(1, 2, 2, 4)
    )
    assert wireframe(fragments).shape == (1, 2, 2)
    with pytest.raises(ValueError, match="^width must be a positive number of pixels"):
        wireframe(fragments, width)
    with pytest.raises(ValueError, match="^fragments have no derivatives: call rasterize"):
        wireframe(replace(fragments, derivatives=None))


def test_a_triangle_without_slopes_is_filled_or_empty_but_finite():
    ids = torch.zeros(1, 1, 2, dtype=torch.int32)
    weights = torch.tensor([[[[0.2, 0.3, 0.5], [0.0, 0.5, 0.5]]]])
    got = wireframe(Fragments(ids, weights, torch.ones(1, 1, 2), torch.zeros(1, 1, 2, 4)))
    assert got.tolist() == [[[0.0, 1.0]]]


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_colors_tell_triangles_apart(dtype: torch.dtype):
    ids = torch.cat([torch.arange(-1, 200_000), torch.arange(16_700_000, 16_777_215)]).to(dtype).view(1, 1, -1)
    colors = id_colors(ids)
    assert colors.shape == (*ids.shape, 3) and colors.dtype == torch.float32
    assert not colors[0, 0, 0].any() and colors[0, 0, 1:].any(1).all() and colors.max() <= 1
    stored = (colors[0, 0] * 255).byte()  # even without rounding
    assert torch.equal(stored.float() / 255, colors[0, 0])
    assert len(stored.unique(dim=0)) == ids.shape[-1]
    assert (colors[0, 0, 1:1000] - colors[0, 0, 2:1001]).abs().mean() > 0.25


def test_colors_are_the_same_in_every_version():
    ids = torch.tensor([[[0, 1, 2], [-1, 110_367, 2**31 - 1]]], dtype=torch.int32)
    expected = [[[104, 185, 206], [181, 187, 206], [161, 244, 150]], [[0, 0, 0], [78, 134, 206], [56, 187, 168]]]
    assert (id_colors(ids) * 255).round().int()[0].tolist() == expected


def test_ids_of_another_type_are_refused():
    for ids in (torch.zeros(1, 2, 2), torch.zeros(1, 2, 2).bool(), [[0]]):
        with pytest.raises(ValueError, match="^triangle_id must be"):
            id_colors(ids)  # type: ignore[arg-type]
