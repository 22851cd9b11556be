"""Screen derivatives of interpolated vertex attributes, such as those that choose a texture's mipmap."""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from .common.backend import Backend, choose_backend
from .common.checks import check_corners, check_seen, check_tensor
from .common.custom_op import register
from .common.fragments import Fragments
from .common.gather import add_rows, gather_rows
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
        chosen = _checked(channels, attributes.shape[2])
        compiling = torch.compiler.is_compiling()  # which makes constants of its own
        index = torch.tensor(chosen, device=attributes.device) if compiling else _index(chosen, attributes.device)
        attributes = attributes.index_select(2, index)
    backend = choose_backend(backend, attributes)
    choose_backend(backend, derivatives)
    return _interpolate_derivatives(attributes, triangles, ids, derivatives, backend)


def _forward(
    attributes: Tensor,  # [F or 1, V, n]
    triangles: Tensor,  # [T, 3]
    triangle_id: Tensor,  # [F, H, W]
    derivatives: Tensor,  # [F, H, W, 4]
    backend: str,
) -> Tensor:  # [F, H, W, 2 * n]
    """Differentiates by the pixel, in plain torch at covered pixels only."""
    check_corners(triangles, attributes.shape[1])
    check_seen(triangle_id, triangles)
    if backend == "triton":
        from .interpolate_derivatives_triton import interpolate_derivatives_triton  # Triton is not on every platform

        return interpolate_derivatives_triton(attributes, triangles, triangle_id, derivatives)
    covered, _, edges, slopes = _edges(attributes, triangles, triangle_id, derivatives)
    values = (edges.transpose(1, 2) @ slopes).flatten(1)
    image = values.new_zeros(triangle_id.numel(), values.shape[1]).index_copy_(0, covered, values)
    return image.view(*triangle_id.shape, values.shape[1])


def _backward(
    wanted: list[bool],
    grad_out: Tensor,  # [F, H, W, 2 * n]
    attributes: Tensor,  # [F or 1, V, n]
    triangles: Tensor,  # [T, 3]
    triangle_id: Tensor,  # [F, H, W]
    derivatives: Tensor,  # [F, H, W, 4]
    backend: str,
) -> list[Tensor]:  # as attributes, as derivatives
    """Differentiates by attributes and derivatives."""
    if backend == "triton":
        from .interpolate_derivatives_triton import interpolate_derivatives_triton_backward

        return interpolate_derivatives_triton_backward(
            wanted, grad_out, attributes, triangles, triangle_id, derivatives
        )
    covered, corners, edges, slopes = _edges(attributes, triangles, triangle_id, derivatives)
    gradient = grad_out.flatten(0, 2).index_select(0, covered).unflatten(1, (-1, 2))
    out = []
    if wanted[0]:
        to_edges = slopes @ gradient.transpose(1, 2)
        rows = torch.cat([to_edges, -to_edges.sum(1, keepdim=True)], 1).flatten(0, 1)
        total = torch.zeros_like(attributes).flatten(0, 1)
        out.append(add_rows(total, corners.flatten(), rows).view(attributes.shape))
    if wanted[1]:
        to_slopes = (edges @ gradient).flatten(1).to(derivatives.dtype)
        out.append(torch.zeros_like(derivatives).view(-1, 4).index_add_(0, covered, to_slopes).view(derivatives.shape))
    return out


def _fake(attributes: Tensor, triangles: Tensor, triangle_id: Tensor, derivatives: Tensor, backend: str) -> Tensor:
    return attributes.new_empty(*triangle_id.shape, 2 * attributes.shape[2])


def _edges(
    attributes: Tensor, triangles: Tensor, triangle_id: Tensor, derivatives: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # [N], [N, 3], [N, 2, n], [N, 2, 2]
    """Finds covered pixels, rows of their corners, and what is multiplied: a0 - a2 and a1 - a2, and slopes."""
    covered, corners = find_corners(attributes, triangles, triangle_id)
    rows = gather_rows(attributes.flatten(0, 1), corners)
    slopes = derivatives.reshape(-1, 4).index_select(0, covered).to(attributes.dtype)
    return covered, corners, rows[:, :2] - rows[:, 2:], slopes.view(-1, 2, 2)


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


_interpolate_derivatives = register(
    "interpolate_derivatives",
    _forward,
    _backward,
    _fake,
    outputs=("out",),
    gradients_to=("attributes", "derivatives"),
)
