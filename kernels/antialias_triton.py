"""Kernel of `antialias`: the blend and its transpose. Search and gradients of the crossings have their own files.

Floor: the search moves 16 bytes a pixel, where ids differ 16 more; the blend of C channels reads and writes 4 C bytes a
pixel and reads 8 of codes, and so does its transpose; the gradients of the vertices read 16 bytes of codes a pixel, and
clear, read and write 60 bytes a vertex. With 3 colours and a mask, 32 frames of 240x240 (1.84 M pixels) and 55,525
vertices, at 3.0 TB/s: 29 + 74 = 103 MB, 34 us forward; 74 + 29 + 107 = 210 MB, 70 us backward.
"""
# Launch options and constexprs are unknown to it.
# pyright: reportCallIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false

import torch
import triton
import triton.language as tl
from torch import Tensor

from .antialias_find_triton import OPTIONS, PIXELS, crossing, edge_ends, find_silhouettes_triton
from .antialias_grad_triton import vertex_gradient
from .common.backend import lanes, on_device
from .common.picture import Layer
from .common.projection_triton import load_camera
from .common.topology import topology

MAX_CHANNELS = 4
"""Channels held at once: with more, too few programs would fit on a processor."""


def antialias_triton(
    image: Tensor,  # [F, H, W, C] float32
    vertices: Tensor,  # [F, V, 3] float32
    triangles: Tensor,  # [T, 3]
    Ks: Tensor,  # [F, 3, 3] float32
    layer: Layer,  # [F, H, W]
) -> tuple[Tensor, Tensor]:  # [F, H, W, C], [F, 2, H, W]
    """Blends the image by kernels; also returns the silhouettes."""
    Ks = Ks.contiguous()
    codes = find_silhouettes_triton(vertices, triangles, Ks, layer)
    return _blend(image, vertices, topology(triangles, vertices.shape[1]).triangles, Ks, codes, False), codes


def antialias_triton_backward(
    wanted: list[bool],
    grad_out: Tensor,  # [F, H, W, C]
    image: Tensor,  # [F, H, W, C]
    vertices: Tensor,  # [F, V, 3]
    triangles: Tensor,  # [T, 3]
    Ks: Tensor,  # [F, 3, 3]
    codes: Tensor,  # [F, 2, H, W]
) -> list[Tensor]:  # as image, as vertices
    """Differentiates by image and vertices."""
    gradient = grad_out.contiguous()
    mesh = vertices, topology(triangles, vertices.shape[1]).triangles, Ks.contiguous(), codes
    out = [_blend(gradient, *mesh, True)] if wanted[0] else []
    return [*out, vertex_gradient(gradient, image, *mesh)] if wanted[1] else out


def _blend(image: Tensor, vertices: Tensor, triangles: Tensor, Ks: Tensor, codes: Tensor, transposed: bool) -> Tensor:
    frames, height, width, channels = image.shape
    out = torch.empty_like(image)
    block = lanes(PIXELS)
    with on_device(image):
        antialias_blend_kernel[(frames * triton.cdiv(height * width, block),)](
            image,
            vertices,
            triangles,
            Ks,
            codes,
            out,
            vertices.shape[1],
            height,
            width,
            channels,
            TRANSPOSED=transposed,
            CHANNELS=min(triton.next_power_of_2(channels), MAX_CHANNELS),
            BLOCK=block,
            **OPTIONS,
        )
    return out


