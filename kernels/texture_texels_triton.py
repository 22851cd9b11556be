"""What the kernels of `texture` share: the pixel's place, its mip level, and the texels around it there."""
# Pyright does not know that functions of a kernel return something.
# pyright: reportCallIssue=false, reportGeneralTypeIssues=false, reportArgumentType=false

import triton
import triton.language as tl

from .texture_cube_triton import across_edge, face_of, face_slopes, on_face


@triton.jit
def pixels_of(pixels, BLOCK: tl.constexpr):
    """Finds the program's frame and pixels: where they are among all frames, and which exist."""
    blocks = tl.cdiv(pixels, BLOCK)
    program = tl.program_id(0).to(tl.int64)
    frame = program // blocks
    pixel = program % blocks * BLOCK + tl.arange(0, BLOCK)
    return frame, frame * pixels + pixel, pixel < pixels


@triton.jit
def load_place(uv_ptr, at, exists, CUBE: tl.constexpr):
    """Loads where a pixel looks: face, u, v, and on a cube s, t, m besides, which are 0, 0, 1 elsewhere."""
    if CUBE:
        x = tl.load(uv_ptr + 3 * at, mask=exists, other=0.0)
        y = tl.load(uv_ptr + 3 * at + 1, mask=exists, other=0.0)
        z = tl.load(uv_ptr + 3 * at + 2, mask=exists, other=1.0)
        face = face_of(x, y, z)
        s, t, m = on_face(face, x, y, z)
        s, t = s / m, t / m
        u, v = 0.5 * (s + 1), 0.5 * (t + 1)
    else:
        u = tl.load(uv_ptr + 2 * at, mask=exists, other=0.0)
        v = tl.load(uv_ptr + 2 * at + 1, mask=exists, other=0.0)
        face = tl.zeros(at.shape, tl.int32)
        s, t, m = 0.0, 0.0, 1.0
    return face, u, v, s, t, m


@triton.jit
def load_sides(uv_da_ptr, at, exists, face, CUBE: tl.constexpr):
    """Loads derivatives by the picture's X and Y: of u and v, on a cube of s, t and m."""
    if CUBE:
        p = uv_da_ptr + 6 * at
        xx, xy = tl.load(p, mask=exists, other=0.0), tl.load(p + 1, mask=exists, other=0.0)
        yx, yy = tl.load(p + 2, mask=exists, other=0.0), tl.load(p + 3, mask=exists, other=0.0)
        zx, zy = tl.load(p + 4, mask=exists, other=0.0), tl.load(p + 5, mask=exists, other=0.0)
        dx, dy = on_face(face, xx, yx, zx), on_face(face, xy, yy, zy)
    else:
        p = uv_da_ptr + 4 * at
        ux, uy = tl.load(p, mask=exists, other=0.0), tl.load(p + 1, mask=exists, other=0.0)
        vx, vy = tl.load(p + 2, mask=exists, other=0.0), tl.load(p + 3, mask=exists, other=0.0)
        dx, dy = (ux, vx, 0.0), (uy, vy, 0.0)
    return dx, dy


@triton.jit
def place_slopes(s, t, m, dx, dy, CUBE: tl.constexpr):
    """Returns du/dX, du/dY, dv/dX and dv/dY from what `load_sides` found."""
    if CUBE:
        ux, uy, vx, vy = face_slopes(s, t, m, dx, dy)
    else:
        ux, uy, vx, vy = dx[0], dy[0], dx[1], dy[1]
    return ux, uy, vx, vy


@triton.jit
def squared_sides(slopes, height, width):
    """Squares a pixel's two sides, in texels."""
    ux, uy, vx, vy = slopes
    ux, uy, vx, vy = ux * width, uy * width, vx * height, vy * height
    return ux * ux + vx * vx, uy * uy + vy * vy


@triton.jit
def load_level(uv_da_ptr, bias_ptr, at, exists, face, s, t, m, height, width, CUBE: tl.constexpr,
               LEAST: tl.constexpr, LARGEST: tl.constexpr):  # fmt: skip
    """Computes the unclamped mip level; not a number where what it comes from is none."""
    level = tl.zeros(at.shape, tl.float32)
    if uv_da_ptr is not None:
        dx, dy = load_sides(uv_da_ptr, at, exists, face, CUBE)
        a, b = squared_sides(place_slopes(s, t, m, dx, dy, CUBE), height, width)
        level = 0.5 * tl.log2(clamped(longer(a, b), LEAST, LARGEST))
    if bias_ptr is not None:
        level += tl.load(bias_ptr + at, mask=exists, other=0.0)
    return level


@triton.jit
def longer(a, b):
    """Returns the larger; not a number where one of them is none."""
    return tl.where((a > b) | (a != a), a, b)


@triton.jit
def clamped(x, low, high):
    """Clamps x; what is not a number stays so."""
    return tl.where(x < low, low, tl.where(x > high, high, x))


@triton.jit
def split_level(level, levels, MIPS: tl.constexpr):
    """Splits a level into the integer one below and the share of the one above; MIPS 1 takes the nearest alone."""
    level = clamped(level, 0.0, levels - 1.0)
    known = tl.where(level == level, level, 0.0)
    if MIPS == 2:
        lower = tl.floor(known)
    else:
        lower = tl.ceil(known + 0.5) - 1
    share = level - lower if MIPS == 2 else tl.where(level == level, 0.0, level)
    return lower.to(tl.int32), share


@triton.jit
def level_start(level, height, width, levels, FACES: tl.constexpr):
    """Counts the texels of all levels before this one."""
    start = tl.zeros(level.shape, tl.int64)
    for k in range(0, levels):
        texels = tl.maximum(height >> k, 1).to(tl.int64) * tl.maximum(width >> k, 1) * FACES
        start += tl.where(k < level, texels, 0)
    return start


