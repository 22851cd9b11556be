"""Screen derivatives of interpolated vertex attributes, such as those that choose a texture's mipmap."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .common.backend import Backend, choose_backend
from .common.checks import check_tensor
from .common.fragments import Fragments
from .common.gather import gather_rows
from .interpolate import check_interpolation, find_corners


def interpolate_derivatives(
    attributes: Tensor,  # [F or 1, V, C]
    triangles: Tensor,  # [T, 3]
    fragments: Fragments,  # [F, H, W]
    channels: Sequence[int] | None = None,
    backend: Backend | None = None,
) -> Tensor:  # [F, H, W, 2 * n]
    """Computes how interpolated attributes change from pixel to pixel: da/dx = db0/dx (a0 - a2) + db1/dx (a1 - a2).

    As b2 = 1 - b0 - b1, differences of attributes are all that counts, so that large ones lose no digits. Gradients go
    to the attributes and to the derivatives of the fragments. Their sums are the same on every run.

    Args:
        attributes: [F, V, C] float32 or float64, or [1, V, C] to share one set among all frames.
        triangles: [T, 3] int32 or int64, those that were rasterised.
        fragments: result of `rasterize(..., derivatives=True)` for F frames.
        channels: n different indices of attributes in [0, C), in the order in which they are returned; None for all.
        backend: "torch" or "triton" (float32); by default what suits the device.

    Returns:
        [F, H, W, 2 * n] of the attributes' dtype, units of the attribute per pixel: d a0/dx, d a0/dy, d a1/dx, ... with
        x to the right and y down as the fragments have them; 0 where no triangle is seen.

    Raises:
        ValueError: wrong shape, dtype, device or value, naming the argument; fragments without derivatives. On a GPU a
            fragment of a triangle beyond T counts as empty, see `interpolate`.
    """
    check_interpolation(attributes, triangles, fragments)
    ids, derivatives = fragments.triangle_id, fragments.derivatives
    if derivatives is None:
        raise ValueError("fragments have no derivatives: call rasterize(..., derivatives=True)")
    check_tensor("fragments.derivatives", derivatives, (*ids.shape, 4), like=("attributes", attributes))
    if channels is not None:
        attributes = attributes.index_select(2, _index(_checked(channels, attributes.shape[2]), attributes.device))
    if choose_backend(backend, attributes) == "triton":
        from .interpolate_derivatives_triton import interpolate_derivatives_triton  # Triton is not on every platform

        choose_backend("triton", derivatives)
        return interpolate_derivatives_triton(attributes, triangles, ids, derivatives)
    return interpolate_derivatives_torch(attributes, triangles, ids, derivatives)


def interpolate_derivatives_torch(
    attributes: Tensor,  # [F or 1, V, n]
    triangles: Tensor,  # [T, 3]
    triangle_id: Tensor,  # [F, H, W]
    derivatives: Tensor,  # [F, H, W, 4]
) -> Tensor:  # [F, H, W, 2 * n]
    """Differentiates in plain torch, at covered pixels only."""
    covered, corners = find_corners(attributes, triangles, triangle_id)
    rows = gather_rows(attributes.flatten(0, 1), corners)  # [N, 3, n]
    slopes = derivatives.reshape(-1, 4).index_select(0, covered).to(attributes.dtype)
    values = _Slopes.apply(rows[:, :2] - rows[:, 2:], slopes.view(-1, 2, 2)).flatten(1)
    image = values.new_zeros(triangle_id.numel(), values.shape[1]).index_copy(0, covered, values)
    return image.view(*triangle_id.shape, values.shape[1])


class _Slopes(torch.autograd.Function):
    """Sums over two edges, as products of matrices: faster than term by term, but autocast would round them."""

    @staticmethod
    def forward(
        ctx: Any,
        edges: Tensor,  # [N, 2, n]
        slopes: Tensor,  # [N, 2, 2], of the two barycentrics by x and y
    ) -> Tensor:  # [N, n, 2]
        ctx.save_for_backward(edges, slopes)
        with torch.autocast(edges.device.type, enabled=False):
            return edges.transpose(1, 2) @ slopes

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:  # [N, n, 2]
        edges, slopes = ctx.saved_tensors
        with torch.autocast(edges.device.type, enabled=False):
            return slopes @ gradient.transpose(1, 2), edges @ gradient


def _checked(channels: Sequence[int], count: int) -> tuple[int, ...]:
    chosen = tuple(channels)
    if not all(type(c) is int and 0 <= c < count for c in chosen) or len(set(chosen)) < len(chosen):
        raise ValueError(f"channels must be different ints from 0 to {count - 1}, or None for all, not {channels!r}")
    return chosen


@lru_cache(maxsize=64)
def _index(channels: tuple[int, ...], device: torch.device) -> Tensor:  # [n]
    """Uploads indices once, as copying means waiting for a GPU; not to be changed in place."""
    with torch.inference_mode(False):  # what evaluation made first must also do for training
        return torch.tensor(channels, dtype=torch.int64, device=device)
