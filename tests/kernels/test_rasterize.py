"""Rasterisation against exact ray casting in float64, and the rules that backends must keep to the bit."""

import pytest
import torch
from torch import Tensor

from fmlfast.kernels.common.backend import Backend
from fmlfast.kernels.rasterize import Fragments, rasterize
from tests.helpers.rasterize_scenes import Draw, cast_rays, draw, grid, picture, same

__all__ = ["draw"]  # a fixture


def coverage(draw: Draw, vertices: Tensor, triangles: Tensor, K: Tensor, height: int, width: int) -> Tensor:
    """[H, W] number of triangles that hit a pixel, each drawn alone."""
    alone = vertices[triangles.long()]  # [T, 3, 3]: a frame a triangle
    fragments = draw(alone, torch.tensor([[0, 1, 2]]), K.expand(len(alone), 3, 3), height, width)
    return (fragments.triangle_id == 0).sum(0)


@pytest.mark.parametrize("seed", range(25))
@pytest.mark.parametrize("cull", [False, True])
def test_reference_matches_ray_casting(seed: int, cull: bool):
    vertices, triangles, Ks, height, width = picture(seed)
    fragments = rasterize(vertices, triangles, Ks, height, width, cull_backfaces=cull)
    barycentrics, depth = cast_rays(vertices[0], triangles, Ks[0], height, width)
    margin = 1e-3
    least = barycentrics.amin(-1)
    hit = (least >= 0) & (depth >= 1)
    if cull:
        corners = vertices[0].double()[triangles]
        facing = torch.linalg.det(corners) < 0  # the camera is on the outer side of the plane
        hit &= facing[:, None, None]
    depth = torch.where(hit, depth, torch.inf)
    nearest, winner = depth.min(0)
    winner = torch.where(nearest < torch.inf, winner, -1)
    ranked = depth.sort(0).values
    tie = (ranked[1] - ranked[0] < 1e-3 * ranked[0]) if len(ranked) > 1 else torch.zeros_like(winner, dtype=torch.bool)
    doubtful = (least.abs() < margin).any(0) | ((depth - 1).abs() < margin).any(0) | tie
    assert doubtful.float().mean() < 0.25
    sure = ~doubtful
    assert (fragments.triangle_id >= 0).any()
    assert torch.equal(fragments.triangle_id[0].long()[sure], winner[sure])
    seen = sure & (winner >= 0)
    exact = barycentrics.gather(0, winner.clamp(min=0)[None, ..., None].expand(1, -1, -1, 3))[0]
    torch.testing.assert_close(fragments.depth[0][seen].double(), nearest[seen], rtol=2e-4, atol=1e-3)
    torch.testing.assert_close(fragments.barycentrics[0][seen].double(), exact[seen], rtol=0, atol=2e-3)
    empty = sure & (winner < 0)
    assert (fragments.depth[0][empty] == torch.inf).all() and (fragments.barycentrics[0][empty] == 0).all()


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("snap", [0.5, 0.25, 0.0])
def test_shared_edges_hit_exactly_once_on_a_flat_grid(draw: Draw, snap: float, flip: bool):
    """Vertices and edges exactly on pixel centres (snap 0.5) or anywhere (0), in a picture that the grid covers."""
    g = torch.Generator().manual_seed(int(10 * snap) + flip)
    height, width, rows, columns = 23, 37, 9, 11
    y, x = torch.meshgrid(
        torch.linspace(-3, height + 3, rows + 1), torch.linspace(-4, width + 4, columns + 1), indexing="ij"
    )
    points = torch.stack([x, y], -1)
    points += (torch.rand(points.shape, generator=g) - 0.5) * 1.5
    if snap:
        points = (points / snap).round() * snap
    depth = 2.0  # u = 2 X / 2: pixels are exact
    vertices = torch.cat([points, torch.full((*points.shape[:2], 1), depth)], -1).view(-1, 3)
    K = torch.tensor([[depth, 0, 0], [0, depth, 0], [0, 0, 1]])
    hits = coverage(draw, vertices, grid(rows, columns, flip), K, height, width)
    assert torch.equal(hits, torch.ones_like(hits))


def test_shared_edges_hit_exactly_once_around_a_vertex(draw: Draw):
    """Fans around a vertex on a pixel centre, with many thin blades, some of them along rows, columns and diagonals."""
    g = torch.Generator().manual_seed(3)
    height = width = 33
    angles = torch.cat([torch.arange(8) * torch.pi / 4, torch.rand(300, generator=g) * 2 * torch.pi]).sort().values
    rim = 16.5 + 60 * torch.stack([angles.cos(), angles.sin()], -1)
    rim[(angles / (torch.pi / 4)).frac() == 0] = ((rim[(angles / (torch.pi / 4)).frac() == 0] - 16.5).round()) + 16.5
    points = torch.cat([torch.tensor([[16.5, 16.5]]), rim])
    vertices = torch.cat([points, torch.ones(len(points), 1)], -1)
    count = len(rim)
    blades = torch.stack(
        [torch.zeros(count), torch.arange(count) + 1, (torch.arange(count) + 1) % count + 1], -1
    ).long()
    hits = coverage(draw, vertices, blades, torch.eye(3), height, width)
    assert torch.equal(hits, torch.ones_like(hits))