@triton.jit
def level_base(texels_ptr, mips_ptr, frame, texel_stride, mip_stride, level, start, in_texels,
               CHANNELS: tl.constexpr, MIPS: tl.constexpr):  # fmt: skip
    """Finds where a level's table begins: level 0 is `texels`, the others follow one another in `mips`."""
    base = texels_ptr + frame * texel_stride + tl.zeros(level.shape, tl.int64)
    if MIPS > 0:
        base = tl.where(level == 0, base, mips_ptr + frame * mip_stride + (start - in_texels) * CHANNELS)
    return base


@triton.jit
def along(place, size, BOUNDARY: tl.constexpr, LINEAR: tl.constexpr):
    """Finds the two nearest texels along an axis, the second one's weight, and its slope.

    On a cube, and with zeros around, they may lie beyond the edge. Where the place is not a number, neither is the
    weight.
    """
    slope = size.to(tl.float32)
    last = slope - 1
    if BOUNDARY == "wrap":
        place -= tl.floor(place)
    if BOUNDARY == "mirror":
        place -= 2 * tl.floor(0.5 * place)
        slope = tl.where(place > 1, -slope, slope)
        place = 1 - tl.abs(place - 1)
    at = place * (last + 1)
    if LINEAR:
        at -= 0.5
    if BOUNDARY == "zero":
        at = clamped(at, -2.0, last + 2)
    if BOUNDARY == "clamp" or BOUNDARY == "mirror" or (BOUNDARY == "cube" and not LINEAR):
        slope = tl.where((at >= 0) & (at <= last), slope, 0.0)
        at = clamped(at, 0.0, last)
    known = tl.where(at == at, at, 0.0)
    first = tl.floor(known)
    weight = at - first if LINEAR else tl.where(at == at, 0.0, at)
    first = first.to(tl.int32)
    second = first + 1
    if BOUNDARY == "wrap":
        first = tl.where(first < 0, first + size, tl.where(first >= size, first - size, first))
        second = tl.where(second >= size, second - size, second)
    if BOUNDARY == "clamp" or BOUNDARY == "mirror":
        second = tl.minimum(second, size - 1)
    return first, second, weight, slope


@triton.jit
def texels_around(face, u, v, level, height, width, BOUNDARY: tl.constexpr, LINEAR: tl.constexpr):
    """Finds the four texels around a place in its level: their places in the level's table, -1 where there is none.

    Returns besides the weights of right and lower ones and their slopes by u and v, and a key that only pixels with the
    same four texels share. Without LINEAR the first texel is the one.
    """
    height, width = tl.maximum(height >> level, 1), tl.maximum(width >> level, 1)
    i0, i1, right, du = along(u, width, BOUNDARY, LINEAR)
    j0, j1, below, dv = along(v, height, BOUNDARY, LINEAR)
    key = ((level * 6 + face).to(tl.int64) * (height + 4) + j0 + 2) * (width + 4) + i0 + 2
    if BOUNDARY == "cube":
        a, b = across_edge(face, j0, i0, width), across_edge(face, j0, i1, width)
        c, d = across_edge(face, j1, i0, width), across_edge(face, j1, i1, width)
    else:
        top, bottom = j0.to(tl.int64) * width, j1.to(tl.int64) * width
        a, b, c, d = top + i0, top + i1, bottom + i0, bottom + i1
        if BOUNDARY == "zero":
            has_i0, has_i1, has_j0, has_j1 = (
                inside(i0, width),
                inside(i1, width),
                inside(j0, height),
                inside(j1, height),
            )
            a, b = tl.where(has_j0 & has_i0, a, -1), tl.where(has_j0 & has_i1, b, -1)
            c, d = tl.where(has_j1 & has_i0, c, -1), tl.where(has_j1 & has_i1, d, -1)
    return (a, b, c, d), right, below, du, dv, key


@triton.jit
def inside(index, size):
    """Tells which indices are those of texels."""
    return (index >= 0) & (index < size)


@triton.jit
def load_texels(base, places, wanted, channel, CHANNELS: tl.constexpr, LINEAR: tl.constexpr):
    """Loads channels of the four texels around, 0 where there is none; all are the first without LINEAR."""
    seen = wanted[:, None] & (channel < CHANNELS)[None, :]
    base = base[:, None] + channel[None, :]
    a = _load_texel(base, places[0][:, None], seen, CHANNELS)
    b, c, d = a, a, a
    if LINEAR:
        b = _load_texel(base, places[1][:, None], seen, CHANNELS)
        c = _load_texel(base, places[2][:, None], seen, CHANNELS)
        d = _load_texel(base, places[3][:, None], seen, CHANNELS)
    return a, b, c, d


@triton.jit
def _load_texel(base, place, seen, CHANNELS: tl.constexpr):
    return tl.load(base + place * CHANNELS, mask=seen & (place >= 0), other=0.0)


@triton.jit
def fill_corner(texels, places):
    """Puts the mean of the other three in place of the texel that a corner of the cube lacks, which is 0."""
    a, b, c, d = texels
    pa, pb, pc, pd = places
    mean = (a + b + c + d) * (1 / 3)
    return (
        tl.where(pa >= 0, a, mean),
        tl.where(pb >= 0, b, mean),
        tl.where(pc >= 0, c, mean),
        tl.where(pd >= 0, d, mean),
    )


@triton.jit
def bilinear(texels, right, below):
    """Blends four texels by the weights of right and lower ones."""
    a, b, c, d = texels
    return (1 - below) * ((1 - right) * a + right * b) + below * ((1 - right) * c + right * d)