@triton.jit
def _shares(
    points_ptr,  # [V, 3]
    triangles_ptr,  # [T, 3]
    camera,
    code_ptr,  # [H, W], of the direction
    pixel,
    back: tl.constexpr,
    down: tl.constexpr,
    height,
    width,
    TRANSPOSED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Computes what pixels take from their neighbour and lose of themselves in a pair, and which neighbour it is."""
    stride = width if down else 1
    first = pixel - stride if back else pixel
    # Pairs that would reach over a border of the image have no edge.
    code = tl.load(code_ptr + first, (first >= 0) & (pixel < height * width), other=-1)
    take = tl.zeros([BLOCK], tl.float32)
    lose = tl.zeros([BLOCK], tl.float32)
    if tl.max(code, 0) >= 0:
        active = code >= 0
        side = code & 1
        sign = 1.0 - 2.0 * side.to(tl.float32)
        p = tl.where(side == 0, first, first + stride)
        _v0, a0, c0, _i0, _v1, a1, c1, _i1 = edge_ends(
            points_ptr, triangles_ptr, camera, code, p, width, down, sign, active
        )
        s = crossing(a0, c0, a1, c1)
        changed = (p == pixel) == (s < 0.5)
        weight = tl.where(active, tl.abs(s - 0.5), 0.0)
        lose = tl.where(changed, weight, 0.0)
        take = tl.where(changed != TRANSPOSED, weight, 0.0)
    other = pixel - stride if back else pixel + stride
    return take, lose, other


@triton.jit
def antialias_blend_kernel(
    image_ptr,  # [F, H, W, C]
    vertices_ptr,  # [F, V, 3]
    triangles_ptr,  # [T, 3] int32
    Ks_ptr,  # [F, 3, 3]
    code_ptr,  # [F, 2, H, W] int32
    out_ptr,  # [F, H, W, C]
    vertices,
    height,
    width,
    channels,
    TRANSPOSED: tl.constexpr,
    CHANNELS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Blends pixels: (1 - w) itself + w its neighbour for each pair that changes it; or the transpose of that map."""
    size = height * width
    blocks = tl.cdiv(size, BLOCK)
    program = tl.program_id(0).to(tl.int64)
    frame = program // blocks
    pixel = (program % blocks * BLOCK).to(tl.int32) + tl.arange(0, BLOCK)
    points_ptr = vertices_ptr + frame * vertices * 3
    right_ptr = code_ptr + frame * 2 * size
    down_ptr = right_ptr + size
    camera = load_camera(Ks_ptr, frame)
    take0, lose0, other0 = _shares(
        points_ptr, triangles_ptr, camera, right_ptr, pixel, False, False, height, width, TRANSPOSED, BLOCK
    )
    take1, lose1, other1 = _shares(
        points_ptr, triangles_ptr, camera, right_ptr, pixel, True, False, height, width, TRANSPOSED, BLOCK
    )
    take2, lose2, other2 = _shares(
        points_ptr, triangles_ptr, camera, down_ptr, pixel, False, True, height, width, TRANSPOSED, BLOCK
    )
    take3, lose3, other3 = _shares(
        points_ptr, triangles_ptr, camera, down_ptr, pixel, True, True, height, width, TRANSPOSED, BLOCK
    )
    keep = 1.0 - (lose0 + lose1 + lose2 + lose3)
    image_ptr += frame * size * channels
    out_ptr += frame * size * channels
    for start in range(0, channels, CHANNELS):
        channel = start + tl.arange(0, CHANNELS)[None, :]
        inside = (pixel < size)[:, None] & (channel < channels)
        at = pixel.to(tl.int64)[:, None] * channels + channel
        value = tl.load(image_ptr + at, inside, other=0.0) * keep[:, None]
        if tl.max(take0, 0) > 0:
            value += _taken(image_ptr, other0, channel, channels, take0)
        if tl.max(take1, 0) > 0:
            value += _taken(image_ptr, other1, channel, channels, take1)
        if tl.max(take2, 0) > 0:
            value += _taken(image_ptr, other2, channel, channels, take2)
        if tl.max(take3, 0) > 0:
            value += _taken(image_ptr, other3, channel, channels, take3)
        tl.store(out_ptr + at, value, inside)


@triton.jit
def _taken(
    image_ptr,  # [H, W, C]
    other,
    channel,
    channels,
    take,
):
    mask = (take != 0)[:, None] & (channel < channels)
    at = other.to(tl.int64)[:, None] * channels + channel
    return tl.load(image_ptr + at, mask, other=0.0) * take[:, None]
