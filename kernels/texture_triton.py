"""Triton kernels of `texture`.

Floor at 3.0 TB/s for 4 pictures of 1024x1024 and a texture of 2048x2048 with its mips, 3 channels, trilinear (4.2 M
pixels, 5.6 M texels). The forward pass reads 24 bytes a pixel and writes 12, and reads 12 bytes a texel: 151 + 67 MB,
73 us. The backward pass reads 24 + 12 bytes a pixel, twice the upstream (its largest number sets the scale of the
sums), and writes 24; of a texel it reads 12, clears, adds to and reads 8 bytes a sum, and writes 12: 302 + 537 MB, 280
us.

A tile holds pixels x channels, so that the channels of a texel are fetched, and added to, in one memory transaction.
"""
# Launch options and constexprs are unknown to it.
# pyright: reportCallIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false, reportAssignmentType=false

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .common.backend import lanes, on_device
from .common.fixed_point import fixed_point_scale, from_fixed_point
from .texture_grad_triton import texture_bwd_kernel
from .texture_texels_triton import (
    bilinear,
    fill_corner,
    level_base,
    level_start,
    load_level,
    load_place,
    load_texels,
    pixels_of,
    split_level,
    texels_around,
)
from .texture_torch import LARGEST, LEAST

PIXELS = {1: 256, 2: 256, 4: 128, 8: 64, 16: 16}
"""Of a program, by the channels of its tiles: more spill registers."""
FORWARD = {"num_warps": 4, "enable_fp_fusion": False}
BACKWARD = [{"num_warps": warps, "enable_fp_fusion": False} for warps in (4, 8, 8)]
"""By MIPS: with 8 warps one level alone spills. Both passes must see the same texels, lanes that hold a sum twice the
same bits: no fusion."""


def texture_triton(
    texels: Tensor,  # [F or 1, H, W, C] float32, of a cube map [F or 1, 6, S, S, C]
    mips: Tensor | None,  # [F or 1, M, C], all levels above 0
    uv: Tensor,  # [F, h, w, 2], of a cube map [F, h, w, 3]
    uv_da: Tensor | None,  # [F, h, w, 4], of a cube map [F, h, w, 6]
    mip_level_bias: Tensor | None,  # [F, h, w]
    filter_mode: str,  # not "auto"
    boundary_mode: str,
    highest: int,
) -> Tensor:  # [F, h, w, C]
    """Looks up a texture by kernels; see `texture`."""
    grid, sizes, options = _launch(texels, mips, uv, filter_mode, boundary_mode, highest)
    out = torch.empty(*uv.shape[:3], texels.shape[-1], dtype=torch.float32, device=uv.device)
    if out.numel():
        with on_device(out):
            texture_fwd_kernel[grid](texels, mips, uv, uv_da, mip_level_bias, out, *sizes, **options, **FORWARD)
    return out


def texture_triton_backward(
    wanted: list[bool],
    grad_out: Tensor,  # [F, h, w, C]
    texels: Tensor,  # [F or 1, H, W, C] float32, of a cube map [F or 1, 6, S, S, C]
    mips: Tensor | None,  # [F or 1, M, C], all levels above 0
    uv: Tensor,  # [F, h, w, 2], of a cube map [F, h, w, 3]
    uv_da: Tensor | None,  # [F, h, w, 4], of a cube map [F, h, w, 6]
    mip_level_bias: Tensor | None,  # [F, h, w]
    filter_mode: str,  # not "auto"
    boundary_mode: str,
    highest: int,
) -> list[Tensor]:  # as the five tensors
    """Differentiates by texels, mips and what chooses them."""
    grid, sizes, options = _launch(texels, mips, uv, filter_mode, boundary_mode, highest)
    grad_out = grad_out.contiguous()
    places = uv, uv_da, mip_level_bias
    to_places = [torch.zeros_like(x) if x is not None and w else None for x, w in zip(places, wanted[2:], strict=True)]
    total, scale, out = None, None, []
    count = texels.shape[1:-1].numel()
    if wanted[0] or wanted[1]:
        rows = count + (0 if mips is None else mips.shape[1])
        total = torch.zeros(len(texels), rows, texels.shape[-1], dtype=torch.int64, device=uv.device)
        scale = _scale(grad_out, len(texels))
    if grad_out.numel() and (total is not None or any(wanted[2:])):
        with on_device(grad_out):
            texture_bwd_kernel[grid](
                *(texels, mips, uv, uv_da, mip_level_bias, grad_out, scale, total, *to_places, *sizes),
                **options,
                **BACKWARD[options["MIPS"]],
            )
    if total is not None and scale is not None:
        if wanted[0]:
            out.append(from_fixed_point(total[:, :count], scale).view_as(texels))
        if wanted[1]:
            out.append(from_fixed_point(total[:, count:], scale))
    return out + [x for x in to_places if x is not None]


