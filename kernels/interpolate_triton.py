"""Triton kernels of `interpolate`.

Floor at 3.0 TB/s for 32 frames of 240x240, 55,525 vertices, 3 channels (1.84 M pixels). The forward pass reads an id
and 3 weights and writes 3 values a pixel, 28 bytes, and reads the attributes that are seen: 52 + 21 MB, 24 us. The
backward pass reads 28 bytes a pixel twice (once for the largest, which sets the scale of the sums), attributes, and
writes 12 bytes a pixel; the sums are 8 bytes an attribute, cleared, added to and read, and 4 are written: 103 + 21 + 22
+ 107 MB, 85 us.

A tile holds pixels x channels, so that the channels of a vertex are fetched, and added to, in one memory transaction.
"""
# Launch options and constexprs are unknown to it.
# pyright: reportCallIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false

import triton
import triton.language as tl
from torch import Tensor

from .common.corners_triton import Kernels, find_pixels, load_triples, weight_corners, weight_corners_backward
from .common.fixed_point_triton import add_fixed


def interpolate_triton(
    attributes: Tensor,  # [F or 1, V, C] float32
    triangles: Tensor,  # [T, 3]
    triangle_id: Tensor,  # [F, H, W]
    barycentrics: Tensor,  # [F, H, W, 3] float32
) -> Tensor:  # [F, H, W, C]
    """Interpolates by kernels."""
    return weight_corners(_kernels(), attributes, triangles, triangle_id, barycentrics)


def interpolate_triton_backward(
    wanted: list[bool],
    grad_out: Tensor,  # [F, H, W, C]
    attributes: Tensor,  # [F or 1, V, C]
    triangles: Tensor,  # [T, 3]
    triangle_id: Tensor,  # [F, H, W]
    barycentrics: Tensor,  # [F, H, W, 3]
) -> list[Tensor]:  # as attributes, as barycentrics
    """Differentiates by attributes and barycentrics."""
    return weight_corners_backward(_kernels(), wanted, grad_out, attributes, triangles, triangle_id, barycentrics)


def _kernels() -> Kernels:
    return Kernels(interpolate_fwd_kernel, interpolate_peak_kernel, interpolate_bwd_kernel, values=1)


@triton.jit
def interpolate_fwd_kernel(
    attributes_ptr,  # [F or 1, V, C]
    triangles_ptr,  # [T, 3]
    triangle_id_ptr,  # [F, H, W]
    barycentrics_ptr,  # [F, H, W, 3]
    out_ptr,  # [F, H, W, C]
    stride,  # between the attributes of two frames, 0 where they share them
    triangles,
    pixels,  # H * W
    CHANNELS: tl.constexpr,
    BLOCK: tl.constexpr,
    CHANNEL_BLOCK: tl.constexpr,
):
    """Interpolates, a lane per pixel and channel."""
    frame, exists, at, triangle, hit = find_pixels(triangle_id_ptr, triangles, pixels, BLOCK)
    i0, i1, i2 = load_triples(triangles_ptr, triangle, hit)
    b0, b1, b2 = load_triples(barycentrics_ptr, at, hit)
    base = attributes_ptr + frame * stride
    for first in range(0, CHANNELS, CHANNEL_BLOCK):
        channel = first + tl.arange(0, CHANNEL_BLOCK)[None, :]
        inside = channel < CHANNELS
        seen = hit[:, None] & inside
        a0 = tl.load(base + i0.to(tl.int64)[:, None] * CHANNELS + channel, mask=seen, other=0)
        a1 = tl.load(base + i1.to(tl.int64)[:, None] * CHANNELS + channel, mask=seen, other=0)
        a2 = tl.load(base + i2.to(tl.int64)[:, None] * CHANNELS + channel, mask=seen, other=0)
        value = a0 * b0[:, None] + a1 * b1[:, None] + a2 * b2[:, None]
        tl.store(out_ptr + at[:, None] * CHANNELS + channel, value, mask=exists[:, None] & inside)


