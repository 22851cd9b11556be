"""Kernel of the gradient of rasterisation: from the pixels' barycentrics, derivatives and depth to the vertices."""
# It knows neither launch options nor that functions of a kernel return something.
# pyright: reportCallIssue=false, reportGeneralTypeIssues=false, reportArgumentType=false

import torch
import triton
import triton.language as tl
from torch import Tensor

from .common.backend import lanes, on_device
from .common.fixed_point import fixed_point_scale, from_fixed_point
from .common.projection_triton import load_camera
from .rasterize_locate_torch import DEGENERATE
from .rasterize_project_triton import OPTIONS
from .rasterize_rules_triton import load_row, viewport

_DEGENERATE = tl.constexpr(DEGENERATE)
_NOTHING = tl.constexpr(torch.iinfo(torch.int32).max)


@triton.jit
def _add(total_ptr, at, gradient, scale, covered, alone, CLIP: tl.constexpr):
    """Adds a gradient in fixed point: every lane its own, or, where all see one triangle, their sum at once."""
    for k in tl.static_range(4 if CLIP else 3):
        fixed = tl.where(covered, gradient[k] * scale, 0.0).to(tl.int64)
        if alone:
            tl.atomic_add(total_ptr + tl.max(tl.where(covered, at, 0), 0) + k, tl.sum(fixed, 0), sem="relaxed")
        else:
            tl.atomic_add(total_ptr + at + k, fixed, mask=covered, sem="relaxed")


@triton.jit
def _load_corner(vertices_ptr, at, mask, CLIP: tl.constexpr):
    """Loads a corner: x, y and z of camera space, or x, y and w of clip space; and the latter's z."""
    x, y = tl.load(vertices_ptr + at, mask=mask, other=0), tl.load(vertices_ptr + at + 1, mask=mask, other=0)
    third = tl.load(vertices_ptr + at + 2, mask=mask, other=0)
    if CLIP:
        return x, y, tl.load(vertices_ptr + at + 3, mask=mask, other=0), third
    return x, y, third, third