def _scale(
    grad_out: Tensor,  # [F, h, w, C]
    textures: int,
) -> Tensor:  # [textures]
    """Computes the scale of the sums: a pixel's weights sum to 1, or hardly more, whatever texels they are for."""
    if not grad_out.numel():
        return grad_out.new_ones(textures)
    largest = torch.linalg.vector_norm(grad_out.view(textures, -1), torch.inf, dim=1)
    return fixed_point_scale(largest, 2 * (grad_out.numel() // (grad_out.shape[-1] * textures)))


def _launch(
    texels: Tensor, mips: Tensor | None, uv: Tensor, filter_mode: str, boundary_mode: str, highest: int
) -> tuple[tuple[int], tuple[int, ...], dict[str, Any]]:
    """Grid, sizes and options common to both kernels; a program never spans two frames."""
    frames, height, width, _ = uv.shape
    channels = texels.shape[-1]
    channel_block = min(1 << (channels - 1).bit_length(), 16)
    block = lanes(PIXELS[channel_block])
    strides = [0 if x is None or len(x) == 1 else x.stride(0) for x in (texels, mips)]
    options = {
        "CHANNELS": channels,
        "BOUNDARY": boundary_mode,
        "LINEAR": filter_mode != "nearest",
        "MIPS": {"linear-mipmap-nearest": 1, "linear-mipmap-linear": 2}.get(filter_mode, 0),
        "LEAST": LEAST,
        "LARGEST": LARGEST,
        "BLOCK": block,
        "CHANNEL_BLOCK": channel_block,
    }
    grid = (frames * -(-height * width // block),)
    return grid, (*strides, height * width, *texels.shape[-3:-1], highest + 1), options


@triton.jit
def texture_fwd_kernel(
    texels_ptr,  # [F or 1, H, W, C], of a cube map [F or 1, 6, S, S, C]
    mips_ptr,  # [F or 1, M, C], all levels above 0, None without MIPS
    uv_ptr,  # [F, h, w, 2 or 3]
    uv_da_ptr,  # [F, h, w, 4 or 6] or None
    bias_ptr,  # [F, h, w] or None
    out_ptr,  # [F, h, w, C]
    texel_stride,  # between the textures of two frames, 0 where they share one
    mip_stride,
    pixels,  # h * w
    height,  # H
    width,  # W
    levels,  # those of mips and 1
    CHANNELS: tl.constexpr,
    BOUNDARY: tl.constexpr,
    LINEAR: tl.constexpr,
    MIPS: tl.constexpr,  # 0: level 0 alone, 1: the nearest level, 2: two levels
    LEAST: tl.constexpr,
    LARGEST: tl.constexpr,
    BLOCK: tl.constexpr,
    CHANNEL_BLOCK: tl.constexpr,
):
    """Looks up a texture, a lane per pixel and channel."""
    CUBE: tl.constexpr = BOUNDARY == "cube"
    FACES: tl.constexpr = 6 if CUBE else 1
    frame, at, exists = pixels_of(pixels, BLOCK)
    face, u, v, s, t, m = load_place(uv_ptr, at, exists, CUBE)
    in_texels = tl.cast(height, tl.int64) * width * FACES
    lower, share = tl.zeros([BLOCK], tl.int32), tl.zeros([BLOCK], tl.float32)
    if MIPS > 0:
        level = load_level(uv_da_ptr, bias_ptr, at, exists, face, s, t, m, height, width, CUBE, LEAST, LARGEST)
        lower, share = split_level(level, levels, MIPS)
    places, right, below, _, _, _ = texels_around(face, u, v, lower, height, width, BOUNDARY, LINEAR)
    start = level_start(lower, height, width, levels, FACES)
    base = level_base(texels_ptr, mips_ptr, frame, texel_stride, mip_stride, lower, start, in_texels, CHANNELS, MIPS)
    if MIPS == 2:
        upper, used = tl.minimum(lower + 1, levels - 1), exists & (share != 0)
        places1, right1, below1, _, _, _ = texels_around(face, u, v, upper, height, width, BOUNDARY, LINEAR)
        start = level_start(upper, height, width, levels, FACES)
        base1 = level_base(
            texels_ptr, mips_ptr, frame, texel_stride, mip_stride, upper, start, in_texels, CHANNELS, MIPS
        )
    for first in range(0, CHANNELS, CHANNEL_BLOCK):
        channel = first + tl.arange(0, CHANNEL_BLOCK)
        value = _blend(base, places, exists, right, below, channel, CHANNELS, LINEAR, CUBE)
        if MIPS == 2:
            above = _blend(base1, places1, used, right1, below1, channel, CHANNELS, LINEAR, CUBE)
            value += share[:, None] * (above - value)
        if MIPS == 1:
            value += share[:, None]  # 0, or not a number where the level is none
        mask = exists[:, None] & (channel < CHANNELS)[None, :]
        tl.store(out_ptr + at[:, None] * CHANNELS + channel[None, :], value, mask=mask)


@triton.jit
def _blend(base, places, wanted, right, below, channel, CHANNELS: tl.constexpr, LINEAR: tl.constexpr,
           CUBE: tl.constexpr):  # fmt: skip
    """Blends channels of the four texels around."""
    texels = load_texels(base, places, wanted, channel, CHANNELS, LINEAR)
    if CUBE and LINEAR:
        texels = fill_corner(texels, (places[0][:, None], places[1][:, None], places[2][:, None], places[3][:, None]))
    return bilinear(texels, right[:, None], below[:, None])
