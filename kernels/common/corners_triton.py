"""Sums of a picture's triangle corners' attributes, weighted at every pixel: launches, gradients, and lookups."""
# Launch options and constexprs are unknown to it.
# pyright: reportCallIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .backend import lanes, on_device
from .fixed_point import fixed_point_scale, from_fixed_point


class Kernels(NamedTuple):
    """The kernels of an operation, and how many values it gives for a channel."""

    forward: Any
    peak: Any
    backward: Any
    values: int


def weight_corners(
    kernels: Kernels,
    attributes: Tensor,  # [F or 1, V, C] float32
    triangles: Tensor,  # [T, 3]
    triangle_id: Tensor,  # [F, H, W]
    weights: Tensor,  # [F, H, W, K] float32
) -> Tensor:  # [F, H, W, values * C]
    """Launches the forward kernel of an operation."""
    channels = attributes.shape[2]
    size = *triangle_id.shape, kernels.values * channels
    out = torch.empty(size, dtype=torch.float32, device=attributes.device)
    if out.numel():
        grid, sizes, options = launch_options(attributes, triangles, triangle_id)
        with on_device(out):
            kernels.forward[grid](
                attributes, triangles, triangle_id, weights, out, *sizes, CHANNELS=channels, **options
            )
    return out


def weight_corners_backward(
    kernels: Kernels,
    wanted: list[bool],
    grad_out: Tensor,  # [F, H, W, values * C]
    attributes: Tensor,  # [F or 1, V, C]
    triangles: Tensor,  # [T, 3]
    triangle_id: Tensor,  # [F, H, W]
    weights: Tensor,  # [F, H, W, K]
) -> list[Tensor]:  # as attributes, as weights
    """Differentiates an operation by attributes, in fixed-point sums, and by weights."""
    to_attributes, to_weights = wanted
    if grad_out.numel() == 0:
        return [torch.zeros_like(x) for x, needed in zip((attributes, weights), wanted, strict=True) if needed]
    grad_out = grad_out.contiguous()
    grid, sizes, options = launch_options(attributes, triangles, triangle_id)
    options["enable_fp_fusion"] = False  # lanes that share a sum must agree, and no term may exceed the largest
    channels = attributes.shape[2]
    total, scale, grad_weights = None, None, None
    with on_device(grad_out):
        if to_attributes:
            peaks = torch.zeros(len(triangle_id), dtype=torch.int32, device=grad_out.device)
            kernels.peak[grid](triangle_id, weights, grad_out, peaks, *sizes[1:], CHANNELS=channels, **options)
            if len(attributes) == 1:
                peaks = peaks.amax(0, keepdim=True)
            terms = 3 * triangle_id.numel() // len(attributes)
            scale = fixed_point_scale(peaks.view(torch.float32), terms)
            total = torch.zeros(attributes.shape, dtype=torch.int64, device=grad_out.device)
        if to_weights:
            grad_weights = torch.empty_like(weights)
        kernels.backward[grid](
            *(attributes, triangles, triangle_id, weights, grad_out, scale, total, grad_weights, *sizes),
            CHANNELS=channels,
            TO_ATTRIBUTES=to_attributes,
            TO_WEIGHTS=to_weights,
            **options,
        )
    grad_attributes = None if total is None or scale is None else from_fixed_point(total, scale)
    return [gradient for gradient in (grad_attributes, grad_weights) if gradient is not None]


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
