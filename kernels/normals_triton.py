"""Kernels of `vertex_normals`: a lane gathers the triangles around a vertex of a frame; nothing is added atomically.

Floor at 3.0 TB/s for 32 frames of 68,152 vertices and 133,344 triangles. Positions are written as rows of four floats,
so that gathering one is one load: 28 bytes a vertex of a frame, 20 us. Forward reads 16 and writes 16, the inverse
length among them: 70 MB, 23 us. Backward reads 28 and writes 16 for the gradient of the area vectors, writes the rows,
then reads 32 and writes 12: 253 MB, 84 us. The mesh's ring, 24 bytes a triangle, comes once, and rows of a frame stay
in the L2 cache. A vertex gathers seven times forward and fourteen times backward, at some 16 cache lines a warp: what
the L1 cache looks up takes 58 and 89 us.
"""
# Pyright knows neither launch options nor that functions of a kernel return something.
# pyright: reportCallIssue=false, reportGeneralTypeIssues=false, reportArgumentType=false

import torch
import triton
import triton.language as tl
from torch import Tensor

from .common.backend import lanes, on_device
from .common.lanes_triton import lanes_of_frame, load3, load_pair, load_row, store3_together, store_row
from .common.rows_triton import pad_rows
from .common.topology import Topology, topology

LANES = 128


@triton.jit
def _cross(ax, ay, az, bx, by, bz):
    return ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx


@triton.jit
def _ring_of(ring_start_ptr, vertex, mask):
    """Loads first entry and number of entries of each vertex's ring."""
    start = tl.load(ring_start_ptr + vertex, mask, 0)
    return start.to(tl.int64), tl.load(ring_start_ptr + vertex + 1, mask, 0) - start


@triton.jit
def unit_normals(rows_ptr, ring_start_ptr, ring_ptr, vertex, mask, RESOLUTION: tl.constexpr):
    """Computes normals of vertices of the frame at rows_ptr [V, 4], and the inverse lengths of their area vectors.

    `error` bounds, but for the factor RESOLUTION, how far rounding of the positions moves an area vector.
    """
    ax, ay, az, _ = load_row(rows_ptr, vertex, mask)
    start, count = _ring_of(ring_start_ptr, vertex, mask)
    x, y, z, square = tl.zeros_like(ax), tl.zeros_like(ax), tl.zeros_like(ax), tl.zeros_like(ax)
    cx, cy, cz = x, y, z  # edge from a to c
    c = tl.full(vertex.shape, -1, tl.int32)
    for i in range(tl.max(count)):
        some = i < count
        last = c
        b, c = load_pair(ring_ptr, start + i, some)
        new = some & (b != last)  # rings are fans: mostly b is the c before
        bx, by, bz, _ = load_row(rows_ptr, b, new)
        bx, by, bz = tl.where(new, bx - ax, cx), tl.where(new, by - ay, cy), tl.where(new, bz - az, cz)
        cx, cy, cz, _ = load_row(rows_ptr, c, some)
        cx, cy, cz = cx - ax, cy - ay, cz - az
        tx, ty, tz = _cross(bx, by, bz, cx, cy, cz)
        square += tl.where(some, bx * bx + by * by + bz * bz + cx * cx + cy * cy + cz * cz, 0.0)
        x += tl.where(some, tx, 0.0)
        y += tl.where(some, ty, 0.0)
        z += tl.where(some, tz, 0.0)
    reach = tl.abs(ax) + tl.abs(ay) + tl.abs(az)
    error = tl.where(square == 0, 1.0, tl.sqrt(8 * count * square) * reach + square)  # no edges, no area
    x, y, z = x / error, y / error, z / error  # in units that neither overflow nor vanish
    size = x * x + y * y + z * z
    tiny = RESOLUTION * RESOLUTION
    inverse = tl.where(size > tiny, tl.rsqrt(tl.maximum(size, tiny)), 0.0)
    return x * inverse, y * inverse, z * inverse, inverse / error


@triton.jit
def through_normalization(gx, gy, gz, nx, ny, nz, inverse):
    """Carries the gradient of a unit normal back to its area vector."""
    along = gx * nx + gy * ny + gz * nz
    return (gx - along * nx) * inverse, (gy - along * ny) * inverse, (gz - along * nz) * inverse


@triton.jit
def vertex_normals_fwd_kernel(
    rows_ptr,  # [F, V, 4]
    ring_start_ptr,  # [V + 1]
    ring_ptr,  # [3T, 2]
    normals_ptr,  # [F, V, 3] out
    inverse_ptr,  # [F, V] out, one over the length of the area vector, 0 where the normal is undefined
    vertices,
    RESOLUTION: tl.constexpr,
    BLOCK: tl.constexpr,
):
    frame, _, vertex, mask = lanes_of_frame(vertices, BLOCK)
    x, y, z, inverse = unit_normals(rows_ptr + frame * vertices * 4, ring_start_ptr, ring_ptr, vertex, mask, RESOLUTION)
    at = frame * vertices + vertex
    store3_together(normals_ptr + 3 * at, x, y, z, mask)
    tl.store(inverse_ptr + at, inverse, mask)


