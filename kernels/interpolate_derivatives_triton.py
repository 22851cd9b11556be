"""Triton kernels of `interpolate_derivatives`.

Floor at 3.0 TB/s for 32 frames of 240x240, 55,525 vertices, 2 channels (1.84 M pixels). The forward pass reads an id
and 4 derivatives and writes 4 values a pixel, 36 bytes, and reads the attributes that are seen: 66 + 14 MB, 27 us. The
backward pass reads 36 bytes a pixel twice (once for the largest, which sets the scale of the sums), attributes, and
writes 16 bytes a pixel; the sums are 8 bytes an attribute, cleared, added to and read, and 4 are written: 133 + 29 + 14
+ 71 MB, 82 us.

Tiles, lookups and fixed-point sums are those of `interpolate`.
"""
# Launch options and constexprs are unknown to it.
# pyright: reportCallIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false

import triton
import triton.language as tl
from torch import Tensor

from .common.corners_triton import Kernels, find_pixels, load_triples, weight_corners, weight_corners_backward
from .common.fixed_point_triton import add_fixed


def interpolate_derivatives_triton(
    attributes: Tensor,  # [F or 1, V, n] float32
    triangles: Tensor,  # [T, 3]
    triangle_id: Tensor,  # [F, H, W]
    derivatives: Tensor,  # [F, H, W, 4] float32
) -> Tensor:  # [F, H, W, 2 * n]
    """Differentiates by the pixel, by kernels."""
    return weight_corners(_kernels(), attributes, triangles, triangle_id, derivatives)


def interpolate_derivatives_triton_backward(
    wanted: list[bool],
    grad_out: Tensor,  # [F, H, W, 2 * n]
    attributes: Tensor,  # [F or 1, V, n]
    triangles: Tensor,  # [T, 3]
    triangle_id: Tensor,  # [F, H, W]
    derivatives: Tensor,  # [F, H, W, 4]
) -> list[Tensor]:  # as attributes, as derivatives
    """Differentiates by attributes and derivatives."""
    return weight_corners_backward(_kernels(), wanted, grad_out, attributes, triangles, triangle_id, derivatives)


def _kernels() -> Kernels:
    return Kernels(
        interpolate_derivatives_fwd_kernel,
        interpolate_derivatives_peak_kernel,
        interpolate_derivatives_bwd_kernel,
        values=2,
    )


@triton.jit
def _slopes(derivatives_ptr, at, hit):
    """Loads the derivatives of the first two barycentrics by x and y, 0 where there is no hit."""
    x0 = tl.load(derivatives_ptr + 4 * at, mask=hit, other=0)
    y0 = tl.load(derivatives_ptr + 4 * at + 1, mask=hit, other=0)
    x1 = tl.load(derivatives_ptr + 4 * at + 2, mask=hit, other=0)
    y1 = tl.load(derivatives_ptr + 4 * at + 3, mask=hit, other=0)
    return x0, y0, x1, y1


@triton.jit
def _pairs(grad_out_ptr, at, channel, seen, CHANNELS: tl.constexpr):
    """Loads the gradients of each channel's derivatives by x and y, [BLOCK, CHANNEL_BLOCK] both."""
    ptr = grad_out_ptr + 2 * (at[:, None] * CHANNELS + channel[None, :])
    return tl.load(ptr, mask=seen, other=0), tl.load(ptr + 1, mask=seen, other=0)


@triton.jit
def interpolate_derivatives_fwd_kernel(
    attributes_ptr,  # [F or 1, V, n]
    triangles_ptr,  # [T, 3]
    triangle_id_ptr,  # [F, H, W]
    derivatives_ptr,  # [F, H, W, 4]
    out_ptr,  # [F, H, W, 2 * n]
    stride,  # between the attributes of two frames, 0 where they share them
    triangles,
    pixels,  # H * W
    CHANNELS: tl.constexpr,
    BLOCK: tl.constexpr,
    CHANNEL_BLOCK: tl.constexpr,
):
    """Differentiates, a lane per pixel and channel."""
    frame, exists, at, triangle, hit = find_pixels(triangle_id_ptr, triangles, pixels, BLOCK)
    i0, i1, i2 = load_triples(triangles_ptr, triangle, hit)
    x0, y0, x1, y1 = _slopes(derivatives_ptr, at, hit)
    base = attributes_ptr + frame * stride
    for first in range(0, CHANNELS, CHANNEL_BLOCK):
        channel = first + tl.arange(0, CHANNEL_BLOCK)[None, :]
        inside = channel < CHANNELS
        seen = hit[:, None] & inside
        a2 = tl.load(base + i2.to(tl.int64)[:, None] * CHANNELS + channel, mask=seen, other=0)
        e0 = tl.load(base + i0.to(tl.int64)[:, None] * CHANNELS + channel, mask=seen, other=0) - a2
        e1 = tl.load(base + i1.to(tl.int64)[:, None] * CHANNELS + channel, mask=seen, other=0) - a2
        into = out_ptr + 2 * (at[:, None] * CHANNELS + channel)
        tl.store(into, e0 * x0[:, None] + e1 * x1[:, None], mask=exists[:, None] & inside)
        tl.store(into + 1, e0 * y0[:, None] + e1 * y1[:, None], mask=exists[:, None] & inside)


