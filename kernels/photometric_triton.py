"""Triton kernels of the photometric loss at vertices, and the stages that the one over pixels shares with it."""

# pyright: reportCallIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false
# (launch options such as num_warps are no parameters of a kernel, and what a kernel calls returns values)

import torch
import triton
import triton.language as tl
from torch import Tensor

from .common.backend import lanes, on_device
from .common.projection_triton import image_offset, load_camera


@triton.jit
def rho(squared, ALPHA: tl.constexpr, SCALE: tl.constexpr):
    """Computes the robust cost of a squared difference, and its derivative, by the shape and scale of its family."""
    if ALPHA == 2:
        cost = squared * (1 / SCALE)
        slope = tl.full(squared.shape, 1 / SCALE, tl.float32)
    elif ALPHA == 1:
        root = tl.sqrt(squared + SCALE * SCALE)
        cost = squared / (root + SCALE)  # root - SCALE without cancellation
        slope = 0.5 / root
    else:
        near = SCALE * SCALE / (squared + SCALE * SCALE)  # 1 where the colours agree, 0 far off
        cost = squared * near * (1 / SCALE)
        slope = near * near * (1 / SCALE)
    return cost, slope


@triton.jit
def _bilinear(plane, row0, row1, column0, column1, a, b, mask):
    """Samples one channel bilinearly, with derivatives with respect to column and row."""
    i00 = tl.load(plane + row0 + column0, mask=mask, other=0.0)
    i01 = tl.load(plane + row0 + column1, mask=mask, other=0.0)
    i10 = tl.load(plane + row1 + column0, mask=mask, other=0.0)
    i11 = tl.load(plane + row1 + column1, mask=mask, other=0.0)
    top = i00 + a * (i01 - i00)
    bottom = i10 + a * (i11 - i10)
    dx = (i01 - i00) + b * ((i11 - i10) - (i01 - i00))
    return top + b * (bottom - top), dx, bottom - top


