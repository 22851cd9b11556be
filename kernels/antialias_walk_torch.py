"""The walks of the silhouette search in torch: all of a picture take their steps together."""

import torch
from torch import Tensor

from .antialias_blend_torch import crossing
from .common.outlines import TIE


def walk(
    screen: Tensor,  # [2 F V], all columns, then all rows
    beyond: Tensor,  # [3T, 5] int32, see `Topology.beyond`
    start: Tensor,  # [2, N] p's centre: along the direction from p to q, and across it
    origin: Tensor,  # [2, N] int64, the element of `screen` that is vertex 0's coordinate along it, and across it
    sign: Tensor,  # [N] of coordinates along it
    down: Tensor,  # [N] bool, whether q is below p
    goal: Tensor,  # [N] int32, triangle that q sees
    corner: Tensor,  # [N] int32, opposite the edge that the triangle of p is left by
    low: Tensor,  # [N] int32, the vertex of that edge on the lower side of the segment
    low_end: Tensor,  # [2, N] where it is
    high_end: Tensor,  # [2, N] where the other one is
    walking: Tensor,  # [N] bool
    max_steps: int,
) -> Tensor:  # [N] int32
    """Walks over the mesh from p towards q until the surface ends; returns the corner opposite that edge, or -1."""
    result = torch.full_like(corner, -1)
    number, ends = torch.arange(len(corner), device=corner.device), result.clone()
    triangle = corner // 3
    (center, level), (along, across) = start, origin
    (a0, c0), (a1, c1) = low_end, high_end  # along and across, of the lower and of the higher end
    for _ in range(max_steps):
        s = crossing(torch.stack([a0 - center, c0 - level]), torch.stack([a1 - center, c1 - level]))
        walking = walking & (s < 1 + TIE) & (triangle != goal)
        left = int(walking.count_nonzero())
        if left == 0:
            break
        if 2 * left < len(walking):  # those that have ended are carried along for a while, which costs less
            result[number] = ends
            rows = walking.nonzero().view(-1)
            state = number, ends, center, level, along, across, sign, down, goal, corner, low, a0, c0, a1, c1, s
            (number, ends, center, level, along, across, sign, down, goal, corner, low, a0, c0, a1, c1, s) = (
                x.index_select(0, rows) for x in state
            )
            walking = torch.ones_like(rows, dtype=torch.bool)
        triangle, vertex, after, later, vertex_after = beyond.index_select(0, corner).unbind(1)
        a = screen.index_select(0, along + vertex) * sign
        c = screen.index_select(0, across + vertex)
        wide, high = a1 - a0, c1 - c0
        last = (triangle < 0) | (wide * (c - c0) - high * (a - a0) > 0)
        flat = wide.abs() - high
        found = walking & last & torch.where(down, flat <= 0, flat < 0) & (s > -0.5)
        ends = torch.where(found, corner, ends)
        walking = walking & ~last  # a vertex that is NaN makes the next crossing NaN, where the walk stops
        # The next exit joins the new vertex to the one on the other side of the segment.
        above = c > level
        corner = torch.where((vertex_after == low) == above, later, after)
        low = torch.where(above, low, vertex)
        a0, c0 = torch.where(above, a0, a), torch.where(above, c0, c)
        a1, c1 = torch.where(above, a, a1), torch.where(above, c, c1)
    result[number] = ends
    return result