def test_shared_edges_hit_exactly_once_through_the_near_plane(draw: Draw):
    """A bumpy floor from behind the camera to far before it: below the horizon every pixel sees it once."""
    g = torch.Generator().manual_seed(5)
    height, width, rows, columns = 41, 35, 14, 12
    z, x = torch.meshgrid(torch.linspace(-50, 400, rows + 1), torch.linspace(-900, 900, columns + 1), indexing="ij")
    x = x + torch.rand(x.shape, generator=g) * 20
    vertices = torch.stack([x, torch.full_like(x, 60.0), z + torch.rand(z.shape, generator=g) * 20], -1).view(-1, 3)
    K = torch.tensor([[20.0, 0, width / 2], [0, 20.0, 5.0], [0, 0, 1]])
    triangles = grid(rows, columns, True)
    hits = coverage(draw, vertices, triangles, K, height, width)
    rows_below = (torch.arange(height) + 0.5 - 5.0) / 20.0 * 300 > 60  # the floor is nearer than 300
    assert int(rows_below.sum()) > 25
    assert (hits[rows_below] == 1).all() and (hits[:5] == 0).all()
    fragments = draw(vertices[None], triangles, K[None], height, width)
    y = torch.arange(height)[rows_below] + 0.5
    expected = (60 / ((y - 5.0) / 20.0))[:, None].expand(-1, width)
    torch.testing.assert_close(fragments.depth[0][rows_below], expected, rtol=1e-4, atol=1e-3)


def test_near_plane_clips(draw: Draw):
    """A wall tilted through the near plane is seen only beyond it."""
    vertices = torch.tensor([[[-50.0, -50, 30], [50, -50, 30], [50, 50, -20], [-50, 50, -20]]])
    triangles = torch.tensor([[0, 1, 2], [0, 2, 3]])
    K = torch.tensor([[[10.0, 0, 16], [0, 10, 16], [0, 0, 1]]])
    free, clipped = (draw(vertices, triangles, K, 32, 32, near=near) for near in (1.0, 12.0))
    beyond = (free.depth >= 12.0) & (free.depth < torch.inf)
    assert 0 < int(beyond.sum()) < int((free.triangle_id >= 0).sum())
    assert torch.equal(clipped.triangle_id >= 0, beyond)
    torch.testing.assert_close(clipped.depth[beyond], free.depth[beyond], rtol=1e-4, atol=0)
    behind = draw(vertices - torch.tensor([0.0, 0, 60]), triangles, K, 32, 32)
    assert (behind.triangle_id == -1).all()


