"""OpenGL's pictures of clip-space triangles, and of which pixels they can be trusted.

Skips where llvmpipe is missing. It moves vertices to multiples of 1 / 256 pixel to find what they cover, and we do not;
what it interpolates it takes from where they were.
"""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from benchmarks.peers.opengl_canvas import Picture, canvas, open_context

SNAP = 2.0**-8
"""Pixels; edges move less: half a step across and half a step down."""
EPSILON = 16 * 2.0**-24
"""What float32 makes of coordinates that were rounded some sixteen times, relative to the terms they are sums of."""


def need_opengl() -> None:
    """Skips the test where there is no OpenGL."""
    if reason := open_context()[1]:
        pytest.skip(f"moderngl: {reason}")


def draw(
    positions: Tensor,  # [V, 4]
    triangles: Tensor,  # [T, 3]
    height: int,
    width: int,
    attributes: Tensor | None = None,  # [V, C]
    cull_backfaces: bool = False,
) -> Picture:
    """Draws by llvmpipe; skips the test where there is none."""
    need_opengl()
    return canvas(height, width, derivatives=True).draw(positions, triangles.int(), attributes, cull_backfaces)


class Truth(NamedTuple):
    """The picture in float64, which OpenGL must agree with where it is certain."""

    certain: Tensor  # [H, W]; no edge and no other surface is so near that snapping or rounding could decide
    triangle_id: Tensor  # [H, W], -1 where there is none
    barycentrics: Tensor  # [H, W, 3]
    depth: Tensor  # [H, W], z / w
    barycentrics_slack: Tensor  # [H, W, 3], by how much rounding may change them
    depth_slack: Tensor  # [H, W]


def cast(positions: Tensor, triangles: Tensor, height: int, width: int, cull_backfaces: bool = False) -> Truth:
    """Meets every triangle at every pixel centre p = (column, row, 1) = sum_i c_i (x_i, y_i, w_i), in pixels.

    c_i, the barycentrics b_i = c_i / sum_j c_j and z / w = sum_i c_i z_i say all; c and z / w are linear in p.
    """
    x, y, z, w = positions.double()[triangles.long()].unbind(-1)  # [T, 3]
    corners = torch.stack([width / 2 * (x + w), height / 2 * (y + w), w], -1)
    turn = torch.linalg.det(corners)
    flat = turn == 0
    slopes = torch.linalg.inv(torch.where(flat[:, None, None], torch.eye(3).double(), corners)).transpose(1, 2)
    row, column = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    centres = torch.stack([column, row, torch.ones_like(row)], -1).double()
    hidden = flat | (cull_backfaces & (turn <= 0))
    inside = torch.where(hidden[:, None, None], -torch.inf, _inside(slopes, z, centres))

    weights = torch.einsum("hwa,tia->thwi", centres, slopes)  # c
    # Corners that move by d_i change c_k by -sum_i c_i d_i slopes_k.
    moves = torch.stack([width / 2 * (x.abs() + w.abs()), height / 2 * (y.abs() + w.abs()), w.abs()], -1) * EPSILON
    errors = torch.einsum("thwi,tik->thwk", weights.abs(), torch.einsum("tia,tka->tik", moves, slopes.abs()))
    depth = torch.einsum("thwi,ti->thw", weights, z)
    z, w = z[:, None, None], w[:, None, None]
    lever = (z - depth[..., None] * w).abs()  # 0 where all corners lie at one depth
    depth_slack = (errors * lever + EPSILON * weights.abs() * (z.abs() + w.abs())).sum(-1) + EPSILON

    nearest = torch.where(inside > SNAP, depth, torch.inf).min(0)
    winner = nearest.indices[None]
    pick = lambda values: torch.take_along_dim(values, winner.view(1, height, width, *(1,) * (values.ndim - 3)), 0)[0]  # noqa: E731
    rivals = (inside > -SNAP) & (depth - depth_slack <= pick(depth + depth_slack))
    rivals.scatter_(0, winner, False)
    seen = nearest.values < torch.inf
    certain = ~torch.where(seen, rivals.any(0), (inside > -SNAP).any(0))

    weights, errors = pick(weights), pick(errors)
    total = weights.sum(-1, keepdim=True)
    barycentrics = weights / total
    slack = (errors + barycentrics.abs() * errors.sum(-1, keepdim=True)) / total.abs() + EPSILON
    ids = torch.where(seen, winner[0], -1).int()
    return Truth(certain, ids, barycentrics, pick(depth), slack, pick(depth_slack))


def _inside(slopes: Tensor, z: Tensor, centres: Tensor) -> Tensor:  # [T, 3, 3], [T, 3], [H, W, 3] -> [T, H, W]
    """How far centres lie inside the nearest of the three edges, the near plane and the far plane; pixels."""
    depth, ones = (slopes * z[..., None]).sum(1), torch.tensor([0.0, 0, 1]).double()
    borders = torch.cat([slopes, (ones + depth)[:, None], (ones - depth)[:, None]], 1)  # [T, 5, 3]
    steepness = borders[..., :2].norm(dim=-1, keepdim=True).clamp(min=1e-12)  # 0 of a plane parallel to the image
    return torch.einsum("hwa,tka->thwk", centres, borders / steepness).amin(-1)


def draw_and_cast(
    positions: Tensor,  # [V, 4]
    triangles: Tensor,  # [T, 3]
    height: int,
    width: int,
    attributes: Tensor | None = None,  # [V, C]
    cull_backfaces: bool = False,
) -> tuple[Picture, Truth]:
    """OpenGL's picture and the truth."""
    drawn = draw(positions, triangles, height, width, attributes, cull_backfaces)
    return drawn, cast(positions, triangles, height, width, cull_backfaces)


def assert_within(got: Tensor, expected: Tensor, slack: Tensor) -> None:
    """Asserts that numbers differ by no more than their slack."""
    excess = (got.double() - expected.double()).abs() / slack
    assert excess.max() <= 1, f"{float(excess.max())} of what rounding explains"