@triton.jit
def photometric_fwd_kernel(
    images_ptr,  # [F, 3, H, W]
    vertices_ptr,  # [F, V, 3]
    Ks_ptr,  # [F, 3, 3]
    colors_ptr,  # [F, V, 3]
    weights_ptr,  # [F, V], not read unless WEIGHTED
    sampled_ptr,  # [F, V, 3] out
    d_vertices_ptr,  # [F, V, 3] out where VERTICES: derivative of the weighted cost of the vertex
    d_colors_ptr,  # [F, V, 3] out where COLORS
    partial_ptr,  # [F, blocks, 2] out: sums of cost and weight
    V,
    H,
    W,
    blocks,
    WEIGHTED: tl.constexpr,
    VERTICES: tl.constexpr,
    COLORS: tl.constexpr,
    ALPHA: tl.constexpr,
    SCALE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Projects, samples and compares, one vertex a lane.

    28 bytes of it are read and 12 to 36 written, beside the images: 64 with both gradients.
    """
    program = tl.program_id(0).to(tl.int64)
    frame = program // blocks
    vertex = (program % blocks) * BLOCK + tl.arange(0, BLOCK)
    exists = vertex < V
    if WEIGHTED:
        weight = tl.load(weights_ptr + frame * V + vertex, mask=exists, other=0.0)
    else:
        weight = exists.to(tl.float32)
    counted = weight != 0  # what does not count is not even read
    at = (frame * V + vertex) * 3
    x = tl.load(vertices_ptr + at, mask=counted, other=0.0)
    y = tl.load(vertices_ptr + at + 1, mask=counted, other=0.0)
    z = tl.load(vertices_ptr + at + 2, mask=counted, other=1.0)
    red = tl.load(colors_ptr + at, mask=counted, other=0.0)
    green = tl.load(colors_ptr + at + 1, mask=counted, other=0.0)
    blue = tl.load(colors_ptr + at + 2, mask=counted, other=0.0)
    camera = load_camera(Ks_ptr, frame)
    fx, skew, cx, _k10, fy, cy = camera
    inverse = 1.0 / z
    from_axis_x, from_axis_y = image_offset(camera, x, y)
    from_axis_x, from_axis_y = from_axis_x * inverse, from_axis_y * inverse
    u, v = from_axis_x + cx - 0.5, from_axis_y + cy - 0.5  # in steps between pixel centres
    moves_x = (u > 0) & (u < W - 1)
    moves_y = (v > 0) & (v < H - 1)
    # Addresses take NaN for 0; the fraction a stays NaN, and so does all that is made of it.
    column = tl.where(u > 0, tl.where(u < W - 1, u, W - 1.0), 0.0).to(tl.int32)
    row = tl.where(v > 0, tl.where(v < H - 1, v, H - 1.0), 0.0).to(tl.int32)
    a = tl.where(moves_x | (u != u), u - column, 0.0)
    b = tl.where(moves_y | (v != v), v - row, 0.0)
    column1 = tl.minimum(column + 1, W - 1)
    row0 = row.to(tl.int64) * W
    row1 = tl.minimum(row + 1, H - 1).to(tl.int64) * W
    plane = images_ptr + frame * 3 * H * W
    size = tl.cast(H, tl.int64) * W
    red_i, red_x, red_y = _bilinear(plane, row0, row1, column, column1, a, b, counted)
    green_i, green_x, green_y = _bilinear(plane + size, row0, row1, column, column1, a, b, counted)
    blue_i, blue_x, blue_y = _bilinear(plane + 2 * size, row0, row1, column, column1, a, b, counted)
    tl.store(sampled_ptr + at, red_i, mask=exists)
    tl.store(sampled_ptr + at + 1, green_i, mask=exists)
    tl.store(sampled_ptr + at + 2, blue_i, mask=exists)
    red, green, blue = red_i - red, green_i - green, blue_i - blue
    cost, slope = rho(red * red + green * green + blue * blue, ALPHA, SCALE)
    scale = 2 * slope * weight
    if COLORS:
        tl.store(d_colors_ptr + at, -scale * red, mask=exists)
        tl.store(d_colors_ptr + at + 1, -scale * green, mask=exists)
        tl.store(d_colors_ptr + at + 2, -scale * blue, mask=exists)
    if VERTICES:
        du = tl.where(moves_x, scale * (red * red_x + green * green_x + blue * blue_x), 0.0) * inverse
        dv = tl.where(moves_y, scale * (red * red_y + green * green_y + blue * blue_y), 0.0) * inverse
        tl.store(d_vertices_ptr + at, fx * du, mask=exists)
        tl.store(d_vertices_ptr + at + 1, skew * du + fy * dv, mask=exists)
        tl.store(d_vertices_ptr + at + 2, -from_axis_x * du - from_axis_y * dv, mask=exists)
    tl.store(partial_ptr + program * 2, tl.sum(cost * weight, 0))
    tl.store(partial_ptr + program * 2 + 1, tl.sum(weight, 0))


@triton.jit
def photometric_mean_kernel(
    partial_ptr,  # [F, blocks, 2]
    loss_ptr,  # [F] out
    total_ptr,  # [F] out: sum of the weights, at least 1
    blocks,
    BLOCK: tl.constexpr,
):
    """Reduces the blocks' sums to the weighted mean, one program a frame."""
    frame = tl.program_id(0).to(tl.int64)
    cost = tl.zeros((BLOCK,), tl.float32)
    weight = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, blocks, BLOCK):
        block = start + tl.arange(0, BLOCK)
        at = partial_ptr + (frame * blocks + block) * 2
        cost += tl.load(at, mask=block < blocks, other=0.0)
        weight += tl.load(at + 1, mask=block < blocks, other=0.0)
    sum_of_weights = tl.sum(weight, 0)
    total = tl.where(sum_of_weights < 1, 1.0, sum_of_weights)  # NaN stays NaN
    tl.store(loss_ptr + frame, tl.sum(cost, 0) / total)
    tl.store(total_ptr + frame, total)


