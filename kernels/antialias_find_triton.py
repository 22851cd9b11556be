"""Kernel of the silhouette search of `antialias`, and what the other kernels need to know about its results.

A lane per pair of neighbouring pixels. It reads two ids and writes a code, 8 bytes a pair, and reads two depths and
what it walks over, which stays in the L2 cache, where the ids differ. Launched without fused multiply-add, so that
every number is the reference's to the bit; the kernels that start from its codes are too, and see the same crossing.
"""
# Launch options and constexprs are unknown to it.
# pyright: reportCallIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false

import torch
import triton
import triton.language as tl
from torch import Tensor

from .common.backend import lanes, on_device
from .common.fragments import Fragments
from .common.outlines import FAR, MAX_STEPS, NEAR, TIE
from .common.picture import Layer
from .common.projection_triton import load_camera, project
from .common.topology import topology

PIXELS = 32
"""A program's: one warp ends its walks, and leaves out what has no edge, without waiting for others."""
OPTIONS = {"num_warps": 1, "enable_fp_fusion": False}

_NEAR = tl.constexpr(NEAR)
_FAR = tl.constexpr(FAR)
_END = tl.constexpr(1 + TIE)


def find_silhouettes_triton(
    vertices: Tensor,  # [F, V, 3]
    triangles: Tensor,  # [T, 3]
    Ks: Tensor,  # [F, 3, 3]
    fragments: Fragments | Layer,  # [F, H, W]
    max_steps: int = MAX_STEPS,
) -> Tensor:  # [F, 2, H, W]
    """Finds silhouettes as `find_silhouettes` does, to the bit; Ks contiguous."""
    frames, height, width = fragments.triangle_id.shape
    mesh = topology(triangles, vertices.shape[1])
    codes = torch.empty(frames, 2, height, width, dtype=torch.int32, device=vertices.device)
    block = lanes(PIXELS)
    with on_device(vertices):
        antialias_find_kernel[(frames * 2 * triton.cdiv(height * width, block),)](
            fragments.triangle_id,
            fragments.depth,
            vertices,
            mesh.triangles,
            mesh.neighbors,
            Ks,
            codes,
            vertices.shape[1],
            len(triangles),
            height,
            width,
            MAX_STEPS=max_steps,
            BLOCK=block,
            **OPTIONS,
        )
    return codes


@triton.jit
def turned(
    points_ptr,  # [V, 3]
    vertex,
    camera,
    down,
    sign,
    mask,
):
    """Projects vertices: coordinates along the direction from p to q and across it, NaN where not usable; 1 / z."""
    point = points_ptr + vertex.to(tl.int64) * 3
    x = tl.load(point, mask, other=0.0)
    y = tl.load(point + 1, mask, other=0.0)
    z = tl.load(point + 2, mask, other=1.0)
    seen = (z > _NEAR) & (z < float("inf"))
    inverse = tl.div_rn(1.0, tl.where(seen, z, 1.0))
    u, v = project(camera, x, y, inverse, 1.0)
    seen &= (tl.abs(u) < _FAR) & (tl.abs(v) < _FAR)
    along = tl.where(seen, tl.where(down, v, u), float("nan")) * sign
    return along, tl.where(seen, tl.where(down, u, v), float("nan")), inverse


@triton.jit
def center(p, width, down, sign):
    """Computes the centre of pixel p in the coordinates of `turned`."""
    row = p // width
    y = row.to(tl.float32) + 0.5
    x = (p - row * width).to(tl.float32) + 0.5
    return tl.where(down, y, x) * sign, tl.where(down, x, y)


@triton.jit
def crossing(a0, c0, a1, c1):
    """Intersects an edge with the segment from p to q: the position along it."""
    return a0 - tl.div_rn(c0, c1 - c0) * (a1 - a0)


@triton.jit
def edge_ends(
    points_ptr,  # [V, 3]
    triangles_ptr,  # [T, 3]
    camera,
    code,
    p,
    width,
    down,
    sign,
    active,
):
    """Projects the ends of a silhouette edge, as (vertex, along, across, 1 / z) each, from the centre of p."""
    corner = code >> 1
    triangle = corner // 3
    k = corner - triangle * 3
    row = triangles_ptr + triangle.to(tl.int64) * 3
    v0 = tl.load(row + (k + 1) % 3, active, other=0)
    v1 = tl.load(row + (k + 2) % 3, active, other=0)
    pa, pc = center(p, width, down, sign)
    a0, c0, inverse0 = turned(points_ptr, v0, camera, down, sign, active)
    a1, c1, inverse1 = turned(points_ptr, v1, camera, down, sign, active)
    return v0, a0 - pa, c0 - pc, inverse0, v1, a1 - pa, c1 - pc, inverse1