def test_one_triangle_fills_a_large_picture(draw: Draw, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("fmlfast.kernels.common.backend.INTERPRETER_LANES", 1 << 17)
    size = 2048
    vertices = torch.tensor([[[-3e4, -3e4, 400], [3e4, -3e4, 500.0], [0, 6e4, 600]]])
    K = torch.tensor([[[1000.0, 0, 1024], [0, 1000, 1024], [0, 0, 1]]])
    fragments = draw(vertices, torch.tensor([[0, 1, 2]]), K, size, size)
    assert (fragments.triangle_id == 0).all()
    rows = torch.tensor([0, 1, 700, 2047])
    exact, depth = cast_rays(vertices[0], torch.tensor([[0, 1, 2]]), K[0], size, 3)
    torch.testing.assert_close(fragments.depth[0, rows, :3].double(), depth[0, rows], rtol=1e-5, atol=0)
    torch.testing.assert_close(fragments.barycentrics[0, rows, :3].double(), exact[0, rows], rtol=0, atol=1e-5)
    assert float((fragments.barycentrics.sum(-1) - 1).abs().max()) < 1e-6


def test_small_triangles_at_the_far_end_of_a_wide_picture(draw: Draw):
    """Coordinates near 2048 have a spacing of 1/8192 px: the picture is the one at the origin but for rounding."""
    g = torch.Generator().manual_seed(6)
    near, shift = torch.tensor([[900.0, 0, 24], [0, 900, 24], [0, 0, 1]]), 2000
    far = near + torch.tensor([[0.0, 0, shift], [0, 0, 0], [0, 0, 0]])
    y, x = torch.meshgrid(torch.linspace(-20, 20, 50), torch.linspace(-20, 20, 50), indexing="ij")
    vertices = torch.stack([x, y, torch.full_like(x, 600)], -1).view(1, -1, 3)
    vertices += (torch.rand(vertices.shape, generator=g) - 0.5) * torch.tensor([0.4, 0.4, 5.0])
    triangles = grid(49, 49, True)
    a = draw(vertices, triangles, near[None], 48, 48)
    b = draw(vertices, triangles, far[None], 48, 48 + shift)
    b_id, b_depth, b_barycentrics = (t[0, :, shift:] for t in (b.triangle_id, b.depth, b.barycentrics))
    agree = a.triangle_id[0] == b_id
    assert (b_id >= 0).all() and agree.float().mean() > 0.998
    torch.testing.assert_close(b_depth, a.depth[0], rtol=1e-5, atol=0)
    torch.testing.assert_close(b_barycentrics[agree], a.barycentrics[0][agree], rtol=0, atol=1e-3)


def test_a_sliver_across_a_wide_picture(draw: Draw):
    """One pixel high, tilted: a single hit or two in every column, none missing."""
    vertices = torch.tensor([[[-10.0, 3.1, 1], [2100, 215.7, 1], [2100, 217.1, 1], [-10, 4.5, 1]]])
    fragments = draw(vertices, torch.tensor([[0, 1, 2], [0, 2, 3]]), torch.eye(3)[None], 256, 2048)
    per_column = (fragments.triangle_id[0] >= 0).sum(0)
    assert int(per_column.min()) >= 1 and int(per_column.max()) <= 2
    y, x = (fragments.triangle_id[0] >= 0).nonzero().double().add(0.5).T
    line = 3.1 + (x + 10) * (212.6 / 2110)
    assert ((y >= line - 1e-3) & (y <= line + 1.4 + 1e-3)).all()


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_broken_vertices_only_lose_their_own_triangles(draw: Draw, bad: float, axis: int):
    vertices, triangles, Ks, height, width = picture(4)
    broken = vertices.clone()
    broken[0, triangles[7, 1], axis] = bad
    kept = torch.arange(len(triangles)) != 7
    fragments = draw(broken, triangles, Ks, height, width)
    expected = draw(vertices, triangles[kept], Ks, height, width)
    ids = kept.nonzero().view(-1)[expected.triangle_id.clamp(min=0).long()]
    expected_id = torch.where(expected.triangle_id >= 0, ids, -1).int()
    assert same(fragments, Fragments(expected_id, expected.barycentrics, expected.depth))


def test_degenerate_triangles_are_not_drawn(draw: Draw):
    points = torch.tensor([[0.5, 0.5], [4.5, 4.5], [2.5, 2.5], [2.5, 0.5], [8.5, 0.5]])
    vertices = torch.cat([points, torch.ones(5, 1)], -1)[None]
    degenerate = torch.tensor([[0, 1, 2], [0, 0, 0], [0, 1, 1], [3, 4, 0], [2, 2, 1], [2, 1, 0]])
    fragments = draw(vertices, degenerate, torch.eye(3)[None], 7, 9)
    assert (fragments.triangle_id == -1).all() and (fragments.depth == torch.inf).all()


def test_permuted_triangles_give_the_same_picture(draw: Draw):
    vertices, triangles, Ks, height, width = picture(11)
    order = torch.randperm(len(triangles), generator=torch.Generator().manual_seed(0))
    a, b = (draw(vertices, t, Ks, height, width) for t in (triangles, triangles[order]))
    ids = torch.where(b.triangle_id >= 0, order[b.triangle_id.clamp(min=0).long()], -1).int()
    assert (a.triangle_id >= 0).any()
    assert same(a, Fragments(ids, b.barycentrics, b.depth))


def test_equal_depth_goes_to_the_lower_index(draw: Draw):
    vertices = torch.tensor([[[-50.0, -50, 9], [50, -50, 9], [0, 50, 9]]]).repeat(1, 3, 1)
    triangles = torch.arange(9).view(3, 3)
    K = torch.tensor([[[4.0, 0, 8], [0, 4, 8], [0, 0, 1]]])
    assert set(draw(vertices, triangles, K, 16, 16).triangle_id.unique().tolist()) <= {-1, 0}
    assert (draw(vertices, triangles, K, 16, 16).triangle_id == 0).any()


def test_batch_equals_one_by_one_and_repeats_bitwise(draw: Draw):
    g = torch.Generator().manual_seed(8)
    vertices = torch.rand(5, 60, 3, generator=g) * torch.tensor([200.0, 200, 300]) + torch.tensor([-100.0, -100, -20])
    triangles = torch.randint(0, 60, (90, 3), generator=g, dtype=torch.int32)
    Ks = torch.tensor([[60.0, 0, 20], [0, 55, 17], [0, 0, 1]]) + torch.rand(5, 1, 1, generator=g) * torch.tensor(
        [[9.0, 0, 3], [0, 9, 3], [0, 0, 0]]
    )
    whole = draw(vertices, triangles, Ks, 35, 41)
    assert (whole.triangle_id >= 0).float().mean() > 0.2
    assert same(whole, draw(vertices, triangles.long(), Ks, 35, 41))
    for f in range(5):
        one = draw(vertices[f : f + 1], triangles, Ks[f : f + 1], 35, 41)
        part = Fragments(*(a[f : f + 1] for a in (whole.triangle_id, whole.barycentrics, whole.depth)))
        assert same(one, part)


@pytest.mark.parametrize(
    ("backend", "name"),
    [
        ("torch", "rasterize_windows_torch.CHUNK"),
        ("torch", "rasterize_pixels_torch.CHUNK"),
        ("torch", "rasterize_torch.CHUNK"),
        ("triton", "rasterize_triton._QUEUE"),
    ],
)
def test_chunks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch, backend: Backend, name: str):
    vertices, triangles, Ks, height, width = picture(12)
    vertices, Ks = torch.cat([vertices, vertices.flip(1)]), Ks.repeat(2, 1, 1)
    triangles = triangles.repeat(12, 1)  # three programs a frame
    whole = rasterize(vertices, triangles, Ks, height, width, backend=backend)
    monkeypatch.setattr(f"fmlfast.kernels.{name}", 7)
    if backend == "triton":  # programs as small as a GPU's
        for module in ("rasterize_triton", "rasterize_project_triton"):
            monkeypatch.setattr(f"fmlfast.kernels.{module}.lanes", lambda default: default)
    assert same(whole, rasterize(vertices, triangles, Ks, height, width, backend=backend))