@triton.jit
def rasterize_bwd_kernel(
    vertices_ptr,  # [F, V, 3], [F, V, 4] in clip space, [V, 4] with ranges
    triangles_ptr,  # [T, 3]
    Ks_ptr,  # [F, 3, 3], None in clip space
    triangle_id_ptr,  # [F, H, W] int32
    barycentrics_grad_ptr,  # [F, H, W, 3]
    depth_grad_ptr,  # [F, H, W]
    derivatives_grad_ptr,  # [F, H, W, 4] or None
    scale_ptr,  # [F]
    largest_ptr,  # [F, blocks]
    total_ptr,  # as vertices, int64
    size,
    vertices,  # between those of two frames
    height,
    width,
    blocks,
    CLIP: tl.constexpr,
    MAX_ONLY: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Differentiates barycentrics, depth and derivatives.

    With q_k = K X_k - p z_k the corners around the pixel, b_1 = q_2 x q_0 / S, b_2 = q_0 x q_1 / S and
    z = z_0 + b_1 (z_1 - z_0) + b_2 (z_2 - z_0), where S = (q_1 - q_0) x (q_2 - q_0), differentiated. In clip space w is
    this z, and its own z is interpolated likewise and divided by it. Derivatives: see `_slopes_gradient`.

    Sums in fixed point: a first run with MAX_ONLY finds the largest part of a sum, the second adds them up. Each reads
    20 bytes a pixel, 36 with derivatives, and the vertices once; the second adds 9 or 12 numbers of 8 bytes for a
    covered pixel.
    """
    frame = (tl.program_id(0) // blocks).to(tl.int64)
    place = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    at = frame * size + place
    triangle = tl.load(triangle_id_ptr + at, mask=place < size, other=-1)
    covered = triangle >= 0
    corner = triangles_ptr + triangle.to(tl.int64) * 3
    at0 = (frame * vertices + tl.load(corner, mask=covered, other=0)) * (4 if CLIP else 3)
    at1 = (frame * vertices + tl.load(corner + 1, mask=covered, other=0)) * (4 if CLIP else 3)
    at2 = (frame * vertices + tl.load(corner + 2, mask=covered, other=0)) * (4 if CLIP else 3)
    x, y, z, d = _load_corner(vertices_ptr, at0, covered, CLIP)
    x1, y1, z1, d1 = _load_corner(vertices_ptr, at1, covered, CLIP)
    x2, y2, z2, d2 = _load_corner(vertices_ptr, at2, covered, CLIP)
    # In camera space, where the difference of close corners is exact.
    x1, y1, z1, d1, x2, y2, z2, d2 = x1 - x, y1 - y, z1 - z, d1 - d, x2 - x, y2 - y, z2 - z, d2 - d
    if CLIP:
        k00, k01, k02, k10, k11, k12 = viewport(height, width)
    else:
        k00, k01, k02, k10, k11, k12 = load_camera(Ks_ptr, frame)
    k02 -= (place % width).to(tl.float32) + 0.5
    k12 -= (place // width).to(tl.float32) + 0.5
    qx, qy = k00 * x + k01 * y + k02 * z, k10 * x + k11 * y + k12 * z
    ax, ay = k00 * x1 + k01 * y1 + k02 * z1, k10 * x1 + k11 * y1 + k12 * z1
    bx, by = k00 * x2 + k01 * y2 + k02 * z2, k10 * x2 + k11 * y2 + k12 * z2
    area = ax * by - ay * bx
    covered &= tl.abs(area) > (tl.abs(ax * by) + tl.abs(ay * bx)) * _DEGENERATE
    area = tl.where(covered, area, 1.0)
    b1, b2 = (bx * qy - by * qx) / area, (qx * ay - qy * ax) / area
    covered &= tl.abs(b1) + tl.abs(b2) < float("inf")  # products of large corners overflow
    grad = barycentrics_grad_ptr + at * 3
    g0 = tl.load(grad, mask=covered, other=0)
    gz = tl.load(depth_grad_ptr + at, mask=covered, other=0)  # of z, and in clip space gd of its own
    g1, g2 = tl.load(grad + 1, mask=covered, other=0) - g0, tl.load(grad + 2, mask=covered, other=0) - g0
    gd = 0.0
    if CLIP:
        depth, w = d + b1 * d1 + b2 * d2, z + b1 * z1 + b2 * z2
        covered &= tl.abs(w) > (tl.abs(z) + tl.abs(b1 * z1) + tl.abs(b2 * z2)) * _DEGENERATE
        w = tl.where(covered, w, 1.0)
        gd = gz / w
        gz = -gd * depth / w
        g1, g2 = g1 + gd * d1, g2 + gd * d2
    g1, g2 = g1 + gz * z1, g2 + gz * z2
    gz0, gz1, gz2 = gz * (1 - b1 - b2), gz * b1, gz * b2
    gqx, gqy, gax, gay, gbx, gby, gs = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    if derivatives_grad_ptr is not None:
        up0x, up0y, up1x, up1y = load_row(derivatives_grad_ptr, at, covered)
        grads, others, gqy, gay, gby = _slope_gradient(up1x - up0x, -up0x, qy, ay, by, z, z1, z2, b1, b2, area)
        g1, g2, gs = g1 + grads[0], g2 + grads[1], grads[2]
        gz0, gz1, gz2 = gz0 + others[0] - others[1] - others[2], gz1 + others[1], gz2 + others[2]
        grads, others, gqx, gax, gbx = _slope_gradient(up0y - up1y, up0y, qx, ax, bx, z, z1, z2, b1, b2, area)
        g1, g2, gs = g1 + grads[0], g2 + grads[1], gs + grads[2]
        gz0, gz1, gz2 = gz0 + others[0] - others[1] - others[2], gz1 + others[1], gz2 + others[2]
    g1, g2 = g1 / area, g2 / area
    gs -= g1 * b1 + g2 * b2  # of the area
    gax, gay = gax + gs * by - g2 * qy, gay + g2 * qx - gs * bx
    gbx, gby = gbx + g1 * qy - gs * ay, gby + gs * ax - g1 * qx
    gqx, gqy = gqx + g2 * ay - g1 * by - gax - gbx, gqy + g1 * bx - g2 * ax - gay - gby
    gx0, gy0, gz0 = k00 * gqx + k10 * gqy, k01 * gqx + k11 * gqy, k02 * gqx + k12 * gqy + gz0
    gx1, gy1, gz1 = k00 * gax + k10 * gay, k01 * gax + k11 * gay, k02 * gax + k12 * gay + gz1
    gx2, gy2, gz2 = k00 * gbx + k10 * gby, k01 * gbx + k11 * gby, k02 * gbx + k12 * gby + gz2
    if CLIP:
        first, second, third = (gx0, gy0, gd * (1 - b1 - b2), gz0), (gx1, gy1, gd * b1, gz1), (gx2, gy2, gd * b2, gz2)
    else:
        first, second, third = (gx0, gy0, gz0), (gx1, gy1, gz1), (gx2, gy2, gz2)
    if MAX_ONLY:
        largest = tl.maximum(_largest(first, CLIP), tl.maximum(_largest(second, CLIP), _largest(third, CLIP)))
        tl.store(largest_ptr + tl.program_id(0), tl.max(tl.where(covered, largest, 0.0), 0))
    else:
        highest = tl.max(tl.where(covered, triangle, -1), 0)
        scale = tl.load(scale_ptr + frame)
        if highest >= 0:
            if scale == scale:  # otherwise the sums become NaN, whatever is added
                alone = tl.min(tl.where(covered, triangle, _NOTHING), 0) == highest
                _add(total_ptr, at0, first, scale, covered, alone, CLIP)
                _add(total_ptr, at1, second, scale, covered, alone, CLIP)
                _add(total_ptr, at2, third, scale, covered, alone, CLIP)


@triton.jit
def _slope_gradient(g1, g2, q, a, b, z, az, bz, b1, b2, area):
    """Differentiates how b_1 and b_2 change with the pixel's column, (n - b s) / S; q, a, b are the y of the corners.

    n_1 = b z - z_b q, n_2 = z_a q - a z and s = z_b a - z_a b are the changes of what b_1 S, b_2 S and S are. With x
    for y this is minus the change with the row. Returns the gradients of (b_1, b_2, S), of (z, z_a, z_b), and of q, a,
    b.
    """
    g1, g2 = g1 / area, g2 / area
    s = bz * a - az * b
    gs = -(g1 * b1 + g2 * b2)
    to_area = -(g1 * (b * z - bz * q - b1 * s) + g2 * (az * q - a * z - b2 * s)) / area
    to_z = g1 * b - g2 * a, g2 * q - gs * b, gs * a - g1 * q
    return (-g1 * s, -g2 * s, to_area), to_z, g2 * az - g1 * bz, gs * bz - g2 * z, g1 * z - gs * az


@triton.jit
def _largest(gradient, CLIP: tl.constexpr):
    """Bounds the magnitudes of a vertex's numbers from above; inf where one is not finite."""
    bound = tl.abs(gradient[0])
    for k in tl.static_range(1, 4 if CLIP else 3):
        bound += tl.abs(gradient[k])
    return tl.where(bound < float("inf"), bound, float("inf"))


def gradient(
    vertices: Tensor,  # [F, V, 3], [F, V, 4] in clip space, [V, 4] with ranges
    triangles: Tensor,  # [T, 3]
    Ks: Tensor | None,  # [F, 3, 3]
    triangle_id: Tensor,  # [F, H, W]
    barycentrics_grad: Tensor,  # [F, H, W, 3]
    depth_grad: Tensor,  # [F, H, W]
    derivatives_grad: Tensor | None = None,  # [F, H, W, 4]
) -> Tensor:  # as vertices
    """Computes the gradient of the vertices, with the same bits in every run.

    Without ranges those of a frame are the same whatever the others are.
    """
    frames, height, width = triangle_id.shape
    size, shared = height * width, vertices.ndim == 2
    block = min(lanes(128), max(128, triton.next_power_of_2(size)))
    blocks = triton.cdiv(size, block)
    total = torch.zeros(vertices.shape, dtype=torch.int64, device=vertices.device)
    if frames == 0:
        return total.float()
    largest = torch.empty(frames, blocks, dtype=torch.float32, device=vertices.device)
    arguments = (
        vertices,
        triangles,
        None if Ks is None else Ks.contiguous(),
        triangle_id,
        barycentrics_grad.contiguous(),
        depth_grad.contiguous(),
        None if derivatives_grad is None else derivatives_grad.contiguous(),
    )
    sizes = size, 0 if shared else vertices.shape[1], height, width, blocks
    scale = largest
    with on_device(vertices):
        for max_only in (True, False):
            rasterize_bwd_kernel[(frames * blocks,)](
                *(*arguments, scale, largest, total, *sizes),
                CLIP=Ks is None,
                MAX_ONLY=max_only,
                BLOCK=block,
                **OPTIONS,
            )
            if max_only and shared:  # all frames add to one sum
                scale = fixed_point_scale(largest.amax().view(1), frames * size).repeat(frames)
            elif max_only:
                scale = fixed_point_scale(largest.amax(1), size)
    return from_fixed_point(total, scale[:1] if shared else scale)
