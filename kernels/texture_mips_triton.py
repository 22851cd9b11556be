"""Triton kernels of `texture_mips`.

Floor at 3.0 TB/s for 2048x2048 texels of 3 channels: the forward pass reads each level but the last and writes each but
the first, 67 + 17 MB, 28 us; the backward pass reads the levels' gradients, and writes and reads their sums: 17 + 50 +
2 * 17 MB, 34 us. A program has neighbours in a row, so that its four loads are of two rows.
"""
# Launch options and constexprs are unknown to it.
# pyright: reportCallIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .common.backend import lanes, on_device
from .common.custom_op import register


def texture_mips_triton(
    texels: Tensor,  # [F, H, W, C] float32, of a cube map [F, 6, S, S, C]
    levels: int,
) -> list[Tensor]:
    """Halves a texture by kernels; see `texture_mips`."""
    return _mips(texels, *texels.shape[-3:-1], levels) if levels else []


def _forward(
    texels: Tensor,  # [F, H, W, C], of a cube map [F, 6, S, S, C]
    height: int,
    width: int,
    levels: int,
) -> list[Tensor]:
    """Halves a texture."""
    out = [texels]
    for coarse in _fake(texels, height, width, levels):
        _launch(texture_mips_fwd_kernel, out[-1], coarse)
        out.append(coarse)
    return out[1:]


def _backward(wanted: list[bool], grad_mips: list[Tensor], height: int, width: int) -> list[Tensor]:
    """Differentiates by the texels: of each level come its own gradient and a share of those above."""
    coarse = grad_mips[-1].contiguous()
    for gradient in reversed(grad_mips[:-1]):
        fine = torch.empty_like(gradient, memory_format=torch.contiguous_format)
        _launch(texture_mips_bwd_kernel, fine, coarse, gradient.contiguous())
        coarse = fine
    (fine,) = _fake_backward(wanted, grad_mips, height, width)
    _launch(texture_mips_bwd_kernel, fine, coarse, None)
    return [fine]


def _fake(texels: Tensor, height: int, width: int, levels: int) -> list[Tensor]:
    *front, _, _, channels = texels.shape
    return [
        texels.new_empty(*front, max(1, height >> level), max(1, width >> level), channels)
        for level in range(1, levels + 1)
    ]


def _fake_backward(wanted: list[bool], grad_mips: list[Tensor], height: int, width: int) -> list[Tensor]:
    *front, _, _, channels = grad_mips[0].shape
    return [grad_mips[0].new_empty(*front, height, width, channels)]


_mips = register(
    "texture_mips",
    _forward,
    _backward,
    _fake,
    outputs=("mips",),
    gradients_to=("texels",),
    fake_backward=_fake_backward,
)


def _launch(kernel: Any, fine: Tensor, coarse: Tensor, *more: Tensor | None) -> None:
    *_, height, width, channels = fine.shape
    block = lanes(512)
    count = coarse.numel() if kernel is texture_mips_fwd_kernel else fine.numel()
    if count:
        with on_device(fine):
            kernel[(-(-count // block),)](
                fine, coarse, *more, count, height, width, CHANNELS=channels, BLOCK=block, num_warps=4
            )


@triton.jit
def texture_mips_fwd_kernel(
    fine_ptr,  # [N, H, W, C]
    coarse_ptr,  # [N, h, w, C], h = max(1, H / 2), w = max(1, W / 2)
    count,  # N * h * w * C
    height,  # H
    width,  # W
    CHANNELS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Averages 2 x 2 texels, or 2 along a side of 1, a lane per number of the coarse level."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    exists = at < count
    right = tl.where(width > 1, CHANNELS, 0)
    below = tl.where(height > 1, tl.cast(width, tl.int64) * CHANNELS, 0)
    columns = tl.maximum(width // 2, 1)
    channel, texel = at % CHANNELS, at // CHANNELS
    column, row = texel % columns, texel // columns  # of all pictures, whose heights halve as one
    across, down = tl.where(width > 1, 2, 1), tl.where(height > 1, 2, 1)
    p = fine_ptr + (row * down * width + column * across) * CHANNELS + channel
    top = tl.load(p, mask=exists, other=0.0) + tl.load(p + right, mask=exists, other=0.0)
    bottom = tl.load(p + below, mask=exists, other=0.0) + tl.load(p + below + right, mask=exists, other=0.0)
    tl.store(coarse_ptr + at, 0.25 * (top + bottom), mask=exists)


@triton.jit
def texture_mips_bwd_kernel(
    grad_fine_ptr,  # [N, H, W, C] out
    grad_coarse_ptr,  # [N, h, w, C], h = max(1, H / 2), w = max(1, W / 2)
    own_ptr,  # [N, H, W, C] the level's own gradient, or None
    count,  # N * H * W * C
    height,  # H
    width,  # W
    CHANNELS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Spreads the coarse level's gradient over the texels it averages, a lane per number of the fine level."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    exists = at < count
    across, down = tl.where(width > 1, 2, 1), tl.where(height > 1, 2, 1)
    channel, texel = at % CHANNELS, at // CHANNELS
    column, row = texel % width // across, texel // width // down
    coarse = (row * tl.maximum(width // 2, 1) + column) * CHANNELS + channel
    grad = tl.load(grad_coarse_ptr + coarse, mask=exists, other=0.0) / (across * down)
    if own_ptr is not None:
        grad += tl.load(own_ptr + at, mask=exists, other=0.0)
    tl.store(grad_fine_ptr + at, grad, mask=exists)
