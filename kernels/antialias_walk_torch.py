"""The walks of the silhouette search: all of a picture take their steps together.

In NumPy, on the host: a step is some 40 calls for a few thousand walks at first and for a few at last, and a call of
NumPy costs a quarter of one of torch.
"""

import numpy as np
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
    arrays = screen, beyond, *start, *origin, sign, down, goal, corner, low, *low_end, *high_end, walking
    host = (a.cpu().numpy() for a in arrays)
    screen_, beyond_, center, level, along, across, sign_, down_, goal_, corner_, low_, a0, c0, a1, c1, walks = host
    result = np.full_like(corner_, -1)
    number, ends, triangle = np.arange(len(corner_)), result.copy(), corner_ // 3
    with np.errstate(all="ignore"):
        for _ in range(max_steps):
            s = crossing((a0 - center, c0 - level), (a1 - center, c1 - level))
            walks = walks & (s < 1 + TIE) & (triangle != goal_)
            rows = np.flatnonzero(walks)
            if len(rows) == 0:
                break
            if 2 * len(rows) < len(walks):  # those that have ended are carried along for a while, which costs less
                result[number] = ends
                state = (
                    number,
                    ends,
                    center,
                    level,
                    along,
                    across,
                    sign_,
                    down_,
                    goal_,
                    corner_,
                    low_,
                    a0,
                    c0,
                    a1,
                    c1,
                    s,
                )
                (number, ends, center, level, along, across, sign_, down_, goal_, corner_, low_, a0, c0, a1, c1, s) = (
                    x[rows] for x in state
                )
                walks = np.ones(len(rows), dtype=bool)
            triangle, vertex, after, later, vertex_after = beyond_.take(corner_, axis=0).T
            a = screen_.take(along + vertex) * sign_
            c = screen_.take(across + vertex)
            wide, high = a1 - a0, c1 - c0
            last = (triangle < 0) | (wide * (c - c0) - high * (a - a0) > 0)
            flat = np.abs(wide) - high
            found = walks & last & np.where(down_, flat <= 0, flat < 0) & (s > -0.5)
            ends = np.where(found, corner_, ends)
            walks = walks & ~last  # a vertex that is NaN makes the next crossing NaN, where the walk stops
            # The next exit joins the new vertex to the one on the other side of the segment.
            above = c > level
            corner_ = np.where((vertex_after == low_) == above, later, after)
            low_ = np.where(above, low_, vertex)
            a0, c0 = np.where(above, a0, a), np.where(above, c0, c)
            a1, c1 = np.where(above, a, a1), np.where(above, c, c1)
    result[number] = ends
    return torch.from_numpy(result).to(corner.device)
