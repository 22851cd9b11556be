"""Meshes and cameras shared by the tests of render()."""

import torch
from torch import Tensor

from fmlfast.camera import look_at


def plate(z: float = 0.0, half: float = 50.0) -> tuple[Tensor, Tensor]:
    """A square facing +z: vertices [1, 4, 3], triangles [2, 3]."""
    vertices = torch.tensor([[[-half, -half, z], [half, -half, z], [half, half, z], [-half, half, z]]])
    return vertices, torch.tensor([[0, 1, 2], [0, 2, 3]], dtype=torch.int32)


def front(height: int, width: int, focal: float, distance: float = 500.0) -> tuple[Tensor, Tensor]:
    """A camera on the +z axis that looks at the origin: viewmats [1, 4, 4], Ks [1, 3, 3]."""
    viewmats = look_at(torch.tensor([[0.0, 0, distance]]), torch.zeros(1, 3))
    return viewmats, torch.tensor([[[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]]])


def blob() -> tuple[Tensor, Tensor]:
    """A bumpy closed surface of large triangles: vertices [1, 5, 3], triangles [6, 3]."""
    vertices = torch.tensor([[[-60.0, -50, 20], [70, -40, 0], [10, 65, 10], [0, 0, 80], [5, 5, -60]]])
    return vertices, torch.tensor([[0, 1, 3], [1, 2, 3], [2, 0, 3], [1, 0, 4], [2, 1, 4], [0, 2, 4]])
