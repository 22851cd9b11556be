"""Clip-space rasterisation against exact ray casting in float64, and the rules that backends must keep to the bit."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fmlfast.kernels.common.backend import Backend
from fmlfast.kernels.common.fragments import Fragments
from fmlfast.kernels.rasterize import rasterize
from fmlfast.kernels.rasterize_clip import rasterize_clip
from tests.helpers.clip_scenes import DrawClip, cast_clip_rays, clip_soup, draw_clip, frame, moved, same, viewport
from tests.helpers.rasterize_scenes import grid

__all__ = ["draw_clip"]  # a fixture
ONE = torch.tensor([[0, 1, 2]])


def hit_once(draw_clip: DrawClip, positions: Tensor, triangles: Tensor, height: int, width: int) -> Tensor:
    """[H, W] whether a pixel is hit by exactly one triangle: something is seen, and nothing behind it."""
    first = draw_clip(positions[None], triangles, height, width)
    second = draw_clip(positions[None], triangles, height, width, behind=first)
    return (first.triangle_id[0] >= 0) & (second.triangle_id[0] < 0)


def check(scene: tuple[Tensor, Tensor, int, int], fragments: Fragments, cull: bool, margin: float, tolerance: float):
    """Asserts that pixels are those of exact rays but where these pass an edge, a plane or two depths by a margin."""
    positions, triangles, height, width = scene
    barycentrics, depth, w = cast_clip_rays(positions[0], triangles, height, width)
    least = barycentrics.amin(-1)
    hit = (least >= 0) & (w > 0) & (depth.abs() <= 1)
    if cull:
        hit &= (torch.linalg.det(positions[0].double()[triangles][..., [0, 1, 3]]) > 0)[:, None, None]
    nearest, winner = torch.where(hit, depth, torch.inf).min(0)
    winner = torch.where(nearest < torch.inf, winner, -1)
    ranked = torch.where(hit, depth, torch.inf).sort(0).values
    sure = (least.abs() > margin).all(0) & ((depth.abs() - 1).abs() > margin).all(0) & ~(ranked[1] - ranked[0] < margin)
    assert (~sure).float().mean() < 0.25
    assert torch.equal(fragments.triangle_id[0].long()[sure], winner[sure])
    seen = sure & (winner >= 0)
    exact = barycentrics.gather(0, winner.clamp(min=0)[None, ..., None].expand(1, -1, -1, 3))[0]
    torch.testing.assert_close(fragments.depth[0][seen].double(), nearest[seen], rtol=0, atol=tolerance)
    torch.testing.assert_close(fragments.barycentrics[0][seen].double(), exact[seen], rtol=0, atol=tolerance)
    empty = fragments.triangle_id[0] < 0
    assert (fragments.depth[0][empty] == torch.inf).all() and (fragments.barycentrics[0][empty] == 0).all()


@pytest.mark.parametrize("cull", [False, True])
@pytest.mark.parametrize("seed", range(12))
def test_pixels_match_ray_casting(draw_clip: DrawClip, seed: int, cull: bool):
    scene = clip_soup(seed)
    fragments = draw_clip(*scene, cull_backfaces=cull)
    assert fragments.depth.dtype == fragments.barycentrics.dtype == torch.float32 and fragments.derivatives is None
    check(scene, fragments, cull, 1e-3, 2e-3)


@pytest.mark.parametrize("cull", [False, True])
@pytest.mark.parametrize("seed", range(12))
def test_float64_is_exact(seed: int, cull: bool):
    positions, triangles, height, width = scene = clip_soup(seed)
    fragments = rasterize_clip(positions.double(), triangles, height, width, cull_backfaces=cull)
    assert fragments.depth.dtype == fragments.barycentrics.dtype == torch.float64
    check(scene, fragments, cull, 1e-10, 1e-8)


def test_soups_reach_through_all_planes():
    """What the tests above rely on: triangles with a part before the near plane, beyond the far one, behind the eye."""
    before = beyond = behind = 0
    for seed in range(12):
        positions, triangles, height, width = clip_soup(seed)
        barycentrics, depth, w = cast_clip_rays(positions[0], triangles, height, width)
        inside = (barycentrics >= 0).all(-1)
        before += int((inside & (w > 0) & (depth < -1)).sum())
        beyond += int((inside & (w > 0) & (depth > 1)).sum())
        behind += int((inside & (w < 0)).sum())
    assert min(before, beyond, behind) > 500


@pytest.mark.parametrize("size", [(1, 1), (1, 63), (500, 3), (63, 64)])
def test_equals_camera_space_to_the_bit(draw_clip: DrawClip, size: tuple[int, int]):
    """Sheets well apart, whose depths order as z/w do, in front of the camera that sees (x, y, w)."""
    height, width = size
    g = torch.Generator().manual_seed(height)
    y, x = torch.meshgrid(torch.linspace(-1.3, 1.3, 13), torch.linspace(-1.3, 1.3, 17), indexing="ij")
    sheets = []
    for near in (2.0, 4.0, 8.0):
        z = near * (1 + 0.2 * torch.rand(x.shape, generator=g))
        sheets.append(torch.stack([x * z + near * 0.3 - 1, y * z, z], -1).view(-1, 3))
    points = torch.cat(sheets)[None]
    triangles = torch.cat([grid(12, 16, True) + k * len(sheets[0]) for k in range(3)])
    triangles = triangles[torch.randperm(len(triangles), generator=g)]
    positions = torch.stack([points[..., 0], points[..., 1], 1.2 * points[..., 2] - 2.4, points[..., 2]], -1)
    expected = rasterize(points, triangles, viewport(height, width)[None], height, width, near=0.1, derivatives=True)
    got = draw_clip(positions, triangles, height, width, derivatives=True)
    assert (got.triangle_id >= 0).any()
    assert same(replace(got, depth=expected.depth), expected)
    exact = 1.2 - 2.4 / expected.depth
    torch.testing.assert_close(got.depth, torch.where(got.triangle_id < 0, torch.inf, exact), rtol=0, atol=1e-5)


def test_orthographic_is_the_limit_of_perspective(draw_clip: DrawClip):
    positions, triangles, *_ = clip_soup(3)
    flat = positions.double()
    flat[..., 3] = 1
    far = flat.clone()
    far[..., 3] += 1e-9 * flat[..., 2]
    a, b = (rasterize_clip(p, triangles, 37, 50) for p in (flat, far))
    assert (a.triangle_id >= 0).float().mean() > 0.1 and torch.equal(a.triangle_id, b.triangle_id)
    torch.testing.assert_close(a.barycentrics, b.barycentrics, rtol=0, atol=1e-6)
    torch.testing.assert_close(a.depth, b.depth, rtol=0, atol=1e-6)
    # Without a division the depth is a plane over the picture.
    x = torch.tensor([[-3.0, -1, -0.5, 1], [3, -1, 0.5, 1], [0, 3, 0, 1]])[None]
    depth = draw_clip(x, ONE, 4, 8).depth[0]
    columns = (torch.arange(8) + 0.5) / 4 - 1
    torch.testing.assert_close(depth, (columns / 6).expand(4, 8), rtol=0, atol=1e-6)


def test_first_row_is_at_the_bottom_of_clip_space_and_front_faces_turn_left(draw_clip: DrawClip):
    positions = torch.tensor([[[-1.0, -1, 0, 1], [1, -1, 0, 1], [-1, 0, 0, 1]]])  # the lower left, y upwards
    for triangles, cull, seen in ((ONE, False, True), (ONE, True, True), (ONE.flip(1), True, False)):
        covered = draw_clip(positions, triangles, 8, 8, cull_backfaces=cull).triangle_id[0] == 0
        assert bool(covered[0, 0]) == seen and not covered[4:].any() and not covered[0, -1]


@pytest.mark.parametrize("snap", [0.5, 0.25, 0.0])
def test_shared_edges_hit_exactly_once(draw_clip: DrawClip, snap: float):
    """Vertices and edges exactly on pixel centres (snap 0.5) or anywhere (0), at w of their own, over the picture."""
    g = torch.Generator().manual_seed(int(10 * snap))
    size, rows, columns = 32, 9, 11  # a power of two: pixels are exact
    y, x = torch.meshgrid(torch.linspace(-3, 35, rows + 1), torch.linspace(-4, 36, columns + 1), indexing="ij")
    points = torch.stack([x, y], -1)
    points += (torch.rand(points.shape, generator=g) - 0.5) * 1.5
    if snap:
        points = (points / snap).round() * snap
    w = 2.0 ** torch.randint(-2, 3, (rows + 1, columns + 1, 1), generator=g)
    positions = torch.cat([(points / 16 - 1) * w, 0.3 * w, w], -1).view(-1, 4)
    assert hit_once(draw_clip, positions, grid(rows, columns, snap > 0), size, size).all()


def test_shared_edges_hit_exactly_once_through_the_eye(draw_clip: DrawClip):
    """A bumpy floor from behind the eye to far before it: below the horizon every pixel sees it once."""
    g = torch.Generator().manual_seed(5)
    height, width, rows, columns = 41, 35, 14, 12
    z, x = torch.meshgrid(torch.linspace(-50, 400, rows + 1), torch.linspace(-900, 900, columns + 1), indexing="ij")
    x, z = x + torch.rand(x.shape, generator=g) * 20, z + torch.rand(z.shape, generator=g) * 20
    # Near plane at 1e-3, far plane at infinity.
    positions = torch.stack([x, torch.full_like(x, -60.0), z - 2e-3, z], -1).view(-1, 4)
    triangles = grid(rows, columns, True)
    once = hit_once(draw_clip, positions, triangles, height, width)
    y = (torch.arange(height) + 0.5) * 2 / height - 1
    below = y < -0.2  # nearer than 300
    assert int(below.sum()) > 10 and once[below].all() and not once[y > 0].any()
    depth = draw_clip(positions[None], triangles, height, width).depth[0][below]
    expected = 1 - 2e-3 / (-60 / y[below])
    torch.testing.assert_close(depth, expected[:, None].expand(-1, width), rtol=0, atol=1e-6)


def test_only_the_frustum_is_seen(draw_clip: DrawClip):
    """A wall from before the near plane to beyond the far one, its depth rising with the column."""
    depth = torch.tensor([-2.0, 2, 2, -2])
    positions = torch.stack([depth.sign(), torch.tensor([-1.0, -1, 1, 1]), depth, torch.ones(4)], -1)
    triangles = torch.tensor([[0, 1, 2], [0, 2, 3]])
    fragments = draw_clip((positions * torch.tensor([[3.0], [1], [1], [3]]))[None], triangles, 16, 32)
    expected = (torch.arange(32) + 0.5) / 8 - 2
    assert torch.equal(fragments.triangle_id >= 0, (expected.abs() <= 1).expand(1, 16, 32))
    seen = fragments.triangle_id >= 0
    torch.testing.assert_close(fragments.depth[seen], expected.expand(1, 16, 32)[seen], rtol=0, atol=1e-5)
    for z, visible in ((-1.0, True), (1.0, True), (1.0 + 2.0**-22, False), (-1.0 - 2.0**-22, False)):
        positions[:, 2] = z
        assert (draw_clip(positions[None], triangles, 16, 32).triangle_id >= 0).all() == visible
    behind = -positions[None]
    behind[..., 2] = 0
    assert (draw_clip(behind, triangles, 16, 32).triangle_id == -1).all()


@pytest.mark.parametrize("power", [-60, -20, 20, 60])
def test_a_factor_changes_nothing(draw_clip: DrawClip, power: int):
    scene = clip_soup(8)
    whole = draw_clip(*scene)
    assert (whole.triangle_id >= 0).any()
    assert same(whole, draw_clip(scene[0] * 2.0**power, *scene[1:]))


@pytest.mark.parametrize("reach", [2.0**19, 2.0**25, 2.0**60])
def test_triangles_far_wider_than_the_picture_fill_it(draw_clip: DrawClip, reach: float):
    """Also where no corner's pixel is a number."""
    positions = torch.tensor([[[-reach, -reach, 0.25, 1], [reach, -reach, 0.25, 1], [0, reach, 0.25, 1]]])
    fragments = draw_clip(positions, ONE, 33, 65)
    assert (fragments.triangle_id == 0).all() and (fragments.depth - 0.25).abs().max() < 1e-6
    expected = torch.tensor([0.25, 0.25, 0.5]).expand(1, 33, 65, 3)
    torch.testing.assert_close(fragments.barycentrics, expected, rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("axis", range(4))
def test_broken_vertices_only_lose_their_own_triangles(draw_clip: DrawClip, bad: float, axis: int):
    positions, triangles, height, width = clip_soup(2)
    broken = positions.clone()
    whole = draw_clip(positions, triangles, height, width)
    lost = int(whole.triangle_id[whole.triangle_id >= 0].mode().values)
    broken[0, triangles[lost, 1], axis] = bad
    kept = torch.arange(len(triangles)) != lost
    expected = draw_clip(positions, triangles[kept].contiguous(), height, width)
    ids = kept.nonzero().view(-1)[expected.triangle_id.clamp(min=0).long()]
    expected_id = torch.where(expected.triangle_id >= 0, ids, -1).int()
    assert not torch.equal(expected_id, whole.triangle_id)
    found = draw_clip(broken, triangles, height, width)
    assert same(found, Fragments(expected_id, expected.barycentrics, expected.depth))


def test_degenerate_triangles_are_not_drawn(draw_clip: DrawClip):
    points = torch.tensor([[0.5, 0.5], [4.5, 4.5], [2.5, 2.5], [2.5, 0.5], [6.5, 0.5]]) / 4 - 1
    positions = torch.cat([points, torch.zeros(5, 1), torch.ones(5, 1)], -1)
    positions = torch.cat([positions, torch.zeros(2, 4)])[None]  # and vertices that are no point
    triangles = torch.tensor([[0, 1, 2], [0, 0, 0], [0, 1, 1], [3, 4, 0], [2, 1, 0], [5, 0, 3], [5, 6, 4], [5, 5, 5]])
    fragments = draw_clip(positions, triangles, 8, 8)
    assert (fragments.triangle_id == -1).all() and (fragments.depth == torch.inf).all()


def test_depths_of_either_sign_are_ordered_and_equal_ones_go_to_the_lower_index(draw_clip: DrawClip):
    depths = [0.0, -0.0, 0.5, -0.25, 1e-30, -1e-30, -1.0, -0.75, -1.0]
    corners = torch.tensor([[-3.0, -3], [3, -3], [0, 3]])
    positions = torch.cat([torch.cat([corners, torch.tensor([[d, 1.0]]).expand(3, 2)], 1) for d in depths])[None]
    order = sorted(range(len(depths)), key=lambda k: (depths[k], k))
    triangles = torch.arange(3 * len(depths)).view(-1, 3)
    remaining = list(range(len(depths)))
    while remaining:
        fragments = draw_clip(positions, triangles[remaining].contiguous(), 3, 3)
        nearest = order.pop(0)
        assert (fragments.triangle_id == remaining.index(nearest)).all()
        remaining.remove(nearest)


def test_ranges_equal_separate_calls_to_the_bit(draw_clip: DrawClip):
    """Meshes beside each other in one buffer, an empty one, one that overlaps others, and all of them."""
    positions, triangles, height, width = clip_soup(6)
    count = len(triangles)
    ranges = torch.tensor([[0, 3], [3, count - 5], [4, 0], [2, 7], [0, count], [count, 0]], dtype=torch.int32)
    whole = draw_clip(positions[0], triangles.int(), height, width, ranges, derivatives=True)
    assert whole.triangle_id.shape == (6, height, width)
    for f, (first, number) in enumerate(ranges.tolist()):
        one = frame(whole, f)
        if number == 0:
            assert (one.triangle_id == -1).all() and (one.depth == torch.inf).all()
            continue
        part = triangles[first : first + number].contiguous()
        alone = draw_clip(positions, part, height, width, derivatives=True)
        ids = torch.where(alone.triangle_id >= 0, alone.triangle_id + first, -1)
        assert same(one, replace(alone, triangle_id=ids))


def test_batch_equals_one_by_one_and_repeats_bitwise(draw_clip: DrawClip):
    positions, triangles, height, width = clip_soup(10)
    positions = torch.cat([positions, positions.flip(1), 2 * positions.roll(5, 1)])
    whole = draw_clip(positions, triangles, height, width, derivatives=True)
    assert same(whole, draw_clip(positions, triangles.int(), height, width, derivatives=True))
    for f in range(3):
        one = draw_clip(positions[f : f + 1], triangles, height, width, derivatives=True)
        assert same(one, frame(whole, f))


@pytest.mark.parametrize(
    ("backend", "name", "dtype"),
    [
        ("torch", "rasterize_windows_torch.CHUNK", torch.float32),
        ("torch", "rasterize_windows_torch.CHUNK", torch.float64),
        ("torch", "rasterize_pixels_torch.CHUNK", torch.float32),
        ("torch", "rasterize_torch.CHUNK", torch.float32),
        ("triton", "rasterize_triton._QUEUE", torch.float32),
    ],
)
def test_chunks_do_not_change_the_result(
    monkeypatch: pytest.MonkeyPatch, backend: Backend, name: str, dtype: torch.dtype
):
    positions, triangles, height, width = clip_soup(11)
    positions = torch.cat([positions, positions.flip(1)]).to(dtype)
    triangles = triangles.repeat(5, 1)  # of equal depth: several programs a frame
    whole = rasterize_clip(positions, triangles, height, width, derivatives=True, backend=backend)
    monkeypatch.setattr(f"fmlfast.kernels.{name}", 7)
    if backend == "triton":  # programs as small as a GPU's
        for module in ("rasterize_triton", "rasterize_project_triton"):
            monkeypatch.setattr(f"fmlfast.kernels.{module}.lanes", lambda default: default)
    assert same(whole, rasterize_clip(positions, triangles, height, width, derivatives=True, backend=backend))


@pytest.mark.parametrize("seed", [0, 1, 3, 5, 9])
@pytest.mark.parametrize("cull", [False, True])
def test_kernels_equal_the_reference_to_the_bit(device: str, poisoned_memory: None, seed: int, cull: bool):
    positions, triangles, height, width = clip_soup(seed)
    expected = rasterize_clip(positions, triangles, height, width, derivatives=True, cull_backfaces=cull)
    mesh = positions.to(device), triangles.to(device)
    got = rasterize_clip(*mesh, height, width, derivatives=True, cull_backfaces=cull, backend="triton")
    assert (expected.triangle_id >= 0).any() and same(expected, moved(got, "cpu"))


def test_many_programs(device: str, small_programs: None, poisoned_memory: None):
    """Programs of the size used on a GPU, ranges that begin and end within their blocks."""
    g = torch.Generator().manual_seed(1)
    y, x = torch.meshgrid(torch.linspace(-1.2, 1.2, 15), torch.linspace(-1.2, 1.2, 15), indexing="ij")
    w = 1 + torch.rand(x.shape, generator=g)
    sheet = torch.stack([x * w, y * w, w - 1.5, w], -1).view(-1, 4)
    large = torch.tensor([[-9.0, -9, 0.9, 1], [9, -9, -0.9, 1], [0, 9, 0.5, 1]])
    triangles = torch.cat([grid(14, 14, True), ONE + len(sheet)]).int()
    positions, count = torch.cat([sheet, large]), len(triangles)
    ranges = torch.tensor([[0, count], [130, count - 130], [7, 200]], dtype=torch.int32)
    expected = rasterize_clip(positions, triangles, 23, 29, ranges, derivatives=True)
    assert expected.triangle_id.unique().numel() > 100
    got = rasterize_clip(positions.to(device), triangles.to(device), 23, 29, ranges, derivatives=True, backend="triton")
    assert same(expected, moved(got, "cpu"))


def test_no_frames(draw_clip: DrawClip):
    triangles = torch.zeros(2, 3, dtype=torch.int32)
    none = torch.zeros(0, 2, dtype=torch.int32)
    for fragments in (
        draw_clip(torch.zeros(0, 4, 4), triangles, 3, 5, derivatives=True),
        draw_clip(torch.zeros(4, 4), triangles, 3, 5, none, derivatives=True),
    ):
        shapes = [x.shape for x in vars(fragments).values()]
        assert shapes == [(0, 3, 5), (0, 3, 5, 3), (0, 3, 5), (0, 3, 5, 4)]
        assert fragments.triangle_id.dtype == torch.int32