def test_culling_splits_the_sides(draw: Draw):
    vertices, triangles, Ks, height, width = picture(2)
    both = draw(vertices, triangles, Ks, height, width)
    outside = draw(vertices, triangles, Ks, height, width, cull_backfaces=True)
    inside = draw(vertices, triangles.flip(1), Ks, height, width, cull_backfaces=True)
    assert (outside.triangle_id >= 0).any() and (inside.triangle_id >= 0).any()
    torch.testing.assert_close(torch.minimum(outside.depth, inside.depth), both.depth)


def test_no_frames(draw: Draw):
    triangles = torch.zeros(2, 3, dtype=torch.int32)
    fragments = draw(torch.zeros(0, 4, 3), triangles, torch.zeros(0, 3, 3), 3, 5)
    assert fragments.triangle_id.shape == fragments.depth.shape == (0, 3, 5)
    assert fragments.triangle_id.dtype == torch.int32 and fragments.barycentrics.shape == (0, 3, 5, 3)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("vertices", {"vertices": torch.zeros(4, 3)}),
        ("vertices", {"vertices": torch.zeros(1, 4, 3, dtype=torch.float16)}),
        ("triangles", {"triangles": torch.zeros(2, 4, dtype=torch.int32)}),
        ("triangles", {"triangles": torch.zeros(2, 3)}),
        ("triangles", {"triangles": torch.tensor([[0, 1, 4]])}),
        ("triangles", {"triangles": torch.tensor([[0, 1, -1]])}),
        ("triangles", {"triangles": torch.zeros(2, 3, dtype=torch.int32, device="meta")}),
        ("triangles", {"triangles": torch.zeros(0, 3, dtype=torch.int32)}),
        ("triangles must be contiguous", {"triangles": torch.zeros(3, 2, dtype=torch.int32).T}),
        ("triangles must be at most", {"triangles": torch.zeros(1, 3, dtype=torch.int32).expand(2**31 - 9, 3)}),
        ("vertices must be contiguous", {"vertices": torch.ones(1, 3, 4).mT}),
        ("Ks", {"Ks": torch.eye(3)}),
        ("Ks", {"Ks": torch.eye(3)[None].double()}),
        ("Ks", {"Ks": torch.eye(3, device="meta")[None]}),
        ("height", {"height": 0}),
        ("height", {"height": 1 << 16}),
        ("width", {"width": 2.5}),
        ("near", {"near": 0.0}),
        ("backend", {"backend": "cuda"}),
    ],
)
def test_bad_input_names_the_argument(name: str, change: dict):
    good = {
        "vertices": torch.ones(1, 4, 3),
        "triangles": torch.zeros(2, 3, dtype=torch.int32),
        "Ks": torch.eye(3)[None],
        "height": 4,
        "width": 4,
        "near": 1.0,
    }
    rasterize(**good)
    with pytest.raises(ValueError, match=f"^{name}"):
        rasterize(**(good | change))
