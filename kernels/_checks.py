"""Validation shared by the operations."""

import torch
from torch import Tensor


def check_triangles(triangles: Tensor, vertices: int, device: torch.device) -> None:
    """Raises ValueError unless `triangles` is [T, 3] int32 or int64 on `device` with indices in [0, vertices)."""
    if triangles.ndim != 2 or triangles.shape[-1] != 3:
        raise ValueError(f"triangles must be [T, 3], not {tuple(triangles.shape)}")
    if triangles.dtype not in (torch.int32, torch.int64):
        raise ValueError(f"triangles must be int32 or int64, not {triangles.dtype}")
    if triangles.device != device:
        raise ValueError(f"triangles are on {triangles.device}, vertices on {device}: move them to one device")
    if triangles.numel():
        low, high = (int(a) for a in triangles.aminmax())
        if low < 0 or high >= vertices:
            raise ValueError(f"triangles hold the index {low if low < 0 else high}, but there are {vertices} vertices")
