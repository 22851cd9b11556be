"""Computes ambient occlusion of a mesh: the share of the sky that each vertex sees."""

from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fmlfast.renderer import rasterize, vertex_normals, vertex_visibility

_DIRECTIONS, _PIXELS, _DISTANCE = 96, 128, 5000.0  # cameras far enough to be nearly parallel


@cache
def sphere_directions(count: int = 1024) -> NDArray[np.float64]:
    """Spreads unit vectors [count, 3] evenly over the sphere (Fibonacci lattice)."""
    k = np.arange(count) + 0.5
    z = 1.0 - 2.0 * k / count
    angle = np.pi * (1.0 + 5.0**0.5) * k
    radius = np.sqrt(1.0 - z * z)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), z], axis=-1)


def sky_share(
    points: Tensor,  # [N, 3] mm
    triangles: Tensor,  # [T, 3] int32
    count: int,  # of the points wanted; the rest only casts shadow
) -> Tensor:  # [count]
    """Computes the cosine-weighted share of the sky, 0..1, that each of the first `count` points of a mesh sees.

    Every direction is one distant camera; a vertex sees the sky there if it passes the camera's z-buffer test.
    """
    back = torch.from_numpy(-sphere_directions(_DIRECTIONS)).float()  # [F, 3] the cameras' viewing directions
    helper = torch.where(back[:, 1:2].abs() < 0.9, torch.tensor([[0.0, 1.0, 0.0]]), torch.tensor([[1.0, 0.0, 0.0]]))
    right = torch.nn.functional.normalize(torch.linalg.cross(helper, back), dim=1)
    turn = torch.stack([right, torch.linalg.cross(back, right), back], dim=1)  # [F, 3, 3]
    middle = points[:count].mean(dim=0)
    seen_from = (points - middle) @ turn.mT + torch.tensor([0.0, 0.0, _DISTANCE])
    reach = float((points[:count] - middle).norm(dim=1).max())
    focal = 0.48 * _PIXELS * _DISTANCE / reach
    K = torch.tensor([[focal, 0.0, _PIXELS / 2], [0.0, focal, _PIXELS / 2], [0.0, 0.0, 1.0]])
    Ks = K.expand(_DIRECTIONS, 3, 3).contiguous()
    depth = rasterize(seen_from, triangles, Ks, _PIXELS, _PIXELS).depth
    normals = vertex_normals(seen_from, triangles)
    visible = vertex_visibility(seen_from, normals, Ks, depth)[:, :count]
    facing = (-normals[:, :count, 2]).clamp(min=0.0)
    return (visible * facing).sum(dim=0) / facing.sum(dim=0).clamp(min=1e-6)