@triton.jit
def antialias_find_kernel(
    id_ptr,  # [F, H, W] int32
    depth_ptr,  # [F, H, W]
    vertices_ptr,  # [F, V, 3]
    triangles_ptr,  # [T, 3] int32
    neighbors_ptr,  # [T, 3] int32
    Ks_ptr,  # [F, 3, 3]
    code_ptr,  # [F, 2, H, W] int32
    vertices,
    triangles,
    height,
    width,
    MAX_STEPS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    size = height * width
    blocks = tl.cdiv(size, BLOCK)
    program = tl.program_id(0).to(tl.int64)
    frame = program // blocks // 2
    down = program // blocks % 2 == 1
    pixel = (program % blocks * BLOCK).to(tl.int32) + tl.arange(0, BLOCK)
    row = pixel // width
    second = pixel + tl.where(down, width, 1)
    paired = (pixel < size) & tl.where(down, row + 1 < height, pixel - row * width + 1 < width)
    id0 = tl.load(id_ptr + frame * size + pixel, paired, other=-1)
    id1 = tl.load(id_ptr + frame * size + second, paired, other=-1)
    walking = id0 != id1
    codes = tl.full([BLOCK], -1, tl.int32)
    if tl.max(walking.to(tl.int32), 0) > 0:
        points_ptr = vertices_ptr + frame * vertices * 3
        camera = load_camera(Ks_ptr, frame)
        depth0 = tl.load(depth_ptr + frame * size + pixel, walking, other=0.0)
        depth1 = tl.load(depth_ptr + frame * size + second, walking, other=0.0)
        side = (depth0 > depth1).to(tl.int32)
        sign = 1.0 - 2.0 * side.to(tl.float32)
        triangle = tl.where(side == 0, id0, id1)
        goal = tl.where(side == 0, id1, id0)
        pa, pc = center(tl.where(side == 0, pixel, second), width, down, sign)
        walking &= (triangle >= 0) & (triangle < triangles)

        # The exit of the first triangle: see `find_silhouettes`.
        t3 = triangle.to(tl.int64) * 3
        v0 = tl.load(triangles_ptr + t3, walking, other=0)
        v1 = tl.load(triangles_ptr + t3 + 1, walking, other=0)
        v2 = tl.load(triangles_ptr + t3 + 2, walking, other=0)
        a0, c0, _i0 = turned(points_ptr, v0, camera, down, sign, walking)
        a1, c1, _i1 = turned(points_ptr, v1, camera, down, sign, walking)
        a2, c2, _i2 = turned(points_ptr, v2, camera, down, sign, walking)
        turns_up = (a1 - a0) * (c2 - c0) - (c1 - c0) * (a2 - a0) > 0
        leaves0 = ((c1 > pc) != (c2 > pc)) & ((c2 > pc) == turns_up)
        leaves1 = ((c2 > pc) != (c0 > pc)) & ((c0 > pc) == turns_up)
        leaves2 = ((c0 > pc) != (c1 > pc)) & ((c1 > pc) == turns_up)
        walking &= (leaves0 | leaves1 | leaves2) & (a0 == a0) & (a1 == a1) & (a2 == a2)
        k = tl.where(leaves0, 0, tl.where(leaves1, 1, 2))
        low = tl.where(turns_up, k + 1, k + 2) % 3
        high = tl.where(turns_up, k + 2, k + 1) % 3
        la = tl.where(low == 0, a0, tl.where(low == 1, a1, a2))
        lc = tl.where(low == 0, c0, tl.where(low == 1, c1, c2))
        ha = tl.where(high == 0, a0, tl.where(high == 1, a1, a2))
        hc = tl.where(high == 0, c0, tl.where(high == 1, c1, c2))
        low = tl.where(low == 0, v0, tl.where(low == 1, v1, v2))
        corner = triangle * 3 + k

        step = 0
        while (step < MAX_STEPS) & (tl.max(walking.to(tl.int32), 0) > 0):
            s = crossing(la - pa, lc - pc, ha - pa, hc - pc)
            walking &= (s < _END) & (corner // 3 != goal)
            behind = tl.load(neighbors_ptr + corner.to(tl.int64), walking, other=-1)
            border = behind < 0
            onward = walking & (behind >= 0)
            vertex = tl.load(triangles_ptr + behind.to(tl.int64), onward, other=0)
            a, c, _i = turned(points_ptr, vertex, camera, down, sign, onward)
            ends = border | ((ha - la) * (c - lc) - (hc - lc) * (a - la) > 0)
            flat = tl.abs(ha - la) - (hc - lc)
            found = walking & ends & tl.where(down, flat <= 0, flat < 0) & (s > -0.5)
            codes = tl.where(found, corner * 2 + side, codes)
            walking = onward & (ends == 0)  # where a vertex is NaN, so is the next crossing
            k = behind % 3
            above = c > pc
            first = tl.load(triangles_ptr + (behind - k + (k + 1) % 3).to(tl.int64), walking, other=0)
            corner = tl.where(walking, behind - k + (k + tl.where((first == low) == above, 2, 1)) % 3, corner)
            la = tl.where(above, la, a)
            lc = tl.where(above, lc, c)
            low = tl.where(above, low, vertex)
            ha = tl.where(above, a, ha)
            hc = tl.where(above, c, hc)
            step += 1
    tl.store(code_ptr + (program // blocks) * size + pixel, codes, pixel < size)
