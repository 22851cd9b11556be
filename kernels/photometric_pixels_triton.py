"""Triton kernel of the photometric loss over pixels."""

# pyright: reportCallIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false
# (launch options such as num_warps are no parameters of a kernel, and what a kernel calls returns values)

import torch
import triton
import triton.language as tl
from torch import Tensor

from .common.backend import lanes, on_device
from .photometric_triton import rho, weighted_mean


@triton.jit
def photometric_pixels_fwd_kernel(
    rendered_ptr,  # [F, N, C]
    images_ptr,  # [F, N, C]
    weights_ptr,  # [F, N], not read unless WEIGHTED
    d_rendered_ptr,  # [F, N, C] out where GRADIENT: derivative of the weighted cost of the pixel
    partial_ptr,  # [F, blocks, 2] out: sums of cost and weight
    N,
    C,
    blocks,
    WEIGHTED: tl.constexpr,
    GRADIENT: tl.constexpr,
    ALPHA: tl.constexpr,
    SCALE: tl.constexpr,
    BLOCK: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Compares a tile of pixels, all channels of each; reads 8 C + 4 bytes a pixel and writes 4 C with the gradient."""
    program = tl.program_id(0).to(tl.int64)
    frame = program // blocks
    pixel = (program % blocks) * BLOCK + tl.arange(0, BLOCK)
    exists = pixel < N
    if WEIGHTED:
        weight = tl.load(weights_ptr + frame * N + pixel, mask=exists, other=0.0)
    else:
        weight = exists.to(tl.float32)
    channel = tl.arange(0, CHANNELS)
    at = ((frame * N + pixel) * C)[:, None] + channel[None, :]
    counted = (weight != 0)[:, None] & (channel < C)[None, :]
    difference = tl.load(rendered_ptr + at, mask=counted, other=0.0) - tl.load(images_ptr + at, mask=counted, other=0.0)
    cost, slope = rho(tl.sum(difference * difference, 1), ALPHA, SCALE)
    if GRADIENT:
        inside = exists[:, None] & (channel < C)[None, :]
        tl.store(d_rendered_ptr + at, (2 * slope * weight)[:, None] * difference, mask=inside)
    tl.store(partial_ptr + program * 2, tl.sum(cost * weight, 0))
    tl.store(partial_ptr + program * 2 + 1, tl.sum(weight, 0))


def photometric_pixels_triton(
    rendered: Tensor,  # [F, H, W, C]
    images: Tensor,  # [F, H, W, C]
    weights: Tensor | None,  # [F, H, W]
    alpha: int,
    scale: float,
    needed: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # [F], [F, H, W, C] or [0], [F]
    """Computes loss, derivatives of the weighted costs if they are needed, and sums of the weights."""
    frames, height, width, channels = rendered.shape
    local = torch.empty_like(rendered) if needed else rendered.new_empty(0)
    tile = 1 << max(channels - 1, 0).bit_length()  # a power of two
    block = max(1, lanes(1024) // tile)
    blocks = max(1, triton.cdiv(height * width, block))
    partial = rendered.new_empty(frames, blocks, 2)
    with on_device(rendered):
        photometric_pixels_fwd_kernel[(frames * blocks,)](
            rendered,
            images,
            weights,
            local if needed else None,
            partial,
            height * width,
            channels,
            blocks,
            WEIGHTED=weights is not None,
            GRADIENT=needed,
            ALPHA=alpha,
            SCALE=scale,
            BLOCK=block,
            CHANNELS=tile,
            num_warps=4,
        )
        loss, total = weighted_mean(partial)
    return loss, local, total
