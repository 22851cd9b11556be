"""Kernels of `antialias`: the blend, its transpose and the gradients of the crossings; the search has its own file.

Floor: the search moves 16 bytes a pixel, where ids differ 16 more; the blend of C channels reads and writes 4 C bytes a
pixel and reads 8 of codes, and so does its transpose; the gradients of the vertices read 16 bytes of codes a pixel, and
clear, read and write 60 bytes a vertex. With 3 colours and a mask, 32 frames of 240x240 (1.84 M pixels) and 55,525
vertices, at 3.0 TB/s: 29 + 74 = 103 MB, 34 us forward; 74 + 29 + 107 = 210 MB, 70 us backward.
"""
# Launch options and constexprs are unknown to it.
# pyright: reportCallIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from .antialias_find_triton import OPTIONS, PIXELS, crossing, edge_ends, find_silhouettes_triton, load_camera
from .common.backend import lanes, on_device
from .common.fixed_point import fixed_point_scale, from_fixed_point
from .common.fragments import Fragments
from .common.topology import topology

MAX_CHANNELS = 4
"""Channels held at once: with more, or with fewer warps, too few programs would fit on a processor."""
BLEND_OPTIONS = OPTIONS | {"num_warps": 8}


def antialias_triton(
    image: Tensor,  # [F, H, W, C] float32
    vertices: Tensor,  # [F, V, 3] float32
    triangles: Tensor,  # [T, 3]
    Ks: Tensor,  # [F, 3, 3] float32
    fragments: Fragments,  # [F, H, W]
) -> Tensor:  # [F, H, W, C]
    """`antialias` with Triton; arguments as there, checked there."""
    return _Antialias.apply(image, vertices, triangles, Ks.contiguous(), fragments)


class _Antialias(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, image: Tensor, vertices: Tensor, triangles: Tensor, Ks: Tensor, fragments: Fragments
    ) -> Tensor:
        codes = find_silhouettes_triton(vertices, triangles, Ks, fragments)
        corners = topology(triangles, vertices.shape[1]).triangles
        ctx.save_for_backward(image, vertices, corners, Ks, codes)
        return _blend(image, vertices, corners, Ks, codes, False)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        image, *mesh = ctx.saved_tensors
        gradient = gradient.contiguous()
        to_image = _blend(gradient, *mesh, True) if ctx.needs_input_grad[0] else None
        to_vertices = _vertex_gradient(gradient, image, *mesh) if ctx.needs_input_grad[1] else None
        return to_image, to_vertices, None, None, None


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
            **BLEND_OPTIONS,
        )
    return out


def _vertex_gradient(
    gradient: Tensor, image: Tensor, vertices: Tensor, triangles: Tensor, Ks: Tensor, codes: Tensor
) -> Tensor:
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
    """What pixels take from their neighbour and from themselves in the pair they form with it, and the neighbour."""
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
    """A changed pixel becomes (1 - w) itself + w its neighbour for each of its pairs; or the transpose of that map."""
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
    """Gradients of the crossings, summed at the ends of their edges; with MAX_ONLY just how large they get."""
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
    """The gradient with respect to a vertex, from that of its projection."""
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
