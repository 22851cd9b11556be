"""Where the rays of pixels meet the triangles that they see, in plain torch and with gradients."""

from functools import partial

import torch
from torch import Tensor

from .common.custom_op import pull_back
from .common.gather import add_rows, places
from .common.viewport import viewport_camera
from .rasterize_windows_torch import CHUNK

DEGENERATE = 1e-7
"""A triangle's area, or its w at a pixel, over the terms that it is the sum of: below is rounding."""
LARGE = 2.0**33
"""A coordinate whose products with others and with intrinsics are far from overflow."""
MOST = 2.0**100
"""A coordinate from which on its products with gradients may overflow: nothing moves such a corner."""


def gradient(
    vertices: Tensor,  # [F, V, 3], [F, V, 4] in clip space, [V, 4] with ranges
    triangles: Tensor,  # [T, 3]
    Ks: Tensor | None,  # [F, 3, 3]
    triangle_id: Tensor,  # [F, H, W]
    barycentrics_grad: Tensor,  # [F, H, W, 3]
    depth_grad: Tensor,  # [F, H, W]
    derivatives_grad: Tensor | None = None,  # [F, H, W, 4]
) -> Tensor:  # as vertices
    """Computes the gradient of the vertices: `locate` differentiated, a bounded number of pixels at a time."""
    total = torch.zeros_like(vertices).view(-1, vertices.shape[-1])
    upstream = [a for a in (barycentrics_grad, depth_grad, derivatives_grad) if a is not None]
    for pixel in places(triangle_id >= 0).split(CHUNK):
        ids, corners, K, at = _gather(vertices, triangles, Ks, triangle_id, pixel)
        located = partial(_locate, K=K, at=at, derivatives=derivatives_grad is not None)
        grads = tuple(a.reshape(-1, *a.shape[3:]).index_select(0, pixel) for a in upstream)
        _, pull, _ = pull_back(lambda corners, located=located: (located(corners), ()), [corners], [True])
        (part,) = pull(grads)
        total = add_rows(total, ids.view(-1), part.flatten(0, 1))  # one pixel after the other, wherever the chunks end
    return total.view(vertices.shape)


def locate(
    vertices: Tensor,  # [F, V, 3], [F, V, 4] in clip space, [V, 4] with ranges
    triangles: Tensor,  # [T, 3]
    Ks: Tensor | None,  # [F, 3, 3], None in clip space
    triangle_id: Tensor,  # [F, H, W]
    derivatives: bool = False,
) -> tuple[Tensor, ...]:  # [F, H, W, 3], [F, H, W], and if asked for [F, H, W, 4]
    """Intersects each pixel's ray with the plane of the triangle seen there: barycentrics, depth and derivatives.

    The same numbers as those of the rasteriser but for rounding, differentiable, in float32 or float64. Empty pixels,
    and triangles whose area or w is lost in rounding or that have a corner beyond MOST, have zero gradients.
    """
    pixel = places(triangle_id >= 0)
    _, corners, K, at = _gather(vertices, triangles, Ks, triangle_id, pixel)
    weights, depth, *slopes = _locate(corners, K, at, derivatives)
    barycentrics = weights.new_zeros(triangle_id.numel(), 3).index_copy(0, pixel, weights)
    depth = depth.new_full((triangle_id.numel(),), torch.inf).index_copy(0, pixel, depth)
    slopes = [a.new_zeros(triangle_id.numel(), 4).index_copy(0, pixel, a).view(*triangle_id.shape, 4) for a in slopes]
    return barycentrics.view(*triangle_id.shape, 3), depth.view(triangle_id.shape), *slopes


