"""The z-buffer of the torch backend."""

import torch
from torch import Tensor

_EMPTY = (0x7F800000 << 32) | 0xFFFFFFFF  # an infinite depth, triangle -1


class ZBuffer:
    """The nearest triangle of every pixel so far, of equal depths the one of lower index.

    In float32 one integer holds both, bits of the depth << 32 | index. In float64 depths and indices have arrays of
    their own: the minimum of the depths comes first, then that of the indices with this depth.
    """

    def __init__(
        self,
        pixels: int,
        like: Tensor,  # whose dtype, that of depths, and device are taken
        signed: bool,
    ) -> None:
        """`signed`: whether depths may be negative, whose bits then are made to order as they do."""
        self.signed = signed
        self.keys = torch.full((pixels,), _EMPTY, device=like.device)
        self.depth = None if like.dtype == torch.float32 else like.new_full((pixels,), torch.inf)

    def lower(
        self,
        at: Tensor,  # [N] int64
        depth: Tensor,  # [N] not -0
        triangle: Tensor,  # [N] int32
    ) -> None:
        """Puts triangles into the pixels `at`, where they are nearer than what is there."""
        if self.depth is None:
            bits = depth.view(torch.int32)
            key = (_ordered(bits) if self.signed else bits).long().bitwise_left_shift_(32).bitwise_or_(triangle)
            self.keys.scatter_reduce_(0, at, key, "amin")
            return
        before = self.depth.index_select(0, at)
        self.depth.scatter_reduce_(0, at, depth, "amin")
        after = self.depth.index_select(0, at)
        self.keys[at[after < before]] = _EMPTY
        nearest = (depth == after).nonzero().view(-1)
        self.keys.scatter_reduce_(
            0, at.index_select(0, nearest), triangle.index_select(0, nearest).to(torch.int64), "amin"
        )

    def read(self) -> tuple[Tensor, Tensor]:  # [N] int32, [N]
        """Returns triangle, -1 where there is none, and depth, inf there."""
        triangle, bits = (half.contiguous() for half in self.keys.view(torch.int32).view(-1, 2).unbind(1))
        if self.depth is not None:
            return triangle, self.depth
        return triangle, (_ordered(bits) if self.signed else bits).view(torch.float32)


def _ordered(bits: Tensor) -> Tensor:
    """Maps the bits of floats to integers of the same order, and back."""
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)
