"""Scenes in clip space, and what a pixel of them sees by float64 arithmetic of its own."""

import numpy as np
import torch
from torch import Tensor


def soup(seed: int, frames: int, triangles: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Triangles that share no vertex, in perspective: [F, 3T, 4], [T, 3] int32."""
    generator = torch.Generator().manual_seed(seed)
    points = torch.rand(frames, triangles, 3, 3, generator=generator, dtype=torch.float64) * 2 - 1
    points[..., 2] = points[..., 2, :1] * 0.8 + 0.1 * points[..., 2]
    w = 0.5 + 2 * torch.rand(frames, triangles, 3, 1, generator=generator, dtype=torch.float64)
    pos = torch.cat([points * w, w], -1).flatten(1, 2).to(dtype)
    return pos, torch.arange(3 * triangles, dtype=torch.int32).view(-1, 3)


def square(z: float, size: float = 0.5, x: float = 0.0, dtype: torch.dtype = torch.float32) -> Tensor:
    """A square of two triangles (0, 1, 2), (0, 2, 3) at one depth, w = 1: [4, 4]."""
    corners = [[x - size, -size, z, 1], [x + size, -size, z, 1], [x + size, size, z, 1], [x - size, size, z, 1]]
    return torch.tensor(corners, dtype=dtype)


SQUARE = torch.tensor([[0, 1, 2], [0, 2, 3]], dtype=torch.int32)


def look(pos: Tensor, tri: Tensor, row: float, column: float, height: int, width: int) -> np.ndarray:
    """u, v, z/w and number + 1 at a point of the picture, the nearest of all triangles: loops of a solver."""
    x, y = 2 * column / width - 1, 2 * row / height - 1
    best = np.zeros(4)
    for number, corners in enumerate(pos.double().numpy()[tri.long().numpy()]):
        try:
            weights = np.linalg.solve(corners[:, [0, 1, 3]].T, [x, y, 1.0])
        except np.linalg.LinAlgError:
            continue
        weights = weights / weights.sum()
        depth = (weights @ corners[:, 2]) / (weights @ corners[:, 3])
        if (weights >= 0).all() and abs(depth) <= 1 and (best[3] == 0 or depth < best[2]):
            best = np.array([weights[0], weights[1], depth, number + 1])
    return best