def _gather(
    vertices: Tensor, triangles: Tensor, Ks: Tensor | None, triangle_id: Tensor, pixel: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rows [N, 3] and positions [N, 3, C] of the corners seen at pixels [N], cameras [N, 2, 3], centres [N, 2]."""
    frames, height, width = triangle_id.shape
    line = pixel // width
    frame = line // height
    triangle = triangle_id.view(-1).index_select(0, pixel)
    stride = vertices.shape[1] if vertices.ndim == 3 else 0
    ids = triangles.index_select(0, triangle).long() + (frame * stride)[:, None]
    at = torch.stack([pixel - line * width, line - frame * height], 1).to(vertices.dtype) + 0.5
    if Ks is None:
        Ks = viewport_camera(frames, height, width, vertices)
    return ids, vertices.reshape(-1, vertices.shape[-1])[ids], Ks[:, :2].index_select(0, frame), at


def _locate(
    corners: Tensor,  # [N, 3, 3] camera space, [N, 3, 4] clip space
    K: Tensor,  # [N, 2, 3] first rows of the intrinsics
    at: Tensor,  # [N, 2] pixels
    derivatives: bool,
) -> tuple[Tensor, ...]:  # [N, 3], [N], [N, 4]
    """Solves for barycentrics and depth by Cramer's rule.

    With q_k = K X_k - p z_k the corners around the pixel, sum_k b_k q_k = 0 and sum_k b_k = 1. In clip space (x, y, w)
    are X, and the depth is sum_k b_k z_k / sum_k b_k w_k. Where corners are beyond LARGE, all three are scaled by a
    power of two, so that products stay finite.
    """
    largest = corners.detach().abs().amax((1, 2)).clamp(min=LARGE / 2)
    scale = LARGE * torch.frexp(largest).mantissa / largest  # [N]
    corners = corners * scale[:, None, None]
    A = torch.cat([K[..., :2], K[..., 2:] - at[..., None]], -1)
    clip = corners.shape[2] == 4
    origin, *sides = (torch.cat([corners[..., :2], corners[..., 3:]], -1) if clip else corners).unbind(1)
    sides = [side - origin for side in sides]  # in camera space, where the difference of close corners is exact
    (x, y), (ax, ay), (bx, by) = ((A @ v[..., None])[..., 0].unbind(-1) for v in (origin, *sides))
    area = ax * by - ay * bx
    proper = (area.abs() > DEGENERATE * ((ax * by).abs() + (ay * bx).abs())) & (largest < MOST)
    area = torch.where(proper, area, 1)
    first, second = (torch.where(proper, w, 0) / area for w in (bx * y - by * x, x * ay - y * ax))
    if clip:
        w = torch.stack([origin[:, 2], first * sides[0][:, 2], second * sides[1][:, 2]]).detach()
        proper = proper & (w.sum(0).abs() > DEGENERATE * w.abs().sum(0))
        first, second = torch.where(proper, first, 0), torch.where(proper, second, 0)
    # A pixel sees a degenerate triangle only by rounding; nothing moves it.
    still = [torch.where(proper, v[:, 2], v[:, 2].detach()) for v in (origin, *sides)]
    depth = still[0] + first * still[1] + second * still[2]
    if clip:
        z = torch.where(proper[:, None], corners[..., 2], corners[..., 2].detach())
        depth = (z[:, 0] + first * (z[:, 1] - z[:, 0]) + second * (z[:, 2] - z[:, 0])) / depth
    else:
        depth = depth / scale
    barycentrics = torch.stack([1 - first - second, first, second], -1)
    if not derivatives:
        return barycentrics, depth
    # How these products change with the pixel, which moves q_k by -z_k.
    z, az, bz = (v[:, 2] for v in (origin, *sides))
    slopes = []
    for sign, q, a, b in ((1, y, ay, by), (-1, x, ax, bx)):
        to_area = bz * a - az * b
        changes = b * z - bz * q - first * to_area, az * q - a * z - second * to_area
        slope1, slope2 = (sign * torch.where(proper, change, 0) / area for change in changes)
        slopes.append(torch.stack([-slope1 - slope2, slope1], -1))
    return barycentrics, depth, torch.stack(slopes, -1).flatten(1)
