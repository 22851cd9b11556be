"""OpenGL's pictures of clip-space triangles, and of which pixels they can be trusted.

Skips where llvmpipe is missing. OpenGL moves vertices to multiples of 1 / 256 pixel, and we do not.
"""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from benchmarks.peers.opengl_canvas import Picture, canvas, open_context

SNAP = 2.0**-8
"""Pixels; edges and values move less: half a step across and half a step down."""
DEPTH = 2.0**-22
"""What a depth buffer of 24 bits and float32 may round z / w by."""


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
    return canvas(height, width).draw(positions, triangles.int(), attributes, cull_backfaces)


class Truth(NamedTuple):
    """The picture in float64, which OpenGL must agree with where it is certain."""

    certain: Tensor  # [H, W]; no edge and no other surface is so near that a snapped vertex could decide
    triangle_id: Tensor  # [H, W], -1 where there is none
    barycentrics: Tensor  # [H, W, 3]
    depth: Tensor  # [H, W], z / w
    barycentrics_slack: Tensor  # [H, W, 3], by how much snapping may change them
    depth_slack: Tensor  # [H, W]


def cast(positions: Tensor, triangles: Tensor, height: int, width: int, cull_backfaces: bool = False) -> Truth:
    """Meets every triangle at every pixel centre p = (column, row, 1) = sum_i c_i (x_i, y_i, w_i), in pixels.

    c_i, the weights b_i = c_i / sum_j c_j and z / w = sum_i c_i z_i say all; c and z / w are linear in p.
    """
    x, y, z, w = positions.double()[triangles.long()].unbind(-1)  # [T, 3]
    corners = torch.stack([width / 2 * (x + w), height / 2 * (y + w), w], -1)
    turn = torch.linalg.det(corners)
    flat = turn == 0
    slopes = torch.linalg.inv(torch.where(flat[:, None, None], torch.eye(3).double(), corners)).transpose(1, 2)
    row, column = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    centres = torch.stack([column, row, torch.ones_like(row)], -1).double()
    depth_slopes = (slopes * z[..., None]).sum(1)  # [T, 3]
    ones = torch.tensor([0.0, 0, 1]).double()
    borders = torch.cat([slopes, (ones + depth_slopes)[:, None], (ones - depth_slopes)[:, None]], 1)  # near and far
    steepness = borders[..., :2].norm(dim=-1).clamp(min=1e-12)  # a plane may be parallel to the image
    inside = torch.einsum("hwi,tki->thwk", centres, borders / steepness[..., None]).amin(-1)  # pixels
    hidden = flat | (cull_backfaces & (turn <= 0))
    inside = torch.where(hidden[:, None, None], -torch.inf, inside)

    depth = torch.einsum("hwi,ti->thw", centres, depth_slopes)
    depth_slack = depth_slopes[:, :2].norm(dim=-1) * SNAP + DEPTH
    nearest = torch.where(inside > SNAP, depth, torch.inf).min(0)
    winner = nearest.indices[None]
    limit = (depth + depth_slack[:, None, None]).gather(0, winner)
    rivals = (inside > -SNAP) & (depth - depth_slack[:, None, None] <= limit)
    rivals.scatter_(0, winner, False)
    seen = nearest.values < torch.inf
    certain = ~torch.where(seen, rivals.any(0), (inside > -SNAP).any(0))

    chosen = slopes[winner[0]]  # [H, W, 3 corners, 3]
    weights = torch.einsum("hwi,hwki->hwk", centres, chosen)
    total = weights.sum(-1, keepdim=True)
    barycentrics = weights / total
    change = (chosen[..., :2] - barycentrics[..., None] * chosen[..., :2].sum(-2, keepdim=True)) / total[..., None]
    return Truth(
        certain,
        torch.where(seen, winner[0], -1).int(),
        barycentrics,
        depth.gather(0, winner)[0],
        change.norm(dim=-1) * SNAP + 2.0**-20,
        depth_slack[winner[0]],
    )
