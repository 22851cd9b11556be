"""The visibility of vertices: its definition, pixel by pixel, and how well it agrees with exact occlusion on a face."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from fmlfast.camera import project
from fmlfast.kernels.common.backend import Backend
from fmlfast.kernels.normals import vertex_normals
from fmlfast.kernels.rasterize import rasterize
from fmlfast.kernels.visibility import vertex_visibility
from fmlfast.template.face_template import FaceTemplate


def sees(vertex: list[float], normal: list[float], K: Tensor, depth: Tensor) -> bool:
    """One vertex, straight from the definition."""
    (fx, skew, cx), (_, fy, cy), _ = K.tolist()
    height, width = depth.shape
    x, y, z = vertex
    facing = sum(a * b for a, b in zip(vertex, normal, strict=True))
    if z <= 0 or facing >= 0:
        return False
    u, v = (fx * x + skew * y) / z + cx, fy * y / z + cy
    if not (0 <= u < width and 0 <= v < height):
        return False

    left, top, total = math.floor(u - 0.5), math.floor(v - 0.5), 0.0
    for px in (left, left + 1):
        for py in (top, top + 1):
            weight = (1 - abs(u - 0.5 - px)) * (1 - abs(v - 0.5 - py))
            d = float(depth[py, px]) if 0 <= px < width and 0 <= py < height else math.inf
            total += weight * min(max(z - d, -3 * z / fx), 3 * z / fx)
    return total <= 0.6 * z / fx


def both(vertices: Tensor, normals: Tensor, Ks: Tensor, depth: Tensor, device: str) -> Tensor:
    """What both backends find, to the bit."""
    visible = vertex_visibility(vertices, normals, Ks, depth, "torch")
    inputs = [a.to(device) for a in (vertices, normals, Ks, depth)]
    assert torch.equal(vertex_visibility(*inputs, backend="triton").cpu(), visible)
    return visible


@pytest.mark.parametrize("seed", range(3))
def test_matches_the_definition(device: str, poisoned_memory: None, small_programs: None, seed: int):
    g = torch.Generator().manual_seed(seed)
    frames, height, width = 2, 9, 13
    K = torch.tensor([[40.0, 2.0, 6.3], [0, 43.0, 4.1], [0, 0, 1]])
    Ks = K + torch.rand(frames, 1, 1, generator=g) * torch.tensor([[5.0, 0, 1], [0, 5, 1], [0, 0, 0]])
    z = 100 + 20 * torch.rand(frames, 300, 1, generator=g)
    pixel = torch.rand(frames, 300, 2, generator=g) * torch.tensor([width + 2.0, height + 2.0]) - 1
    rays = torch.linalg.solve(Ks, torch.cat([pixel, torch.ones_like(z)], -1).transpose(1, 2)).transpose(1, 2)
    vertices = rays * torch.where(torch.rand(z.shape, generator=g) < 0.05, -z, z)
    normals = torch.randn(vertices.shape, generator=g) - torch.tensor([0.0, 0, 1.5])
    normals = torch.nn.functional.normalize(normals, dim=-1)
    depth = 100 + 20 * torch.rand(frames, height, width, generator=g)
    depth[torch.rand(depth.shape, generator=g) < 0.2] = torch.inf
    visible = both(vertices, normals, Ks, depth, device)
    expected = [
        [sees(v, n, Ks[f].double(), depth[f]) for v, n in zip(vertices[f].tolist(), normals[f].tolist(), strict=True)]
        for f in range(frames)
    ]
    assert visible.dtype == torch.bool and visible.shape == (frames, 300)
    assert 0.1 < visible.float().mean() < 0.9
    assert (visible != torch.tensor(expected)).sum() <= 1  # one may sit on a threshold


def exactly_visible(vertices: Tensor, triangles: Tensor, K: Tensor, size: int, cells: int = 1024) -> Tensor:
    """[V] bool by casting a ray to every vertex inside the picture, in float64; triangles are binned in cells."""
    points, triangles = vertices.double(), triangles.long()
    uv = project(points, K.double()) * (cells / size)
    low = uv[triangles].amin(1).floor().long().clamp(0, cells - 1)
    span = uv[triangles].amax(1).floor().long().clamp(0, cells - 1) - low + 1
    count = span.prod(1)
    triangle = torch.repeat_interleave(torch.arange(len(triangles)), count)
    rank = torch.arange(len(triangle)) - (count.cumsum(0) - count)[triangle]
    cell = (low[triangle, 1] + rank // span[triangle, 0]) * cells + low[triangle, 0] + rank % span[triangle, 0]
    triangle = triangle[cell.argsort()]
    filled = cell.bincount(minlength=cells**2)
    inside = ((uv >= 0) & (uv < cells)).all(1)
    vertex = inside.nonzero().view(-1)
    home = uv[vertex, 1].long() * cells + uv[vertex, 0].long()
    start = torch.repeat_interleave(
        (filled.cumsum(0) - filled)[home] - (filled[home].cumsum(0) - filled[home]), filled[home]
    )
    vertex = torch.repeat_interleave(vertex, filled[home])
    corners = triangles[triangle[start + torch.arange(len(vertex))]]
    other = (corners != vertex[:, None]).all(1)
    vertex, corners = vertex[other], corners[other]
    a, b, c = points[corners].unbind(1)
    weights = torch.stack([(points[vertex] * torch.linalg.cross(p, q)).sum(1) for p, q in ((b, c), (c, a), (a, b))], 1)
    at = (a * torch.linalg.cross(b, c)).sum(1) / weights.sum(1)  # 1 at the vertex
    hit = ((weights >= 0).all(1) | (weights <= 0).all(1)) & (at > 0) & (at < 1 - 1e-9)
    visible = inside.clone()
    visible[vertex[hit]] = False
    return visible


@pytest.mark.parametrize(("level", "poses"), [(1, 20), (2, 2)])
def test_agrees_with_exact_occlusion_on_a_face(device: str, level: int, poses: int):
    template = FaceTemplate.default(level)
    hairs = template.regions["lashes"] > 0.5  # thinner than pixels, so only the exact test sees what they hide
    triangles = template.triangles[~hairs[template.triangles.long()].any(1)]
    size, focal = 240, 510.0
    K = torch.tensor([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1]])
    g = torch.Generator().manual_seed(0)
    sums = torch.zeros(4)
    for _ in range(poses):
        yaw, pitch = ((torch.rand(2, generator=g) * 2 - 1) * torch.tensor([45.0, 25.0])).deg2rad().tolist()
        turn = torch.tensor([[math.cos(yaw), 0, math.sin(yaw)], [0, 1, 0], [-math.sin(yaw), 0, math.cos(yaw)]])
        nod = torch.tensor([[1, 0, 0], [0, math.cos(pitch), -math.sin(pitch)], [0, math.sin(pitch), math.cos(pitch)]])
        rotation = torch.diag(torch.tensor([1.0, -1, -1])) @ nod @ turn
        points = (template.vertices @ rotation.T + torch.tensor([0.0, 0, 600])).contiguous()
        normals = vertex_normals(points[None], triangles)
        facing = (normals[0] * points).sum(-1) < 0
        facing &= ~hairs
        exact = exactly_visible(points, triangles, K, size) & facing
        depth = rasterize(points[None], triangles, K[None], size, size).depth
        visible = both(points[None], normals, K[None], depth, device)[0] * ~hairs
        sums += torch.stack([(visible & exact).sum(), exact.sum(), visible.sum(), facing.sum()])
    found, right, declared, toward = sums.tolist()
    recall, false_share = found / right, 1 - found / declared
    assert right / toward < 0.92  # there is something to tell apart
    assert recall > 0.965 and false_share < 0.008, (recall, false_share)


def test_a_screen_hides_what_is_behind_it():
    """A wall of vertices facing the camera, the left half behind a screen, the right half in the open."""
    y, x = torch.meshgrid(torch.linspace(-80, 80, 21), torch.linspace(-80, 80, 21), indexing="ij")
    wall = torch.stack([x, y, torch.full_like(x, 500.0)], -1).view(1, -1, 3)
    screen = torch.tensor([[[-200.0, -200, 400], [0, -200, 400], [0, 200, 400], [-200, 200, 400]]])
    K = torch.tensor([[[150.0, 0, 32], [0, 150, 32], [0, 0, 1]]])
    depth = rasterize(screen, torch.tensor([[0, 2, 1], [0, 3, 2]]), K, 64, 64).depth
    normals = torch.tensor([0.0, 0, -1]).expand_as(wall).contiguous()
    visible = vertex_visibility(wall, normals, K, depth)[0].view(21, 21)
    assert not visible[:, :10].any() and visible[:, 11:].all()
    assert not vertex_visibility(wall, -normals, K, depth).any()  # turned away
    assert not vertex_visibility(-wall, normals, K, depth).any()  # behind the camera


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # by the interpreter
def test_broken_vertices_are_not_visible(device: str):
    """Not finite, without a normal, or on a pixel that is not finite."""
    K, depth = torch.tensor([[[10.0, 0, 2], [0, 10, 2], [0, 0, 1]]]), torch.full((1, 4, 4), torch.inf)
    vertices = torch.tensor([[[0.0, 0, 9], [torch.nan, 0, 9], [0, 0, torch.nan], [0, 0, 9], [1.3, 1.3, 9]]])
    vertices = torch.cat([vertices, torch.tensor([[[torch.inf, 0, 9], [0, 0, torch.inf], [0, 0, 0]]])], 1)
    normals = torch.tensor([0.0, 0, -1]).repeat(1, 8, 1)
    normals[0, 3] = 0
    depth[0, 1:3, 1:3] = 10
    depth[0, 3, 3] = torch.nan
    assert both(vertices, normals, K, depth, device).tolist() == [[True] + 7 * [False]]


@pytest.mark.parametrize("backend", ["torch", "triton"])
@pytest.mark.parametrize(("frames", "vertices"), [(0, 4), (2, 0)])
def test_empty_inputs(backend: Backend, frames: int, vertices: int):
    none, depth = torch.zeros(frames, vertices, 3), torch.zeros(frames, 4, 4)
    visible = vertex_visibility(none, none, torch.eye(3).expand(frames, 3, 3), depth, backend)
    assert visible.shape == (frames, vertices) and visible.dtype == torch.bool


def test_takes_cameras_of_any_strides_and_gives_no_gradient(device: str):
    g = torch.Generator().manual_seed(4)
    vertices = (torch.randn(2, 70, 3, generator=g) + torch.tensor([0.0, 0, 20])).requires_grad_()
    normals = torch.nn.functional.normalize(torch.randn(2, 70, 3, generator=g), dim=-1)
    depth = 20 + torch.randn(2, 16, 16, generator=g)
    K = torch.tensor([[60.0, 1, 8], [0, 50, 8], [0, 0, 1]])
    visible = both(vertices, normals, K.expand(2, 3, 3), depth, device)
    assert not visible.requires_grad and 0 < visible.sum() < 140
    assert torch.equal(both(vertices, normals, K.T.contiguous().T.repeat(2, 1, 1), depth, device), visible)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("vertices", {"vertices": torch.zeros(5, 3)}),
        ("normals", {"normals": torch.zeros(2, 4, 3)}),
        ("Ks", {"Ks": torch.zeros(1, 3, 3)}),
        ("depth", {"depth": torch.zeros(2, 6)}),
        ("depth", {"depth": torch.zeros(2, 0, 6)}),
        ("depth", {"depth": torch.zeros(2, 6, 6).int()}),
        ("depth", {"depth": torch.zeros(2, 6, 6).transpose(1, 2)[:, 1:]}),
        ("normals", {"normals": torch.zeros(2, 5, 3, device="meta")}),
        ("normals", {"normals": torch.zeros(2, 5, 3).double()}),
        ("normals", {"normals": torch.zeros(1, 5, 3).expand(2, 5, 3)}),
        ("backend", {"backend": "cuda"}),
    ],
)
def test_bad_input_names_the_argument(name: str, change: dict):
    good: dict[str, Any] = {
        "vertices": torch.zeros(2, 5, 3),
        "normals": torch.zeros(2, 5, 3),
        "Ks": torch.eye(3).expand(2, 3, 3),
        "depth": torch.zeros(2, 6, 6),
    }
    vertex_visibility(**good)
    with pytest.raises(ValueError, match=f"^{name}"):
        vertex_visibility(**(good | change))