@triton.jit
def interpolate_peak_kernel(
    triangle_id_ptr,  # [F, H, W]
    barycentrics_ptr,  # [F, H, W, 3]
    grad_out_ptr,  # [F, H, W, C]
    peaks_ptr,  # [F] int32, 0: bits of the largest contribution to a gradient, which order as the numbers do, NaN last
    triangles,
    pixels,  # H * W
    CHANNELS: tl.constexpr,
    BLOCK: tl.constexpr,
    CHANNEL_BLOCK: tl.constexpr,
):
    """Finds what bounds the fixed-point sums of a frame; gradients of empty pixels, whatever they are, do not count."""
    frame, _, at, _, hit = find_pixels(triangle_id_ptr, triangles, pixels, BLOCK)
    b0, b1, b2 = load_triples(barycentrics_ptr, at, hit)
    peak = tl.zeros([BLOCK, CHANNEL_BLOCK], tl.int32)
    for first in range(0, CHANNELS, CHANNEL_BLOCK):
        channel = first + tl.arange(0, CHANNEL_BLOCK)[None, :]
        mask = hit[:, None] & (channel < CHANNELS)
        grad = tl.load(grad_out_ptr + at[:, None] * CHANNELS + channel, mask=mask, other=0)
        peak = tl.maximum(peak, tl.abs(grad * b0[:, None]).to(tl.int32, bitcast=True))
        peak = tl.maximum(peak, tl.abs(grad * b1[:, None]).to(tl.int32, bitcast=True))
        peak = tl.maximum(peak, tl.abs(grad * b2[:, None]).to(tl.int32, bitcast=True))
    peak = tl.max(peak)
    tl.atomic_max(peaks_ptr + frame, peak, mask=peak > 0, sem="relaxed")


@triton.jit
def interpolate_bwd_kernel(
    attributes_ptr,  # [F or 1, V, C]
    triangles_ptr,  # [T, 3]
    triangle_id_ptr,  # [F, H, W]
    barycentrics_ptr,  # [F, H, W, 3]
    grad_out_ptr,  # [F, H, W, C]
    scale_ptr,  # [F or 1]
    total_ptr,  # [F or 1, V, C] int64, 0: the gradient of the attributes in fixed point
    grad_barycentrics_ptr,  # [F, H, W, 3]
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
    b0, b1, b2, scale, one_row = 0.0, 0.0, 0.0, 0.0, False
    if TO_ATTRIBUTES:
        b0, b1, b2 = load_triples(barycentrics_ptr, at, hit)
        scale = tl.load(scale_ptr + tl.where(stride > 0, frame, 0))
        # One triangle in the whole program, as with large ones: its sums are made here, as thousands of additions to
        # one address would wait for each other. They are of integers, so the bits stay the same.
        one_row = tl.min(tl.where(hit, triangle, triangles)) == tl.max(tl.where(hit, triangle, -1))
    d0 = tl.zeros([BLOCK], tl.float32)
    d1, d2 = d0, d0
    for first in range(0, CHANNELS, CHANNEL_BLOCK):
        channel = first + tl.arange(0, CHANNEL_BLOCK)
        seen = hit[:, None] & (channel < CHANNELS)[None, :]
        grad = tl.load(grad_out_ptr + at[:, None] * CHANNELS + channel[None, :], mask=seen, other=0)
        if TO_WEIGHTS:
            base = attributes_ptr + offset + channel[None, :]
            d0 += tl.sum(grad * tl.load(base + i0[:, None], mask=seen, other=0), 1)
            d1 += tl.sum(grad * tl.load(base + i1[:, None], mask=seen, other=0), 1)
            d2 += tl.sum(grad * tl.load(base + i2[:, None], mask=seen, other=0), 1)
        if TO_ATTRIBUTES:
            into = total_ptr + offset
            add_fixed(into, i0, channel, grad * b0[:, None] * scale, CHANNELS, one_row)
            add_fixed(into, i1, channel, grad * b1[:, None] * scale, CHANNELS, one_row)
            add_fixed(into, i2, channel, grad * b2[:, None] * scale, CHANNELS, one_row)
    if TO_WEIGHTS:
        tl.store(grad_barycentrics_ptr + 3 * at, d0, mask=exists)
        tl.store(grad_barycentrics_ptr + 3 * at + 1, d1, mask=exists)
        tl.store(grad_barycentrics_ptr + 3 * at + 2, d2, mask=exists)
