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

import torch
import triton
import triton.language as tl
from torch import Tensor

from .common.backend import lanes, on_device
from .common.fixed_point import fixed_point_scale, from_fixed_point
from .common.fixed_point_triton import add_fixed


def interpolate_triton(
    attributes: Tensor,  # [F or 1, V, C] float32
    triangles: Tensor,  # [T, 3]
    triangle_id: Tensor,  # [F, H, W]
    barycentrics: Tensor,  # [F, H, W, 3] float32
) -> Tensor:  # [F, H, W, C]
    """Interpolates by kernels."""
    channels = attributes.shape[2]
    out = torch.empty(*triangle_id.shape, channels, dtype=torch.float32, device=attributes.device)
    if out.numel():
        grid, sizes, options = launch_options(attributes, triangles, triangle_id)
        with on_device(out):
            interpolate_fwd_kernel[grid](
                attributes, triangles, triangle_id, barycentrics, out, *sizes, CHANNELS=channels, **options
            )
    return out


def interpolate_triton_backward(
    wanted: list[bool],
    grad_out: Tensor,  # [F, H, W, C]
    attributes: Tensor,  # [F or 1, V, C]
    triangles: Tensor,  # [T, 3]
    triangle_id: Tensor,  # [F, H, W]
    barycentrics: Tensor,  # [F, H, W, 3]
) -> list[Tensor]:  # as attributes, as barycentrics
    """Differentiates by attributes and barycentrics."""
    to_attributes, to_barycentrics = wanted
    if grad_out.numel() == 0:
        return [torch.zeros_like(x) for x, needed in zip((attributes, barycentrics), wanted, strict=True) if needed]
    grad_out = grad_out.contiguous()
    grid, sizes, options = launch_options(attributes, triangles, triangle_id)
    channels = attributes.shape[2]
    total, scale, grad_barycentrics = None, None, None
    with on_device(grad_out):
        if to_attributes:
            peaks = torch.zeros(len(triangle_id), dtype=torch.int32, device=grad_out.device)
            interpolate_peak_kernel[grid](
                triangle_id, barycentrics, grad_out, peaks, *sizes[1:], CHANNELS=channels, **options
            )
            if len(attributes) == 1:
                peaks = peaks.amax(0, keepdim=True)
            terms = 3 * triangle_id.numel() // len(attributes)
            scale = fixed_point_scale(peaks.view(torch.float32), terms)
            total = torch.zeros(attributes.shape, dtype=torch.int64, device=grad_out.device)
        if to_barycentrics:
            grad_barycentrics = torch.empty_like(barycentrics)
        interpolate_bwd_kernel[grid](
            attributes,
            triangles,
            triangle_id,
            barycentrics,
            grad_out,
            scale,
            total,
            grad_barycentrics,
            *sizes,
            CHANNELS=channels,
            TO_ATTRIBUTES=to_attributes,
            TO_BARYCENTRICS=to_barycentrics,
            enable_fp_fusion=False,  # lanes that share a sum, which one of them stores, must have the same bits
            **options,
        )
    grad_attributes = None if total is None or scale is None else from_fixed_point(total, scale)
    return [gradient for gradient in (grad_attributes, grad_barycentrics) if gradient is not None]


def launch_options(
    attributes: Tensor, triangles: Tensor, triangle_id: Tensor
) -> tuple[tuple[int], tuple[int, int, int], dict[str, int]]:
    """Grid, sizes and options common to all kernels here; a program never spans two frames."""
    frames, height, width = triangle_id.shape
    _, vertices, channels = attributes.shape
    channel_block = min(1 << (channels - 1).bit_length(), 16)
    block = lanes(512 // channel_block)
    stride = vertices * channels if len(attributes) > 1 else 0
    options = {"BLOCK": block, "CHANNEL_BLOCK": channel_block, "num_warps": 4}
    return (frames * -(-height * width // block),), (stride, len(triangles), height * width), options


@triton.jit
def find_pixels(triangle_id_ptr, triangles, pixels, BLOCK: tl.constexpr):
    """Finds the program's frame and pixels: which exist, where among all frames, which triangle they see if any."""
    blocks = tl.cdiv(pixels, BLOCK)
    program = tl.program_id(0).to(tl.int64)
    frame = program // blocks
    pixel = program % blocks * BLOCK + tl.arange(0, BLOCK)
    exists = pixel < pixels
    at = frame * pixels + pixel
    triangle = tl.load(triangle_id_ptr + at, mask=exists, other=-1).to(tl.int64)
    return frame, exists, at, triangle, (triangle >= 0) & (triangle < triangles)


@triton.jit
def load_triples(ptr, at, hit):
    """Loads the three numbers of each row, 0 where there is no hit."""
    first = tl.load(ptr + 3 * at, mask=hit, other=0)
    second = tl.load(ptr + 3 * at + 1, mask=hit, other=0)
    third = tl.load(ptr + 3 * at + 2, mask=hit, other=0)
    return first, second, third


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
    TO_BARYCENTRICS: tl.constexpr,
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
        if TO_BARYCENTRICS:
            base = attributes_ptr + offset + channel[None, :]
            d0 += tl.sum(grad * tl.load(base + i0[:, None], mask=seen, other=0), 1)
            d1 += tl.sum(grad * tl.load(base + i1[:, None], mask=seen, other=0), 1)
            d2 += tl.sum(grad * tl.load(base + i2[:, None], mask=seen, other=0), 1)
        if TO_ATTRIBUTES:
            into = total_ptr + offset
            add_fixed(into, i0, channel, grad * b0[:, None] * scale, CHANNELS, one_row)
            add_fixed(into, i1, channel, grad * b1[:, None] * scale, CHANNELS, one_row)
            add_fixed(into, i2, channel, grad * b2[:, None] * scale, CHANNELS, one_row)
    if TO_BARYCENTRICS:
        tl.store(grad_barycentrics_ptr + 3 * at, d0, mask=exists)
        tl.store(grad_barycentrics_ptr + 3 * at + 1, d1, mask=exists)
        tl.store(grad_barycentrics_ptr + 3 * at + 2, d2, mask=exists)
