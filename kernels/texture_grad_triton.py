"""The backward kernel of `texture`; its floor is with the forward one."""
# Pyright does not know that functions of a kernel return something.
# pyright: reportCallIssue=false, reportGeneralTypeIssues=false, reportAssignmentType=false, reportArgumentType=false

import triton
import triton.language as tl

from .common.fixed_point_triton import add_fixed
from .texture_cube_triton import off_face
from .texture_texels_triton import (
    bilinear,
    fill_corner,
    level_base,
    level_start,
    load_level,
    load_place,
    load_sides,
    load_texels,
    longer,
    pixels_of,
    place_slopes,
    split_level,
    squared_sides,
    texels_around,
)


@triton.jit
def texture_bwd_kernel(
    texels_ptr,  # [F or 1, H, W, C], of a cube map [F or 1, 6, S, S, C]
    mips_ptr,  # [F or 1, M, C], all levels above 0, None without MIPS
    uv_ptr,  # [F, h, w, 2 or 3]
    uv_da_ptr,  # [F, h, w, 4 or 6] or None
    bias_ptr,  # [F, h, w] or None
    grad_out_ptr,  # [F, h, w, C]
    scale_ptr,  # [F or 1], None with `total_ptr`
    total_ptr,  # [F or 1, H * W + M, C] int64, 0: the gradient of texels and mips in fixed point, or None
    grad_uv_ptr,  # as uv, or None
    grad_uv_da_ptr,  # as uv_da, or None
    grad_bias_ptr,  # as bias, or None
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
    """Adds up gradients, a lane per pixel and channel; what needs no gradient is neither read nor written."""
    CUBE: tl.constexpr = BOUNDARY == "cube"
    FACES: tl.constexpr = 6 if CUBE else 1
    PLACES: tl.constexpr = grad_uv_ptr is not None or grad_uv_da_ptr is not None or grad_bias_ptr is not None
    frame, at, exists = pixels_of(pixels, BLOCK)
    face, u, v, s, t, m = load_place(uv_ptr, at, exists, CUBE)
    in_texels = tl.cast(height, tl.int64) * width * FACES
    scale = 0.0
    if total_ptr is not None:
        scale = tl.load(scale_ptr + tl.where(texel_stride > 0, frame, 0))
        total_ptr += frame * (texel_stride + mip_stride)
    lower, share = tl.zeros([BLOCK], tl.int32), tl.zeros([BLOCK], tl.float32)
    if MIPS > 0:
        level = load_level(uv_da_ptr, bias_ptr, at, exists, face, s, t, m, height, width, CUBE, LEAST, LARGEST)
        lower, share = split_level(level, levels, MIPS)
    places, right, below, du, dv, key = texels_around(face, u, v, lower, height, width, BOUNDARY, LINEAR)
    start = level_start(lower, height, width, levels, FACES)
    base = level_base(texels_ptr, mips_ptr, frame, texel_stride, mip_stride, lower, start, in_texels, CHANNELS, MIPS)
    value, by_u, by_v = _level(
        grad_out_ptr, total_ptr, scale, at, exists, exists, base, start, places, right, below, key, 1 - share,
        CHANNELS, LINEAR, CUBE, PLACES, CHANNEL_BLOCK,
    )  # fmt: skip
    grad_u, grad_v, grad_level = (1 - share) * by_u * du, (1 - share) * by_v * dv, 0.0
    if MIPS == 2:
        upper = tl.minimum(lower + 1, levels - 1)
        moves = exists & (level >= 0) & (level <= levels - 1)
        used = exists & ((share != 0) | moves)
        places, right, below, du, dv, key = texels_around(face, u, v, upper, height, width, BOUNDARY, LINEAR)
        start = level_start(upper, height, width, levels, FACES)
        base = level_base(
            texels_ptr, mips_ptr, frame, texel_stride, mip_stride, upper, start, in_texels, CHANNELS, MIPS
        )
        above, by_u, by_v = _level(
            grad_out_ptr, total_ptr, scale, at, exists & (share != 0), used, base, start, places, right, below,
            key, share, CHANNELS, LINEAR, CUBE, PLACES, CHANNEL_BLOCK,
        )  # fmt: skip
        grad_u += share * by_u * du
        grad_v += share * by_v * dv
        grad_level = tl.where(moves, above - value, 0.0)
        if grad_bias_ptr is not None:
            tl.store(grad_bias_ptr + at, grad_level, mask=exists)
    grad_s, grad_t, grad_m = 0.5 * grad_u, 0.5 * grad_v, tl.zeros([BLOCK], tl.float32)  # by s / m, t / m, and m
    if MIPS == 2 and uv_da_ptr is not None and PLACES:
        dx, dy = load_sides(uv_da_ptr, at, exists, face, CUBE)
        ux, uy, vx, vy = place_slopes(s, t, m, dx, dy, CUBE)
        a, b = squared_sides((ux, uy, vx, vy), height, width)
        squared = longer(a, b)
        rate = 1.4426950408889634 * grad_level / squared  # log2(e): of half the logarithm, by half the square
        rate = tl.where((squared >= LEAST) & (squared <= LARGEST), rate, 0.0)
        by_a = tl.where(a > b, rate, tl.where(a == b, 0.5 * rate, 0.0))
        by_b = rate - by_a
        ww, hh = tl.cast(width, tl.float32) * width, tl.cast(height, tl.float32) * height
        ux_grad, uy_grad, vx_grad, vy_grad = by_a * ux * ww, by_b * uy * ww, by_a * vx * hh, by_b * vy * hh
        if CUBE:
            half = 0.5 / m
            sx, sy, tx, ty = ux_grad * half, uy_grad * half, vx_grad * half, vy_grad * half
            mx, my = -(s * sx + t * tx), -(s * sy + t * ty)
            grad_s -= dx[2] * sx + dy[2] * sy
            grad_t -= dx[2] * tx + dy[2] * ty
            grad_m -= (ux * ux_grad + uy * uy_grad + vx * vx_grad + vy * vy_grad) / m
            if grad_uv_da_ptr is not None:
                xx, yx, zx = off_face(face, sx, tx, mx)
                xy, yy, zy = off_face(face, sy, ty, my)
                p = grad_uv_da_ptr + 6 * at
                tl.store(p, xx, mask=exists)
                tl.store(p + 1, xy, mask=exists)
                tl.store(p + 2, yx, mask=exists)
                tl.store(p + 3, yy, mask=exists)
                tl.store(p + 4, zx, mask=exists)
                tl.store(p + 5, zy, mask=exists)
        elif grad_uv_da_ptr is not None:
            p = grad_uv_da_ptr + 4 * at
            tl.store(p, ux_grad, mask=exists)
            tl.store(p + 1, uy_grad, mask=exists)
            tl.store(p + 2, vx_grad, mask=exists)
            tl.store(p + 3, vy_grad, mask=exists)
    if grad_uv_ptr is not None:
        if CUBE:
            x, y, z = off_face(face, grad_s / m, grad_t / m, grad_m - (s * grad_s + t * grad_t) / m)
            tl.store(grad_uv_ptr + 3 * at, x, mask=exists)
            tl.store(grad_uv_ptr + 3 * at + 1, y, mask=exists)
            tl.store(grad_uv_ptr + 3 * at + 2, z, mask=exists)
        else:
            tl.store(grad_uv_ptr + 2 * at, grad_u, mask=exists)
            tl.store(grad_uv_ptr + 2 * at + 1, grad_v, mask=exists)


@triton.jit
def _level(
    grad_out_ptr,  # [F, h, w, C]
    total_ptr,  # [H * W + M, C] of the program's frame, or None
    scale,
    at,  # [BLOCK], as all below: the pixel
    adds,  # whether it adds to the texels
    used,  # whether it has gradients by u, v or the level
    base,  # the level's table
    start,  # texels before the level
    places,
    right,
    below,
    key,
    share,  # of the level
    CHANNELS: tl.constexpr,
    LINEAR: tl.constexpr,
    CUBE: tl.constexpr,
    PLACES: tl.constexpr,
    CHANNEL_BLOCK: tl.constexpr,
):
    """Adds the gradients of a level's texels to their sums; returns the blended one and its slopes by weights."""
    wa, wb, wc, wd = _weights(places, right, below, share, CUBE)
    here = start * CHANNELS
    pa = tl.where(adds & (places[0] >= 0), here + places[0] * CHANNELS, 0)
    pb = tl.where(adds & (places[1] >= 0), here + places[1] * CHANNELS, 0)
    pc = tl.where(adds & (places[2] >= 0), here + places[2] * CHANNELS, 0)
    pd = tl.where(adds & (places[3] >= 0), here + places[3] * CHANNELS, 0)
    one = tl.max(tl.where(adds, key, -1)) == tl.min(tl.where(adds, key, 0x7FFFFFFFFFFFFFFF))
    da = tl.zeros(at.shape, tl.float32)
    db, dc, dd = da, da, da
    for first in range(0, CHANNELS, CHANNEL_BLOCK):
        channel = first + tl.arange(0, CHANNEL_BLOCK)
        seen = used[:, None] & (channel < CHANNELS)[None, :]
        grad = tl.load(grad_out_ptr + at[:, None] * CHANNELS + channel[None, :], mask=seen, other=0)
        if PLACES:
            a, b, c, d = load_texels(base, places, used, channel, CHANNELS, LINEAR)
            da += tl.sum(grad * a, 1)
            db += tl.sum(grad * b, 1)
            dc += tl.sum(grad * c, 1)
            dd += tl.sum(grad * d, 1)
        if total_ptr is not None:
            grad *= scale
            add_fixed(total_ptr, pa, channel, grad * wa[:, None], CHANNELS, one)
            if LINEAR:
                add_fixed(total_ptr, pb, channel, grad * wb[:, None], CHANNELS, one)
                add_fixed(total_ptr, pc, channel, grad * wc[:, None], CHANNELS, one)
                add_fixed(total_ptr, pd, channel, grad * wd[:, None], CHANNELS, one)
    dots = da, db, dc, dd
    if CUBE and LINEAR:
        dots = fill_corner(dots, places)
    by_right = (1 - below) * (dots[1] - dots[0]) + below * (dots[3] - dots[2])
    by_below = (1 - right) * (dots[2] - dots[0]) + right * (dots[3] - dots[1])
    return bilinear(dots, right, below), by_right, by_below


@triton.jit
def _weights(places, right, below, share, CUBE: tl.constexpr):
    """Computes the four texels' weights, 0 where there is none and where they are not numbers."""
    pa, pb, pc, pd = places
    a, b = share * (1 - below) * (1 - right), share * (1 - below) * right
    c, d = share * below * (1 - right), share * below * right
    known = a + b + c + d == a + b + c + d
    if CUBE:
        lost = tl.where(pa >= 0, 0.0, a) + tl.where(pb >= 0, 0.0, b) + tl.where(pc >= 0, 0.0, c)
        lost = (lost + tl.where(pd >= 0, 0.0, d)) * (1 / 3)
        a, b, c, d = a + lost, b + lost, c + lost, d + lost
    a, b = tl.where(known & (pa >= 0), a, 0.0), tl.where(known & (pb >= 0), b, 0.0)
    return a, b, tl.where(known & (pc >= 0), c, 0.0), tl.where(known & (pd >= 0), d, 0.0)