@triton.jit
def photometric_bwd_kernel(
    first_ptr,  # [F, N]
    second_ptr,  # [F, N] or None
    d_loss_ptr,  # [F]
    total_ptr,  # [F]
    first_out_ptr,  # [F, N] out: first * d_loss / total
    second_out_ptr,  # [F, N] out, or None
    N,
    blocks,
    BLOCK: tl.constexpr,
):
    """Scales the local derivatives of one thing or two to gradients; 8 bytes a number."""
    program = tl.program_id(0).to(tl.int64)
    frame = program // blocks
    column = (program % blocks) * BLOCK + tl.arange(0, BLOCK)
    scale = tl.load(d_loss_ptr + frame) / tl.load(total_ptr + frame)
    at = frame * N + column
    local = tl.load(first_ptr + at, mask=column < N, other=0.0)
    tl.store(first_out_ptr + at, tl.where(local == 0, 0.0, local * scale), mask=column < N)  # 0 even if scale is NaN
    if second_ptr is not None:
        local = tl.load(second_ptr + at, mask=column < N, other=0.0)
        tl.store(second_out_ptr + at, tl.where(local == 0, 0.0, local * scale), mask=column < N)


def weighted_mean(
    partial: Tensor,  # [F, blocks, 2]
) -> tuple[Tensor, Tensor]:  # [F], [F]
    """Divides the blocks' sums of cost and weight: the loss, and the sum of the weights, at least 1."""
    frames, blocks, _ = partial.shape
    loss, total = partial.new_empty(frames), partial.new_empty(frames)
    photometric_mean_kernel[(frames,)](partial, loss, total, blocks, BLOCK=1024, num_warps=4)
    return loss, total


def scale_local(
    parts: list[Tensor],  # [F, ...], one or two of one shape
    total: Tensor,  # [F]
    d_loss: Tensor,  # [F]
) -> list[Tensor]:  # [F, ...]
    """Scales the derivatives that the forward pass left to gradients, in one launch."""
    found = [torch.empty_like(local) for local in parts]
    frames = len(total)
    count = parts[0][0].numel() if frames else 0
    block = lanes(1024)
    blocks = triton.cdiv(count, block)
    none = [None] * (2 - len(parts))
    (first, second), (first_out, second_out) = (*parts, *none), (*found, *none)
    with on_device(total):
        photometric_bwd_kernel[(frames * blocks,)](
            first, second, d_loss.contiguous(), total, first_out, second_out, count, blocks, BLOCK=block, num_warps=4
        )
    return found


def photometric_triton(
    images: Tensor,  # [F, 3, H, W]
    vertices: Tensor,  # [F, V, 3]
    Ks: Tensor,  # [F, 3, 3]
    colors: Tensor,  # [F, V, 3]
    weights: Tensor | None,  # [F, V]
    alpha: int,
    scale: float,
    vertices_needed: bool,
    colors_needed: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # [F], [F, V, 3], [F, V, 3] or [0] twice, [F]
    """Computes loss, sampled colours, derivatives of the weighted costs by what needs them, and sums of the weights."""
    frames, count, _ = vertices.shape
    height, width = images.shape[2:]
    sampled = torch.empty_like(vertices)
    to_vertices = torch.empty_like(vertices) if vertices_needed else vertices.new_empty(0)
    to_colors = torch.empty_like(colors) if colors_needed else colors.new_empty(0)
    block = lanes(128)
    blocks = max(1, triton.cdiv(count, block))
    partial = vertices.new_empty(frames, blocks, 2)
    with on_device(vertices):
        photometric_fwd_kernel[(frames * blocks,)](
            images,
            vertices,
            Ks.contiguous(),
            colors,
            weights,
            sampled,
            to_vertices if vertices_needed else None,
            to_colors if colors_needed else None,
            partial,
            count,
            height,
            width,
            blocks,
            WEIGHTED=weights is not None,
            VERTICES=vertices_needed,
            COLORS=colors_needed,
            ALPHA=alpha,
            SCALE=scale,
            BLOCK=block,
            num_warps=4,
        )
        loss, total = weighted_mean(partial)
    return loss, sampled, to_vertices, to_colors, total
