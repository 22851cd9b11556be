"""Antialiasing of silhouettes by nvdiffrast's calls."""

from typing import Any

import torch
from torch import Tensor

from fmlfast.kernels.antialias_clip import antialias_clip
from fmlfast.kernels.common.checks import check_tensor

from .arguments import check_rast, checked_triangles, fragments_of


class TopologyHash:
    """Keeps triangles, by which their adjacency is remembered."""

    def __init__(self, tri: Tensor) -> None:
        self.tri = tri


def antialias(
    color: Tensor,  # [N, H, W, C]
    rast: Tensor,  # [N, H, W, 4]
    pos: Tensor,  # [N or 1, V, 4], [V, 4] for all pictures
    tri: Tensor,  # [T, 3]
    topology_hash: TopologyHash | None = None,
    pos_gradient_boost: float = 1.0,
) -> Tensor:  # [N, H, W, C]
    """Blends the pixels at silhouettes, with gradients to `color` and `pos`; see `fmlfast.kernels.antialias`.

    Args:
        color: [N, H, W, C] float32, any channels, whole pictures: parts of them have other pixels than `pos` says.
        rast: first result of `rasterize`; it gets no gradient.
        pos: what was rasterised.
        tri: what was rasterised, sharing vertices across edges.
        topology_hash: result of `antialias_construct_topology_hash`; not needed, as a tensor's adjacency is remembered.
        pos_gradient_boost: factor of the gradient to `pos`.
    """
    check_tensor("color", color, ("N", "H", "W", "C"), contiguous=False)
    like, frames = ("color", color), len(color)
    check_rast(rast, like, color.shape[:3])
    alone = isinstance(pos, Tensor) and pos.ndim == 3 and len(pos) == 1
    pos = pos[0] if alone else pos
    shape = ("V", 4) if isinstance(pos, Tensor) and pos.ndim == 2 else (frames, "V", 4)
    check_tensor("pos", pos, shape, (color.dtype,), like, contiguous=False)
    if topology_hash is not None:
        if not isinstance(topology_hash, TopologyHash) or topology_hash.tri.shape != tri.shape:
            raise ValueError("topology_hash must be what antialias_construct_topology_hash returned for tri")
        tri = topology_hash.tri
    tri = checked_triangles(tri, pos.shape[-2], like)
    pos = _ScaleGradient.apply(pos.contiguous(), pos_gradient_boost) if pos_gradient_boost != 1 else pos.contiguous()
    return antialias_clip(color.contiguous(), pos, tri, fragments_of(rast, tri))


def antialias_construct_topology_hash(
    tri: Tensor,  # [T, 3]
) -> TopologyHash:
    """Keeps the triangles' adjacency, made when it is first needed, for argument `topology_hash` of `antialias`."""
    check_tensor("tri", tri, ("T", 3), (torch.int32, torch.int64), contiguous=False)
    return TopologyHash(tri.contiguous())


class _ScaleGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.factor, None
