"""The rules of `rasterize` for kernels: projection, window, edge functions and keys of triangles, one a lane.

A corner is (x, y, z) in camera space or (x, y, z, w) in clip space, (u, v, w, scale) when projected, or in clip space
(u, v, w, depth) to be drawn, and (u, v, w) around a pixel.
"""
# Pyright does not know that functions of a kernel return something.
# pyright: reportGeneralTypeIssues=false

import torch
import triton
import triton.language as tl

from .common.lanes_triton import load_row
from .common.projection_triton import project
from .common.viewport import OBLIQUE

EMPTY = tl.constexpr(torch.iinfo(torch.int64).max)
_INFINITE = tl.constexpr(0x7F800000)  # bits of inf
_OBLIQUE = tl.constexpr(OBLIQUE)


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
def viewport(height, width):
    """Makes the camera of clip space, which sees (x, y, w)."""
    return width * 0.5, 0.0, width * 0.5, 0.0, height * 0.5, height * 0.5


@triton.jit
def project_clip_corner(corner, height, width):
    """Projects a corner of clip space: u, v, w and scale as `project_corner`, and the depth times w."""
    x, y, z, w = corner
    reach = tl.maximum(tl.maximum(tl.abs(x), tl.abs(y)), tl.abs(z))
    front = w > reach * _OBLIQUE
    reach = tl.maximum(reach, tl.abs(w))
    scale = tl.div_rn(1.0, tl.where(front, w, tl.where(reach > 0, reach, 1.0)))
    depth, weight = z * scale, tl.where(front, 1.0, w * scale)
    u, v = project(viewport(height, width), x, y, scale, weight)
    return tl.where(tl.abs(u + v + depth + w) < float("inf"), u, float("nan")), v, weight, scale, depth


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
def window(a, b, c, height, width, CLIP: tl.constexpr):
    """Bounds the triangle's pixels: first and last column and row whose centres it may hold.

    And whether it has corners in front and behind, so that it may show up anywhere, and whether it can be seen at all.
    """
    u0, u1 = tl.minimum(tl.minimum(a[0], b[0]), c[0]), tl.maximum(tl.maximum(a[0], b[0]), c[0])
    v0, v1 = tl.minimum(tl.minimum(a[1], b[1]), c[1]), tl.maximum(tl.maximum(a[1], b[1]), c[1])
    finite = a[0] + b[0] + c[0]
    finite = finite == finite
    w0, w1 = tl.minimum(tl.minimum(a[2], b[2]), c[2]), tl.maximum(tl.maximum(a[2], b[2]), c[2])
    crossing = (w0 < 1) & ((w1 > 0) if CLIP else (w1 == 1))
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
    value = p[0] * q[1] - p[1] * q[0]
    right, down = slopes(p, q)
    return value, tl.where(value != 0, value, tl.where(right != 0, right, down))


@triton.jit
def slopes(p, q):
    """Computes how the edge function changes with the pixel's column and row."""
    px, py, pw = p
    qx, qy, qw = q
    return py * qw - qy * pw, qx * pw - px * qw


@triton.jit
def around(corner, px, py):
    """Shifts a projected corner to be relative to the pixel's centre."""
    u, v, w, _ = corner
    return u - px * w, v - py * w, w


@triton.jit
def hit_key(a, b, c, column, row, triangle, least, FACING: tl.constexpr, CLIP: tl.constexpr):
    """Tests whether the pixel's centre lies in the triangle, and packs its depth and number there.

    Column and row are whole numbers in float32, `least` holds the bits of the least depth in camera space. FACING is
    the sign of the edge functions of the triangles to be drawn, 0 for both.
    """
    px, py = column + 0.5, row + 0.5
    p, q, r = around(a, px, py), around(b, px, py), around(c, px, py)
    e0, side0 = edge(q, r)
    e1, side1 = edge(r, p)
    e2, side2 = edge(p, q)
    if FACING < 0:
        inside = (side0 < 0) & (side1 < 0) & (side2 < 0)
    elif FACING > 0:
        inside = (side0 > 0) & (side1 > 0) & (side2 > 0)
    else:
        inside = (tl.abs(side0) > 0) & (tl.abs(side1) > 0) & (tl.abs(side2) > 0) & same_sign(side0, side1, side2)
    w = e0 * a[2] + e1 * b[2] + e2 * c[2]
    other = e0 * a[3] + e1 * b[3] + e2 * c[3]
    if CLIP:
        inside &= (w != 0) & ((w > 0) == (side0 > 0))  # of one sign where w of clip space is positive
        depth = tl.div_rn(other, tl.where(inside, w, 1.0))
        inside &= tl.abs(depth) <= 1
        depth = tl.where(depth == 0, 0.0, depth)  # no -0, whose bits would differ
    else:
        depth = tl.div_rn(w, tl.where(inside, other, 1.0))
        # Bits of floats from 0 are ordered as they are; those of negative ones are negative, of inf and NaN larger.
        bits = depth.to(tl.int32, bitcast=True)
        inside &= (bits >= least) & (bits < _INFINITE)
    return inside, pack_key(depth, triangle)


@triton.jit
def pack_key(depth, triangle):
    """Packs depth and triangle into an integer; they are ordered by depth, those of one depth by triangle."""
    bits = ordered(depth.to(tl.int32, bitcast=True)).to(tl.int64)
    return (bits << 32) | triangle.to(tl.uint32, bitcast=True).to(tl.int64)


@triton.jit
def ordered(bits):
    """Maps the bits of floats to integers of the same order, and back; those of floats from 0 stay as they are."""
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def lies_behind(
    key,
    depth_ptr,  # [F, H, W]
    triangle_id_ptr,  # [F, H, W]
    at,
    hit,
):
    """Tests which hits come after what a layer sees; where it sees nothing, its depth of inf leaves none."""
    last = tl.load(depth_ptr + at, mask=hit, other=0.0)
    return hit & (key > pack_key(last, tl.load(triangle_id_ptr + at, mask=hit, other=0)))


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
