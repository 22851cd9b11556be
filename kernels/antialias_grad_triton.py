"""Kernel of the gradient of `antialias`: from the blended pixels through the crossings to the ends of their edges."""
# Launch options and constexprs are unknown to it.
# pyright: reportCallIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false

import torch
import triton
import triton.language as tl
from torch import Tensor

from .antialias_find_triton import OPTIONS, PIXELS, crossing, edge_ends
from .common.backend import lanes, on_device
from .common.fixed_point import fixed_point_scale, from_fixed_point
from .common.projection_triton import load_camera


def vertex_gradient(
    gradient: Tensor, image: Tensor, vertices: Tensor, triangles: Tensor, Ks: Tensor, codes: Tensor
) -> Tensor:
    """Sums the gradients of the vertices in fixed point: a first launch finds the scale, a second one adds up."""
    frames, height, width, channels = image.shape
    block = lanes(PIXELS)
    programs = 2 * triton.cdiv(height * width, block)
    largest = torch.empty(frames, programs, dtype=torch.float32, device=image.device)
    total = torch.zeros(vertices.shape, dtype=torch.int64, device=image.device)
    scale = largest  # not read in the first launch

    def launch(max_only: bool) -> None:
        antialias_bwd_kernel[(frames * programs,)](
            gradient,
            image,
            vertices,
            triangles,
            Ks,
            codes,
            largest,
            scale,
            total,
            vertices.shape[1],
            height,
            width,
            channels,
            MAX_ONLY=max_only,
            BLOCK=block,
            **OPTIONS,
        )

    with on_device(image):
        launch(max_only=True)
        scale = fixed_point_scale(largest.amax(1), 2 * height * width)  # at most one of each pair for a vertex
        launch(max_only=False)
    return from_fixed_point(total, scale)


@triton.jit
def antialias_bwd_kernel(
    gradient_ptr,  # [F, H, W, C]
    image_ptr,  # [F, H, W, C]
    vertices_ptr,  # [F, V, 3]
    triangles_ptr,  # [T, 3] int32
    Ks_ptr,  # [F, 3, 3]
    code_ptr,  # [F, 2, H, W] int32
    largest_ptr,  # [F, 2 * blocks], only written
    scale_ptr,  # [F]
    sum_ptr,  # [F, V, 3] int64
    vertices,
    height,
    width,
    channels,
    MAX_ONLY: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Sums the gradients of the crossings at the ends of their edges; with MAX_ONLY just how large they get."""
    size = height * width
    blocks = tl.cdiv(size, BLOCK)
    program = tl.program_id(0).to(tl.int64)
    frame = program // blocks // 2
    down = program // blocks % 2 == 1
    first = (program % blocks * BLOCK).to(tl.int32) + tl.arange(0, BLOCK)
    code = tl.load(code_ptr + (program // blocks) * size + first, first < size, other=-1)
    largest = 0.0
    if tl.max(code, 0) >= 0:
        active = code >= 0
        side = code & 1
        sign = 1.0 - 2.0 * side.to(tl.float32)
        second = first + tl.where(down, width, 1)
        p = tl.where(side == 0, first, second)
        q = tl.where(side == 0, second, first)
        points_ptr = vertices_ptr + frame * vertices * 3
        camera = load_camera(Ks_ptr, frame)
        v0, a0, c0, inverse0, v1, a1, c1, inverse1 = edge_ends(
            points_ptr, triangles_ptr, camera, code, p, width, down, sign, active
        )
        changed = tl.where(crossing(a0, c0, a1, c1) < 0.5, p, q)

        image_ptr += frame * size * channels
        gradient_ptr += frame * size * channels
        total = tl.zeros([BLOCK], tl.float32)
        for channel in range(channels):
            near = tl.load(image_ptr + p.to(tl.int64) * channels + channel, active, other=0.0)
            far = tl.load(image_ptr + q.to(tl.int64) * channels + channel, active, other=0.0)
            total += (near - far) * tl.load(gradient_ptr + changed.to(tl.int64) * channels + channel, active, other=0.0)

        # An end moves the crossing by its share of (along - slope across).
        share = -c0 / (c1 - c0)
        slope = (a1 - a0) / (c1 - c0)
        to_u = total * tl.where(down, -slope, sign)
        to_v = total * tl.where(down, sign, -slope)
        x0, y0, z0 = _to_point(points_ptr, v0, camera, inverse0, to_u * (1 - share), to_v * (1 - share), active)
        x1, y1, z1 = _to_point(points_ptr, v1, camera, inverse1, to_u * share, to_v * share, active)
        if MAX_ONLY:
            size0 = tl.abs(x0) + tl.abs(y0) + tl.abs(z0)
            size1 = tl.abs(x1) + tl.abs(y1) + tl.abs(z1)
            # The comparisons are false for NaN, which a maximum would drop.
            sizes = tl.where(size0 < float("inf"), size0, float("inf"))
            sizes = tl.maximum(sizes, tl.where(size1 < float("inf"), size1, float("inf")))
            largest = tl.max(tl.where(active, sizes, 0.0), 0)
        else:
            scale = tl.load(scale_ptr + frame)
            sum_ptr += frame * vertices * 3
            _add(sum_ptr, v0, x0 * scale, y0 * scale, z0 * scale, active)
            _add(sum_ptr, v1, x1 * scale, y1 * scale, z1 * scale, active)
    if MAX_ONLY:
        tl.store(largest_ptr + program, largest)


@triton.jit
def _to_point(
    points_ptr,  # [V, 3]
    vertex,
    camera,
    inverse,
    to_u,
    to_v,
    mask,
):
    """Carries the gradient of a projection back to its vertex."""
    point = points_ptr + vertex.to(tl.int64) * 3
    x = tl.load(point, mask, other=0.0) * inverse
    y = tl.load(point + 1, mask, other=0.0) * inverse
    to_x = (camera[0] * to_u + camera[3] * to_v) * inverse
    to_y = (camera[1] * to_u + camera[4] * to_v) * inverse
    return to_x, to_y, -(to_x * x + to_y * y)


@triton.jit
def _add(
    sum_ptr,  # [V, 3] int64
    vertex,
    x,
    y,
    z,
    mask,
):
    at = sum_ptr + vertex.to(tl.int64) * 3
    tl.atomic_add(at, x.to(tl.int64), mask, sem="relaxed")
    tl.atomic_add(at + 1, y.to(tl.int64), mask, sem="relaxed")
    tl.atomic_add(at + 2, z.to(tl.int64), mask, sem="relaxed")
