"""Arguments that nvdiffrast's calls share: pictures of `rasterize` as plain tensors, and triangles."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fmlfast.kernels.common.checks import check_indices, check_tensor
from fmlfast.kernels.rasterize_clip import Fragments

_MOST = 1 << 24
"""Triangles that float32 can number."""


def fragments_of(
    rast: Tensor,  # [N, H, W, 4]
    tri: Tensor,  # [T, 3]
    derivatives: Tensor | None = None,  # [N, H, W, 4]
) -> Fragments:
    """Rebuilds fragments, with the graph of u and v."""
    u, v, depth, number = rast.unbind(-1)
    ids = (number.detach().int() - 1).contiguous()
    looks = not ids.is_cuda and not torch.compiler.is_compiling()
    if looks and ids.numel() and int(ids.max()) >= len(tri):
        raise ValueError(f"rast holds triangle {int(ids.max())}, but tri only {len(tri)}: pass as many as rasterized")
    return Fragments(
        ids, torch.stack([u, v, 1 - u - v], -1), torch.where(ids < 0, math.inf, depth.detach()), derivatives
    )


def check_rast(rast: Tensor, like: tuple[str, Tensor], shape: Sequence[int | str] = ("N", "H", "W")) -> int:
    check_tensor("rast", rast, (*shape, 4), like=like, contiguous=False)
    return len(rast)


def checked_triangles(tri: Tensor, vertices: int, like: tuple[str, Tensor]) -> Tensor:
    check_tensor("tri", tri, ("T", 3), (torch.int32, torch.int64), like, contiguous=False)
    if not 1 <= len(tri) <= _MOST:
        raise ValueError(f"tri must hold 1 to 2^24 triangles, as rast counts in float32, not {len(tri)}: draw parts")
    tri = tri.contiguous()
    check_indices("tri", tri, vertices, "vertices")
    return tri
