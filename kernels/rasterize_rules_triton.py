"""The rules of `rasterize` for kernels: projection, window, edge functions and keys of triangles, one a lane.

A corner is (x, y, z) in camera space, (u, v, w, scale) when projected and (u, v, w) around a pixel.
"""
# Pyright does not know that functions of a kernel return something.
# pyright: reportGeneralTypeIssues=false

import torch
import triton
import triton.language as tl

from .common.projection_triton import project

EMPTY = tl.constexpr(torch.iinfo(torch.int64).max)
_INFINITE = tl.constexpr(0x7F800000)  # bits of inf


@triton.jit
def project_corner(corner, camera, near):
    """Projects a corner to homogeneous pixels, K X = (u, v, w) / scale; w = 1 in front, u NaN if not finite."""
    x, y, z = corner
    front = z >= near
    scale = tl.div_rn(1.0, tl.where(front, z, near))
    w = tl.where(front, 1.0, z * scale)
    u, v = project(camera, x, y, scale, w)
    return tl.where(tl.abs(u + v + z) < float("inf"), u, float("nan")), v, w, scale


@triton.jit
def load_row(rows_ptr, row, mask):
    """Loads four floats of rows of memory, by one load of 128 bits a lane; 0 where the mask is off."""
    at = (rows_ptr + row.to(tl.int64) * 4)[:, None] + tl.arange(0, 4)[None, :]
    values = tl.load(at, mask=mask[:, None], other=0.0)
    even, odd = tl.split(tl.reshape(values, (row.shape[0], 2, 2)))
    u, w = tl.split(even)
    v, scale = tl.split(odd)
    return u, v, w, scale


@triton.jit
def store_row(rows_ptr, row, values, mask):
    """Stores what `load_row` loads."""
    u, v, w, scale = values
    joined = tl.reshape(tl.join(tl.join(u, w), tl.join(v, scale)), (row.shape[0], 4))
    tl.store((rows_ptr + row.to(tl.int64) * 4)[:, None] + tl.arange(0, 4)[None, :], joined, mask=mask[:, None])


@triton.jit
def load_triangle(projected_ptr, corners_ptr, first, mask):
    """Loads the three projected corners of triangles from their numbers, which count from row `first`."""
    a, b = tl.load(corners_ptr, mask=mask, other=0), tl.load(corners_ptr + 1, mask=mask, other=0)
    c = tl.load(corners_ptr + 2, mask=mask, other=0)
    return (
        load_row(projected_ptr, first + a, mask),
        load_row(projected_ptr, first + b, mask),
        load_row(projected_ptr, first + c, mask),
    )


@triton.jit
def window(a, b, c, height, width):
    """Bounds the triangle's pixels: first and last column and row whose centres it may hold.

    And whether it reaches through the near plane, where it may show up anywhere, and whether it can be seen at all.
    """
    u0, u1 = tl.minimum(tl.minimum(a[0], b[0]), c[0]), tl.maximum(tl.maximum(a[0], b[0]), c[0])
    v0, v1 = tl.minimum(tl.minimum(a[1], b[1]), c[1]), tl.maximum(tl.maximum(a[1], b[1]), c[1])
    finite = a[0] + b[0] + c[0]
    finite = finite == finite
    w0, w1 = tl.minimum(tl.minimum(a[2], b[2]), c[2]), tl.maximum(tl.maximum(a[2], b[2]), c[2])
    crossing = (w0 < 1) & (w1 == 1)
    left, right = tl.maximum(tl.ceil(u0 - 0.5), 0.0), tl.minimum(tl.floor(u1 - 0.5), width - 1.0)
    top, bottom = tl.maximum(tl.ceil(v0 - 0.5), 0.0), tl.minimum(tl.floor(v1 - 0.5), height - 1.0)
    seen = finite & (crossing | ((w0 == 1) & (left <= right) & (top <= bottom)))
    whole = crossing | ~seen  # what is not seen could not be converted
    left, top = tl.where(whole, 0.0, left), tl.where(whole, 0.0, top)
    right, bottom = tl.where(whole, width - 1.0, right), tl.where(whole, height - 1.0, bottom)
    return left, right, top, bottom, crossing, seen


@triton.jit
def edge(p, q):
    """Computes the edge function, and what replaces it at 0: the pixel moves a little right and much less down."""
    px, py, pw = p
    qx, qy, qw = q
    value, right, down = px * qy - py * qx, py * qw - qy * pw, qx * pw - px * qw
    return value, tl.where(value != 0, value, tl.where(right != 0, right, down))


@triton.jit
def around(corner, px, py):
    """Shifts a projected corner to be relative to the pixel's centre."""
    u, v, w, _ = corner
    return u - px * w, v - py * w, w


@triton.jit
def hit_key(a, b, c, column, row, triangle, least, CULL: tl.constexpr):
    """Tests whether the pixel's centre lies in the triangle, and packs depth_bits << 32 | triangle there.

    Column and row are whole numbers in float32, `least` holds the bits of the least depth.
    """
    px, py = column + 0.5, row + 0.5
    p, q, r = around(a, px, py), around(b, px, py), around(c, px, py)
    e0, side0 = edge(q, r)
    e1, side1 = edge(r, p)
    e2, side2 = edge(p, q)
    if CULL:
        inside = (side0 < 0) & (side1 < 0) & (side2 < 0)  # seen from outside
    else:
        inside = (tl.abs(side0) > 0) & (tl.abs(side1) > 0) & (tl.abs(side2) > 0) & same_sign(side0, side1, side2)
    total = e0 * a[3] + e1 * b[3] + e2 * c[3]
    depth = tl.div_rn(e0 * a[2] + e1 * b[2] + e2 * c[2], tl.where(inside, total, 1.0))
    # Bits of floats from 0 are ordered as they are; those of negative ones are negative, of inf and NaN larger.
    bits = depth.to(tl.int32, bitcast=True)
    inside &= (bits >= least) & (bits < _INFINITE)
    return inside, (bits.to(tl.int64) << 32) | triangle.to(tl.uint32, bitcast=True).to(tl.int64)


@triton.jit
def same_sign(x, y, z):
    """Tests whether three floats have the same sign bit."""
    x, y, z = x.to(tl.int32, bitcast=True), y.to(tl.int32, bitcast=True), z.to(tl.int32, bitcast=True)
    return ((x ^ y) | (y ^ z)) >= 0


@triton.jit
def as_columns(corner):
    """Adds an axis for pixels to the numbers of a corner."""
    u, v, w, scale = corner
    return u[:, None], v[:, None], w[:, None], scale[:, None]
