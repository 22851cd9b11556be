"""Kernel of the gradient of `rasterize`: from the pixels' barycentrics and depth to the vertices."""
# It knows neither launch options nor that functions of a kernel return something.
# pyright: reportCallIssue=false, reportGeneralTypeIssues=false, reportArgumentType=false

import torch
import triton
import triton.language as tl
from torch import Tensor

from .common.backend import lanes, on_device
from .common.fixed_point import fixed_point_scale, from_fixed_point
from .common.projection_triton import load_camera
from .rasterize_torch import DEGENERATE

_DEGENERATE = tl.constexpr(DEGENERATE)
_NOTHING = tl.constexpr(torch.iinfo(torch.int32).max)


@triton.jit
def _add(total_ptr, at, gradient, scale, covered, alone):
    """Adds a gradient in fixed point: every lane its own, or, where all see one triangle, their sum at once."""
    for k in tl.static_range(3):
        fixed = tl.where(covered, gradient[k] * scale, 0.0).to(tl.int64)
        if alone:
            tl.atomic_add(total_ptr + tl.max(tl.where(covered, at, 0), 0) + k, tl.sum(fixed, 0), sem="relaxed")
        else:
            tl.atomic_add(total_ptr + at + k, fixed, mask=covered, sem="relaxed")


@triton.jit
def rasterize_bwd_kernel(
    vertices_ptr,  # [F, V, 3]
    triangles_ptr,  # [T, 3]
    Ks_ptr,  # [F, 3, 3]
    triangle_id_ptr,  # [F, H, W] int32
    barycentrics_grad_ptr,  # [F, H, W, 3]
    depth_grad_ptr,  # [F, H, W]
    scale_ptr,  # [F]
    largest_ptr,  # [F, blocks]
    total_ptr,  # [F, V, 3] int64
    size,
    vertices,
    width,
    blocks,
    MAX_ONLY: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Differentiates barycentrics and depth.

    With q_k = K X_k - p z_k the corners around the pixel, b_1 = q_2 x q_0 / S, b_2 = q_0 x q_1 / S and
    z = z_0 + b_1 (z_1 - z_0) + b_2 (z_2 - z_0), where S = (q_1 - q_0) x (q_2 - q_0), differentiated.

    Sums in fixed point: a first run with MAX_ONLY finds the largest part of a sum, the second adds them up. Each reads
    20 bytes a pixel, and the vertices once; the second adds 9 numbers of 8 bytes for a covered pixel.
    """
    frame = (tl.program_id(0) // blocks).to(tl.int64)
    place = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    at = frame * size + place
    triangle = tl.load(triangle_id_ptr + at, mask=place < size, other=-1)
    covered = triangle >= 0
    corner = triangles_ptr + triangle.to(tl.int64) * 3
    at0 = (frame * vertices + tl.load(corner, mask=covered, other=0)) * 3
    at1 = (frame * vertices + tl.load(corner + 1, mask=covered, other=0)) * 3
    at2 = (frame * vertices + tl.load(corner + 2, mask=covered, other=0)) * 3
    x = tl.load(vertices_ptr + at0, mask=covered, other=0)
    y = tl.load(vertices_ptr + at0 + 1, mask=covered, other=0)
    z = tl.load(vertices_ptr + at0 + 2, mask=covered, other=0)
    # In camera space, where the difference of close corners is exact.
    x1 = tl.load(vertices_ptr + at1, mask=covered, other=0) - x
    y1 = tl.load(vertices_ptr + at1 + 1, mask=covered, other=0) - y
    z1 = tl.load(vertices_ptr + at1 + 2, mask=covered, other=0) - z
    x2 = tl.load(vertices_ptr + at2, mask=covered, other=0) - x
    y2 = tl.load(vertices_ptr + at2 + 1, mask=covered, other=0) - y
    z2 = tl.load(vertices_ptr + at2 + 2, mask=covered, other=0) - z
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
    grad = barycentrics_grad_ptr + at * 3
    g0 = tl.load(grad, mask=covered, other=0)
    gz = tl.load(depth_grad_ptr + at, mask=covered, other=0)
    g1 = (tl.load(grad + 1, mask=covered, other=0) - g0 + gz * z1) / area
    g2 = (tl.load(grad + 2, mask=covered, other=0) - g0 + gz * z2) / area
    gs = -(g1 * b1 + g2 * b2)  # of the area
    gax, gay = gs * by - g2 * qy, g2 * qx - gs * bx
    gbx, gby = g1 * qy - gs * ay, gs * ax - g1 * qx
    gqx, gqy = g2 * ay - g1 * by - gax - gbx, g1 * bx - g2 * ax - gay - gby
    gz0, gz1, gz2 = gz * (1 - b1 - b2), gz * b1, gz * b2
    first = k00 * gqx + k10 * gqy, k01 * gqx + k11 * gqy, k02 * gqx + k12 * gqy + gz0
    second = k00 * gax + k10 * gay, k01 * gax + k11 * gay, k02 * gax + k12 * gay + gz1
    third = k00 * gbx + k10 * gby, k01 * gbx + k11 * gby, k02 * gbx + k12 * gby + gz2
    if MAX_ONLY:
        largest = tl.maximum(_largest(first), tl.maximum(_largest(second), _largest(third)))
        tl.store(largest_ptr + tl.program_id(0), tl.max(tl.where(covered, largest, 0.0), 0))
    else:
        highest = tl.max(tl.where(covered, triangle, -1), 0)
        scale = tl.load(scale_ptr + frame)
        if highest >= 0:
            if scale == scale:  # otherwise the sums become NaN, whatever is added
                alone = tl.min(tl.where(covered, triangle, _NOTHING), 0) == highest
                _add(total_ptr, at0, first, scale, covered, alone)
                _add(total_ptr, at1, second, scale, covered, alone)
                _add(total_ptr, at2, third, scale, covered, alone)


@triton.jit
def _largest(gradient):
    """Bounds the magnitudes of three numbers from above; inf where one is not finite."""
    x, y, z = gradient
    bound = tl.abs(x) + tl.abs(y) + tl.abs(z)
    return tl.where(bound < float("inf"), bound, float("inf"))


def gradient(
    vertices: Tensor,  # [F, V, 3]
    triangles: Tensor,  # [T, 3]
    Ks: Tensor,  # [F, 3, 3]
    triangle_id: Tensor,  # [F, H, W]
    barycentrics_grad: Tensor,  # [F, H, W, 3]
    depth_grad: Tensor,  # [F, H, W]
) -> Tensor:  # [F, V, 3]
    """Computes the gradient of the vertices; the same bits for a frame whatever the others are, and in every run."""
    frames, height, width = triangle_id.shape
    size = height * width
    block = min(lanes(128), max(128, triton.next_power_of_2(size)))
    blocks = triton.cdiv(size, block)
    total = torch.zeros(vertices.shape, dtype=torch.int64, device=vertices.device)
    if frames == 0:
        return total.float()
    largest = torch.empty(frames, blocks, dtype=torch.float32, device=vertices.device)
    arguments = (
        vertices,
        triangles,
        Ks.contiguous(),
        triangle_id,
        barycentrics_grad.contiguous(),
        depth_grad.contiguous(),
    )
    scale = largest
    with on_device(vertices):
        for max_only in (True, False):
            rasterize_bwd_kernel[(frames * blocks,)](
                *(*arguments, scale, largest, total, size, vertices.shape[1], width, blocks),
                MAX_ONLY=max_only,
                BLOCK=block,
                num_warps=4,
            )
            if max_only:
                scale = fixed_point_scale(largest.amax(1), size)
    return from_fixed_point(total, scale)