@triton.jit
def interpolate_derivatives_peak_kernel(
    triangle_id_ptr,  # [F, H, W]
    derivatives_ptr,  # [F, H, W, 4]
    grad_out_ptr,  # [F, H, W, 2 * n]
    peaks_ptr,  # [F] int32, 0: bits of the largest contribution to a gradient, which order as the numbers do, NaN last
    triangles,
    pixels,  # H * W
    CHANNELS: tl.constexpr,
    BLOCK: tl.constexpr,
    CHANNEL_BLOCK: tl.constexpr,
):
    """Finds what bounds the fixed-point sums of a frame; gradients of empty pixels, whatever they are, do not count."""
    frame, _, at, _, hit = find_pixels(triangle_id_ptr, triangles, pixels, BLOCK)
    x0, y0, x1, y1 = _slopes(derivatives_ptr, at, hit)
    peak = tl.zeros([BLOCK, CHANNEL_BLOCK], tl.int32)
    for first in range(0, CHANNELS, CHANNEL_BLOCK):
        channel = first + tl.arange(0, CHANNEL_BLOCK)
        seen = hit[:, None] & (channel < CHANNELS)[None, :]
        by_x, by_y = _pairs(grad_out_ptr, at, channel, seen, CHANNELS)
        g0 = by_x * x0[:, None] + by_y * y0[:, None]
        g1 = by_x * x1[:, None] + by_y * y1[:, None]
        peak = tl.maximum(peak, tl.abs(g0).to(tl.int32, bitcast=True))
        peak = tl.maximum(peak, tl.abs(g1).to(tl.int32, bitcast=True))
        peak = tl.maximum(peak, tl.abs(g0 + g1).to(tl.int32, bitcast=True))
    peak = tl.max(peak)
    tl.atomic_max(peaks_ptr + frame, peak, mask=peak > 0, sem="relaxed")


@triton.jit
def interpolate_derivatives_bwd_kernel(
    attributes_ptr,  # [F or 1, V, n]
    triangles_ptr,  # [T, 3]
    triangle_id_ptr,  # [F, H, W]
    derivatives_ptr,  # [F, H, W, 4]
    grad_out_ptr,  # [F, H, W, 2 * n]
    scale_ptr,  # [F or 1]
    total_ptr,  # [F or 1, V, n] int64, 0: the gradient of the attributes in fixed point
    grad_derivatives_ptr,  # [F, H, W, 4]
    stride,  # between the attributes of two frames, 0 where they share them
    triangles,
    pixels,  # H * W
    CHANNELS: tl.constexpr,
    TO_ATTRIBUTES: tl.constexpr,
    TO_WEIGHTS: tl.constexpr,
    BLOCK: tl.constexpr,
    CHANNEL_BLOCK: tl.constexpr,
):
    """Adds up gradients, a lane per pixel and channel; what needs no gradient is neither read nor written."""
    frame, exists, at, triangle, hit = find_pixels(triangle_id_ptr, triangles, pixels, BLOCK)
    i0, i1, i2 = load_triples(triangles_ptr, triangle, hit)
    i0, i1, i2 = i0.to(tl.int64) * CHANNELS, i1.to(tl.int64) * CHANNELS, i2.to(tl.int64) * CHANNELS
    offset = frame * stride
    x0, y0, x1, y1, scale, one_row = 0.0, 0.0, 0.0, 0.0, 0.0, False
    if TO_ATTRIBUTES:
        x0, y0, x1, y1 = _slopes(derivatives_ptr, at, hit)
        scale = tl.load(scale_ptr + tl.where(stride > 0, frame, 0))
        # Sums of a program that sees one triangle are made in it, see `interpolate_bwd_kernel`.
        one_row = tl.min(tl.where(hit, triangle, triangles)) == tl.max(tl.where(hit, triangle, -1))
    to_x0 = tl.zeros([BLOCK], tl.float32)
    to_y0, to_x1, to_y1 = to_x0, to_x0, to_x0
    for first in range(0, CHANNELS, CHANNEL_BLOCK):
        channel = first + tl.arange(0, CHANNEL_BLOCK)
        seen = hit[:, None] & (channel < CHANNELS)[None, :]
        by_x, by_y = _pairs(grad_out_ptr, at, channel, seen, CHANNELS)
        if TO_ATTRIBUTES:  # first: with the sums over channels alive, 64 of them need more registers than there are
            into = total_ptr + offset
            g0 = by_x * x0[:, None] + by_y * y0[:, None]
            g1 = by_x * x1[:, None] + by_y * y1[:, None]
            add_fixed(into, i0, channel, g0 * scale, CHANNELS, one_row)
            add_fixed(into, i1, channel, g1 * scale, CHANNELS, one_row)
            add_fixed(into, i2, channel, -(g0 + g1) * scale, CHANNELS, one_row)
        if TO_WEIGHTS:
            base = attributes_ptr + offset + channel[None, :]
            a2 = tl.load(base + i2[:, None], mask=seen, other=0)
            e0 = tl.load(base + i0[:, None], mask=seen, other=0) - a2
            e1 = tl.load(base + i1[:, None], mask=seen, other=0) - a2
            to_x0 += tl.sum(by_x * e0, 1)
            to_y0 += tl.sum(by_y * e0, 1)
            to_x1 += tl.sum(by_x * e1, 1)
            to_y1 += tl.sum(by_y * e1, 1)
    if TO_WEIGHTS:
        into = grad_derivatives_ptr + 4 * at
        tl.store(into, to_x0, mask=exists)
        tl.store(into + 1, to_y0, mask=exists)
        tl.store(into + 2, to_x1, mask=exists)
        tl.store(into + 3, to_y1, mask=exists)
