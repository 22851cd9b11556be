"""Rasterisation by nvdiffrast's calls: contexts, pictures, and layers of pictures."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from fmlfast.kernels.common.checks import check_size, check_tensor
from fmlfast.kernels.rasterize_clip import Fragments, rasterize_clip

from .arguments import checked_triangles

_LARGEST = 1 << 15
"""Rows or columns of a picture."""


class RasterizeCudaContext:
    """Stands for a rasteriser; it holds nothing, and `device` is of no effect: pictures are drawn where `pos` is."""

    output_db = True

    def __init__(self, device: torch.device | str | int | None = None) -> None:
        self.device = device


class RasterizeGLContext:
    """Holds `output_db`, whether to compute derivatives of barycentrics; there is no OpenGL, so the rest is ignored."""

    def __init__(
        self,
        output_db: bool = True,
        mode: Literal["automatic", "manual"] = "automatic",
        device: torch.device | str | int | None = None,
    ) -> None:
        if mode not in ("automatic", "manual"):
            raise ValueError(f"mode must be 'automatic' or 'manual', not {mode!r}")
        self.output_db, self.mode, self.device = output_db, mode, device

    def set_context(self) -> None:
        """Does nothing."""

    def release_context(self) -> None:
        """Does nothing."""


Context = RasterizeCudaContext | RasterizeGLContext


def rasterize(
    glctx: Context,
    pos: Tensor,  # [N, V, 4], [V, 4] with ranges
    tri: Tensor,  # [T, 3]
    resolution: Sequence[int],
    ranges: Tensor | None = None,  # [N, 2]
    grad_db: bool = True,
) -> tuple[Tensor, Tensor]:  # [N, H, W, 4], [N, H, W, 4 or 0]
    """Finds the nearest triangle at every pixel centre, with gradients of u, v and their derivatives to `pos`.

    Args:
        glctx: a context.
        pos: [N, V, 4] float32, clip space, or [V, 4] in range mode.
        tri: [T, 3] int32, at most 2^24 triangles, as their numbers are float32.
        resolution: height and width.
        ranges: [N, 2] int32 on the CPU, first triangle and number of triangles of each picture; ignored with [N, V, 4].
        grad_db: whether gradients of the derivatives go on to `pos`.

    Returns:
        u, v, z/w and number of the triangle plus one, 0 where nothing is seen; u and v are the weights of corners 0 and
        1; z/w has no gradient. And du/dX, du/dY, dv/dX, dv/dY per pixel, or [N, H, W, 0] without `glctx.output_db`.

    Raises:
        ValueError: wrong shape, dtype, device or value, naming the argument. So do the other calls.
    """
    return DepthPeeler(glctx, pos, tri, resolution, ranges, grad_db)._rasterize_behind(None)[1]


class DepthPeeler:
    """Draws layer after layer, each behind the last; arguments as in `rasterize`, whose calls it does not block."""

    def __init__(
        self,
        glctx: Context,
        pos: Tensor,  # [N, V, 4], [V, 4] with ranges
        tri: Tensor,  # [T, 3]
        resolution: Sequence[int],
        ranges: Tensor | None = None,  # [N, 2]
        grad_db: bool = True,
    ) -> None:
        if not isinstance(glctx, Context):
            raise ValueError(f"glctx must be RasterizeCudaContext() or RasterizeGLContext(), not {glctx!r}")
        by_range = isinstance(pos, Tensor) and pos.ndim == 2
        if by_range and ranges is None:
            raise ValueError("ranges must be given with pos [V, 4]: [N, 2] int32, or pass pos[None] to draw all of tri")
        check_tensor("pos", pos, ("V", 4) if by_range else ("N", "V", 4), contiguous=False)
        self._pos, self._tri = pos.contiguous(), checked_triangles(tri, pos.shape[-2], ("pos", pos))
        if not isinstance(resolution, Sequence) or len(resolution) != 2:
            raise ValueError(f"resolution must be (height, width), not {resolution!r}")
        self._height, self._width = (int(size) for size in resolution)
        check_size("height of resolution", self._height, _LARGEST)
        check_size("width of resolution", self._width, _LARGEST)
        self._ranges = ranges if by_range else None
        self._output_db, self._grad_db = glctx.output_db, grad_db
        self._layer: Fragments | None = None
        self._open = False

    def __enter__(self) -> "DepthPeeler":
        self._layer, self._open = None, True
        return self

    def __exit__(self, *error: object) -> None:
        self._layer, self._open = None, False

    def rasterize_next_layer(self) -> tuple[Tensor, Tensor]:  # [N, H, W, 4], [N, H, W, 4 or 0]
        """Draws the next layer, as `rasterize` does the first."""
        if not self._open:
            raise RuntimeError("rasterize_next_layer works inside `with DepthPeeler(...) as peeler:`")
        self._layer, drawn = self._rasterize_behind(self._layer)
        return drawn

    def _rasterize_behind(self, layer: Fragments | None) -> tuple[Fragments, tuple[Tensor, Tensor]]:
        size = self._height, self._width
        drawn = rasterize_clip(self._pos, self._tri, *size, self._ranges, layer, self._output_db)
        depth = torch.where(drawn.triangle_id < 0, 0, drawn.depth.detach())
        number = (drawn.triangle_id + 1).to(depth.dtype)
        rast = torch.cat([drawn.barycentrics[..., :2], torch.stack([depth, number], -1)], -1)
        if drawn.derivatives is None:
            return drawn, (rast, rast.new_empty(*rast.shape[:3], 0))
        return drawn, (rast, drawn.derivatives if self._grad_db else drawn.derivatives.detach())
