"""Perspective-correct interpolation of vertex attributes over pixels."""

import torch
from torch import Tensor

from .common.backend import Backend, choose_backend
from .common.checks import check_corners, check_seen, check_tensor, check_triangles
from .common.custom_op import register
from .common.fragments import Fragments
from .common.gather import add_rows, gather_rows, places, sum_rows


def interpolate(
    attributes: Tensor,  # [F or 1, V, C]
    triangles: Tensor,  # [T, 3]
    fragments: Fragments,  # [F, H, W]
    backend: Backend | None = None,
) -> Tensor:  # [F, H, W, C]
    """Interpolates vertex attributes at every pixel, perspective-correct: a = b0 a0 + b1 a1 + b2 a2.

    Gradients go to the attributes and to the barycentrics of the fragments, and through these to the vertices that were
    rasterised. Their sums are the same on every run.

    Args:
        attributes: [F, V, C] float32 or float64, or [1, V, C] to share one set among all frames.
        triangles: [T, 3] int32 or int64, those that were rasterised.
        fragments: result of `rasterize` for F frames.
        backend: "torch" or "triton" (float32); by default what suits the device.

    Returns:
        [F, H, W, C] of the attributes' dtype, 0 where no triangle is seen.

    Raises:
        ValueError: wrong shape, dtype, device or value, naming the argument. On a GPU a fragment of a triangle beyond T
            is not looked for, as that would mean waiting: its pixel counts as empty.
    """
    check_interpolation(attributes, triangles, fragments)
    ids, barycentrics = fragments.triangle_id, fragments.barycentrics
    check_tensor("fragments.barycentrics", barycentrics, (*ids.shape, 3), like=("attributes", attributes))
    backend = choose_backend(backend, attributes)
    choose_backend(backend, barycentrics)
    return _interpolate(attributes, triangles, ids, barycentrics, backend)


def check_interpolation(
    attributes: Tensor,  # [F or 1, V, C]
    triangles: Tensor,  # [T, 3]
    fragments: Fragments,  # [F, H, W]
) -> None:
    """Raises ValueError unless the fragments' triangles can look up attributes."""
    if not isinstance(fragments, Fragments):
        raise ValueError(f"fragments must be what rasterize returned, not {type(fragments).__name__}")
    ids = fragments.triangle_id
    check_tensor("fragments.triangle_id", ids, ("F", "H", "W"), (torch.int32,))
    frames = len(ids)
    check_tensor("attributes", attributes, ("F or 1", "V", "C"))
    if len(attributes) not in (1, frames):
        raise ValueError(f"attributes must be [{frames} or 1, V, C] for {frames} frames, not {list(attributes.shape)}")
    if ids.device != attributes.device:
        raise ValueError(f"fragments.triangle_id is on {ids.device}, attributes on {attributes.device}")
    check_triangles(triangles, ("attributes", attributes))


def _forward(
    attributes: Tensor,  # [F or 1, V, C]
    triangles: Tensor,  # [T, 3]
    triangle_id: Tensor,  # [F, H, W]
    barycentrics: Tensor,  # [F, H, W, 3]
    backend: str,
) -> Tensor:  # [F, H, W, C]
    """Interpolates, in plain torch at covered pixels only."""
    check_corners(triangles, attributes.shape[1])
    check_seen(triangle_id, triangles)
    if backend == "triton":
        from .interpolate_triton import interpolate_triton  # not before: Triton is not on every platform

        return interpolate_triton(attributes, triangles, triangle_id, barycentrics)
    covered, corners = find_corners(attributes, triangles, triangle_id)
    weights = barycentrics.reshape(-1, 3).index_select(0, covered).to(attributes.dtype)
    # Ten times as fast as products of small matrices.
    blended = sum_rows(attributes.flatten(0, 1), corners, weights=weights)
    image = blended.new_zeros(triangle_id.numel(), attributes.shape[2]).index_copy_(0, covered, blended)
    return image.view(*triangle_id.shape, attributes.shape[2])


def _backward(
    wanted: list[bool],
    grad_out: Tensor,  # [F, H, W, C]
    attributes: Tensor,  # [F or 1, V, C]
    triangles: Tensor,  # [T, 3]
    triangle_id: Tensor,  # [F, H, W]
    barycentrics: Tensor,  # [F, H, W, 3]
    backend: str,
) -> list[Tensor]:  # as attributes, as barycentrics
    """Differentiates by attributes and barycentrics."""
    if backend == "triton":
        from .interpolate_triton import interpolate_triton_backward

        return interpolate_triton_backward(wanted, grad_out, attributes, triangles, triangle_id, barycentrics)
    covered, corners = find_corners(attributes, triangles, triangle_id)
    gradient = grad_out.flatten(0, 2).index_select(0, covered)
    table, out = attributes.flatten(0, 1), []
    if wanted[0]:
        weights = barycentrics.reshape(-1, 3).index_select(0, covered).to(attributes.dtype)
        rows = (weights[:, :, None] * gradient[:, None]).flatten(0, 1)
        out.append(add_rows(torch.zeros_like(table), corners.flatten(), rows).view(attributes.shape))
    if wanted[1]:
        to_weights = torch.bmm(gather_rows(table, corners), gradient[:, :, None])[:, :, 0].to(barycentrics.dtype)
        zeros = torch.zeros_like(barycentrics).view(-1, 3)
        out.append(zeros.index_add_(0, covered, to_weights).view(barycentrics.shape))
    return out


def _fake(attributes: Tensor, triangles: Tensor, triangle_id: Tensor, barycentrics: Tensor, backend: str) -> Tensor:
    return attributes.new_empty(*triangle_id.shape, attributes.shape[2])


def find_corners(
    attributes: Tensor,  # [F or 1, V, C]
    triangles: Tensor,  # [T, 3]
    triangle_id: Tensor,  # [F, H, W]
) -> tuple[Tensor, Tensor]:  # [N], [N, 3]
    """Finds the covered pixels and the rows of the table of all frames' attributes at the corners that they see."""
    _, height, width = triangle_id.shape
    ids = triangle_id.reshape(-1)
    covered = places((ids >= 0) & (ids < len(triangles)))
    corners = triangles.index_select(0, ids.index_select(0, covered)).long()
    if len(attributes) > 1:
        corners = corners + (covered // (height * width) * attributes.shape[1])[:, None]
    return covered, corners


_interpolate = register(
    "interpolate", _forward, _backward, _fake, outputs=("out",), gradients_to=("attributes", "barycentrics")
)