@triton.jit
def normalization_bwd_kernel(
    d_normals_ptr,  # [F, V, 3]
    normals_ptr,  # [F, V, 3]
    inverse_ptr,  # [F, V]
    d_areas_ptr,  # [F, V, 4] out, gradients of the area vectors
    count,
    BLOCK: tl.constexpr,
):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = at < count
    gx, gy, gz = load3(d_normals_ptr + 3 * at, mask)
    x, y, z = load3(normals_ptr + 3 * at, mask)
    gx, gy, gz = through_normalization(gx, gy, gz, x, y, z, tl.load(inverse_ptr + at, mask, 0.0))
    store_row(d_areas_ptr, at, (gx, gy, gz, tl.zeros_like(gx)), mask)


@triton.jit
def area_vectors_bwd_kernel(
    rows_ptr,  # [F, V, 4]
    ring_start_ptr,  # [V + 1]
    ring_ptr,  # [3T, 2]
    d_areas_ptr,  # [F, V, 4]
    d_vertices_ptr,  # [F, V, 3] out
    vertices,
    BLOCK: tl.constexpr,
):
    """Gathers vertex gradients d_a = sum of (b - c) x (G_a + G_b + G_c).

    The area vector (b - a) x (c - a) counts at all three corners.
    """
    frame, _, vertex, mask = lanes_of_frame(vertices, BLOCK)
    points_ptr = rows_ptr + frame * vertices * 4
    areas_ptr = d_areas_ptr + frame * vertices * 4
    ax, ay, az, _ = load_row(areas_ptr, vertex, mask)
    start, count = _ring_of(ring_start_ptr, vertex, mask)
    x, y, z = tl.zeros_like(ax), tl.zeros_like(ax), tl.zeros_like(ax)
    cx, cy, cz, qx, qy, qz = x, y, z, x, y, z
    c = tl.full(vertex.shape, -1, tl.int32)
    for i in range(tl.max(count)):
        some = i < count
        last = c
        b, c = load_pair(ring_ptr, start + i, some)
        new = some & (b != last)
        bx, by, bz, _ = load_row(points_ptr, b, new)
        bx, by, bz = tl.where(new, bx, cx), tl.where(new, by, cy), tl.where(new, bz, cz)
        px, py, pz, _ = load_row(areas_ptr, b, new)
        px, py, pz = tl.where(new, px, qx), tl.where(new, py, qy), tl.where(new, pz, qz)
        cx, cy, cz, _ = load_row(points_ptr, c, some)
        qx, qy, qz, _ = load_row(areas_ptr, c, some)
        tx, ty, tz = _cross(bx - cx, by - cy, bz - cz, ax + px + qx, ay + py + qy, az + pz + qz)
        x += tl.where(some, tx, 0.0)
        y += tl.where(some, ty, 0.0)
        z += tl.where(some, tz, 0.0)
    store3_together(d_vertices_ptr + 3 * (frame * vertices + vertex), x, y, z, mask)


def gather_area_gradient(vertices: Tensor, mesh: Topology, d_areas: Tensor) -> Tensor:
    """Computes the gradient of the vertices [F, V, 3] from that of the area vectors [F, V, 4]."""
    frames, count, _ = vertices.shape
    d_vertices = torch.empty_like(vertices)
    block = lanes(LANES)
    with on_device(vertices):
        area_vectors_bwd_kernel[(triton.cdiv(count, block) * frames,)](
            pad_rows(vertices), mesh.ring_start, mesh.ring, d_areas, d_vertices, count, BLOCK=block, num_warps=4
        )
    return d_vertices


def vertex_normals_triton(
    vertices: Tensor,  # [F, V, 3]
    triangles: Tensor,  # [T, 3]
    resolution: float,
) -> tuple[Tensor, Tensor]:  # [F, V, 3], [F, V]
    """Computes normals, and one over the lengths of the area vectors, by a kernel."""
    mesh = topology(triangles, vertices.shape[1])
    frames, count, _ = vertices.shape
    normals, inverse = torch.empty_like(vertices), vertices.new_empty(frames, count)
    block = lanes(LANES)
    with on_device(vertices):
        vertex_normals_fwd_kernel[(triton.cdiv(count, block) * frames,)](
            pad_rows(vertices),
            mesh.ring_start,
            mesh.ring,
            normals,
            inverse,
            count,
            RESOLUTION=resolution,
            BLOCK=block,
            num_warps=4,
        )
    return normals, inverse


def vertex_normals_triton_backward(
    grad_normals: Tensor,  # [F, V, 3]
    vertices: Tensor,  # [F, V, 3]
    triangles: Tensor,  # [T, 3]
    normals: Tensor,  # [F, V, 3]
    inverse: Tensor,  # [F, V]
) -> Tensor:  # [F, V, 3]
    """Differentiates by the vertices."""
    d_areas = vertices.new_empty(*inverse.shape, 4)
    block = lanes(LANES)
    with on_device(vertices):
        normalization_bwd_kernel[(triton.cdiv(inverse.numel(), block),)](
            grad_normals.contiguous(), normals, inverse, d_areas, inverse.numel(), BLOCK=block, num_warps=4
        )
    return gather_area_gradient(vertices, topology(triangles, vertices.shape[1]), d_areas)
