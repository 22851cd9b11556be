"""Rasterisation against a brute-force oracle in float64, within what single precision may round."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fmlfast.kernels.common.backend import Backend
from fmlfast.kernels.rasterize import Fragments, rasterize
from fmlfast.kernels.rasterize_locate_torch import locate

EPSILON = 8 * 2.0**-23  # projecting rounds some eight times


def soup(seed: int, spread: float) -> tuple[Tensor, Tensor, Tensor, int, int]:
    """Triangles anywhere around the camera, of sizes that differ by 10 ** spread, sharing some of their corners."""
    g = torch.Generator().manual_seed(seed)
    height, width = (int(a) for a in torch.randint(1, 60, (2,), generator=g))
    count = int(torch.randint(3, 80, (1,), generator=g))
    center = (torch.rand(count, 3, generator=g) - 0.5) * torch.tensor([300.0, 300, 500]) + torch.tensor([0, 0, 200])
    offset = (torch.rand(count, 3, 3, generator=g) - 0.5) * 20 * 10 ** (spread * torch.rand(count, 1, 1, generator=g))
    vertices = (center[:, None] + offset).view(1, -1, 3)
    triangles = torch.arange(3 * count).view(-1, 3)
    triangles[::3, 1] = torch.randint(0, 3 * count, (len(triangles[::3]),), generator=g)
    focal = 20 + 80 * torch.rand(2, generator=g)
    K = torch.tensor([[focal[0], 2.0, width / 2], [0.5, focal[1], height / 2], [0, 0, 1]])
    return vertices, triangles, K[None], height, width


def margins(vertices: Tensor, triangles: Tensor, K: Tensor, height: int, width: int, near: float):
    """Of every triangle at every pixel [T, H, W]: the least of its three edge functions, seen from either side, in
    units of what rounding may change them by, and its depth; all in float64.
    """
    corners = vertices.double()[triangles]  # [T, 3, 3]
    z = corners[..., 2]
    scale = torch.where(z >= near, z, near).reciprocal()
    K = K.double()
    u, v, _ = ((corners @ K.T) * scale[..., None]).unbind(-1)
    w = z * scale
    reach = (corners.abs() @ K.abs().T)[..., :2] * scale[..., None]  # of the terms that u and v are sums of
    py, px = torch.meshgrid(torch.arange(height).double() + 0.5, torch.arange(width).double() + 0.5, indexing="ij")
    grow = lambda a: a[..., None, None]  # noqa: E731
    x, y = grow(u) - px * grow(w), grow(v) - py * grow(w)  # [T, 3, H, W]
    dx, dy = grow(reach[..., 0]) + px * grow(w.abs()), grow(reach[..., 1]) + py * grow(w.abs())
    i, j = [1, 2, 0], [2, 0, 1]
    edge = x[:, i] * y[:, j] - y[:, i] * x[:, j]
    error = dx[:, i] * y[:, j].abs() + x[:, i].abs() * dy[:, j] + dy[:, i] * x[:, j].abs() + y[:, i].abs() * dx[:, j]
    error = EPSILON * error + EPSILON**2 * (dx[:, i] * dy[:, j] + dy[:, i] * dx[:, j]) + 1e-30
    ratio = edge / error
    depth = (edge * grow(w)).sum(1) / (edge * grow(scale)).sum(1)
    return torch.maximum(ratio.amin(1), (-ratio).amin(1)), depth


def check(scene: tuple[Tensor, Tensor, Tensor, int, int], fragments: Fragments, near: float = 1.0) -> int:
    """Asserts that every pixel is right up to rounding; returns how many differ from the oracle."""
    vertices, triangles, Ks, height, width = scene
    margin, depth = margins(vertices[0], triangles, Ks[0], height, width, near)
    got = fragments.triangle_id[0].long()
    seen, at = got >= 0, got.clamp(min=0)[None]
    got_margin, got_depth = margin.gather(0, at)[0], depth.gather(0, at)[0]
    assert (got_margin[seen] >= -1).all()
    # What is certainly hit, and certainly beyond the near plane, cannot be much nearer than the winner.
    behind = torch.where(seen, fragments.depth[0].double(), torch.inf)
    firm = (margin > 1) & (depth > near * 1.001) & (depth < 1e30)
    slack = 1e-3 + 30 / margin.clamp(min=1)
    assert not (firm & (depth * (1 + slack) < behind)).any()
    sure = seen & (got_margin > 1e4)
    torch.testing.assert_close(fragments.depth[0][sure].double(), got_depth[sure], rtol=1e-3, atol=0)
    exact = torch.where((margin > 0) & (depth >= near), depth, torch.inf)
    nearest, winner = exact.min(0)
    return int((torch.where(nearest < torch.inf, winner, -1) != got).sum())


@settings(max_examples=60, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**31), spread=st.floats(0.0, 2.5), near=st.sampled_from([0.3, 1.0, 37.0]))
def test_every_pixel_is_right_up_to_rounding(seed: int, spread: float, near: float):
    scene = soup(seed, spread)
    check(scene, rasterize(*scene, near=near), near)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**31), spread=st.floats(0.0, 2.5), near=st.sampled_from([0.3, 1.0, 37.0]))
def test_kernels_are_right_up_to_rounding(seed: int, spread: float, near: float):
    scene = soup(seed, spread)
    check(scene, rasterize(*scene, near=near, backend="triton"), near)


def generic(seed: int) -> tuple[Tensor, Tensor, Tensor, int, int]:
    """A bumpy grid in front of the camera, its triangles of some pixels and some below one, and a few large ones."""
    g = torch.Generator().manual_seed(seed)
    size, cells = 48, 8 + 12 * (seed % 2)
    K = torch.tensor([[75.0, 0, size / 2], [0, 70, size / 2], [0, 0, 1]])
    y, x = torch.meshgrid(torch.linspace(-150, 150, cells), torch.linspace(-150, 150, cells), indexing="ij")
    sheet = torch.stack([x, y, torch.full_like(x, 500.0)], -1)
    sheet += (torch.rand(sheet.shape, generator=g) - 0.5) * torch.tensor([120 / cells, 120 / cells, 40.0])
    i = torch.arange(cells * (cells - 1)).view(cells - 1, cells)[:, :-1].reshape(-1)
    quads = torch.stack([i, i + 1, i + cells + 1, i + cells], -1)
    loose = (torch.rand(6, 3, 3, generator=g) - 0.5) * torch.tensor([250.0, 250, 100]) + torch.tensor([0, 0, 480])
    loose_ids = torch.arange(18).view(6, 3) + cells * cells
    triangles = torch.cat([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]], loose_ids])
    return torch.cat([sheet.view(-1, 3), loose.view(-1, 3)])[None], triangles, K[None], size, size


@pytest.mark.parametrize(
    ("backend", "device", "scenes"),
    [("torch", "cpu", 8), ("triton", "cpu", 2), pytest.param("triton", "cuda", 8, marks=pytest.mark.gpu)],
)
def test_generic_scenes_equal_the_oracle(backend: Backend, device: str, scenes: int):
    different = pixels = 0
    for seed in range(scenes):
        scene = generic(seed)
        vertices, triangles, Ks, height, width = scene
        mesh = vertices.to(device), triangles.to(device), Ks.to(device)
        on_device = rasterize(*mesh, height, width, backend=backend)
        fragments = Fragments(on_device.triangle_id.cpu(), on_device.barycentrics.cpu(), on_device.depth.cpu())
        different += check(scene, fragments)
        pixels += height * width
        exact, depth = locate(vertices.double(), triangles, Ks.double(), fragments.triangle_id)
        seen = fragments.triangle_id >= 0
        torch.testing.assert_close(fragments.barycentrics.double(), exact, rtol=0, atol=1e-4)
        torch.testing.assert_close(fragments.depth[seen].double(), depth[seen], rtol=1e-5, atol=0)
    assert pixels > 2000 * scenes and different <= pixels / 10_000
