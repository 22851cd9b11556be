"""Kernels of `shade_sh` and of `shade_vertices`, which is `vertex_normals` and `shade_sh` in one pass.

Floor at 3.0 TB/s for 32 frames of 8 people, 68,152 vertices and 133,344 triangles. `shade_vertices` forward, a lane a
vertex of a frame, reads 16 bytes of position, which another 28 make a row of, and writes 28 (normal, colour, inverse
length), and reads 12 a vertex of a person: 164 MB, 54 us. Backward, a lane per vertex of a person goes through the
frames, reads 28 bytes a frame (12 more where normals are used elsewhere) and writes 16, and moves 24 a person: 109 MB,
36 us; gathering the gradients of the area vectors is another 52 us, as in `vertex_normals`. `shade_sh` alone: 20 us and
31 us.
"""
# Pyright knows neither launch options nor that functions of a kernel return something.
# pyright: reportCallIssue=false, reportGeneralTypeIssues=false, reportArgumentType=false

import torch
import triton
import triton.language as tl
from torch import Tensor

from .common.backend import lanes, on_device
from .common.checks import check_corners
from .common.custom_op import register
from .common.lanes_triton import lanes_of_frame, load3, store3, store3_together, store_row
from .common.rows_triton import pad_rows
from .common.topology import topology
from .normals_triton import LANES, gather_area_gradient, through_normalization, unit_normals


@triton.jit
def _light(sh_ptr, x, y, z):
    """sum_b gamma_b H_b(n) of the channel whose nine coefficients start at sh_ptr, three apart."""
    linear = tl.load(sh_ptr) + tl.load(sh_ptr + 3) * x + tl.load(sh_ptr + 6) * y + tl.load(sh_ptr + 9) * z
    mixed = tl.load(sh_ptr + 12) * (x * y) + tl.load(sh_ptr + 15) * (x * z) + tl.load(sh_ptr + 18) * (y * z)
    return linear + mixed + tl.load(sh_ptr + 21) * (x * x - y * y) + tl.load(sh_ptr + 24) * (3 * z * z - 1)


@triton.jit
def _light_gradient(sh_ptr, x, y, z):
    """Derivatives of `_light` by x, y and z."""
    xy, xz, yz = tl.load(sh_ptr + 12), tl.load(sh_ptr + 15), tl.load(sh_ptr + 18)
    squares, zz = 2 * tl.load(sh_ptr + 21), 6 * tl.load(sh_ptr + 24)
    return (
        tl.load(sh_ptr + 3) + xy * y + xz * z + squares * x,
        tl.load(sh_ptr + 6) + xy * x + yz * z - squares * y,
        tl.load(sh_ptr + 9) + xz * x + yz * y + zz * z,
    )


@triton.jit
def _store_light_sums(sums_ptr, weight, x, y, z):
    """Gradients of a channel's nine coefficients from that of its light, summed over the program's lanes."""
    tl.store(sums_ptr, tl.sum(weight))
    tl.store(sums_ptr + 3, tl.sum(weight * x))
    tl.store(sums_ptr + 6, tl.sum(weight * y))
    tl.store(sums_ptr + 9, tl.sum(weight * z))
    tl.store(sums_ptr + 12, tl.sum(weight * x * y))
    tl.store(sums_ptr + 15, tl.sum(weight * x * z))
    tl.store(sums_ptr + 18, tl.sum(weight * y * z))
    tl.store(sums_ptr + 21, tl.sum(weight * (x * x - y * y)))
    tl.store(sums_ptr + 24, tl.sum(weight * (3 * z * z - 1)))


@triton.jit
def _store_colors(colors_ptr, reflectance_ptr, sh_ptr, x, y, z, mask):
    r, g, b = load3(reflectance_ptr, mask)
    r, g, b = r * _light(sh_ptr, x, y, z), g * _light(sh_ptr + 1, x, y, z), b * _light(sh_ptr + 2, x, y, z)
    store3_together(colors_ptr, r, g, b, mask)


@triton.jit
def shade_sh_fwd_kernel(
    reflectance_ptr,  # [R, V, 3]
    normals_ptr,  # [F, V, 3]
    sh_ptr,  # [F, 9, 3]
    colors_ptr,  # [F, V, 3] out
    vertices,
    frames_per_set,
    BLOCK: tl.constexpr,
):
    frame, _, vertex, mask = lanes_of_frame(vertices, BLOCK)
    at = 3 * (frame * vertices + vertex)
    source_ptr = reflectance_ptr + 3 * (frame // frames_per_set * vertices + vertex)
    x, y, z = load3(normals_ptr + at, mask)
    _store_colors(colors_ptr + at, source_ptr, sh_ptr + frame * 27, x, y, z, mask)


@triton.jit
def shade_vertices_fwd_kernel(
    rows_ptr,  # [F, V, 4] vertices
    ring_start_ptr,  # [V + 1]
    ring_ptr,  # [3T, 2]
    reflectance_ptr,  # [R, V, 3]
    sh_ptr,  # [F, 9, 3]
    colors_ptr,  # [F, V, 3] out
    normals_ptr,  # [F, V, 3] out
    inverse_ptr,  # [F, V] out, one over the length of the area vector, 0 where the normal is undefined
    vertices,
    frames_per_set,
    RESOLUTION: tl.constexpr,
    BLOCK: tl.constexpr,
):
    frame, _, vertex, mask = lanes_of_frame(vertices, BLOCK)
    x, y, z, inverse = unit_normals(rows_ptr + frame * vertices * 4, ring_start_ptr, ring_ptr, vertex, mask, RESOLUTION)
    at = frame * vertices + vertex
    store3_together(normals_ptr + 3 * at, x, y, z, mask)
    tl.store(inverse_ptr + at, inverse, mask)
    source_ptr = reflectance_ptr + 3 * (frame // frames_per_set * vertices + vertex)
    _store_colors(colors_ptr + 3 * at, source_ptr, sh_ptr + frame * 27, x, y, z, mask)


@triton.jit
def shade_bwd_kernel(
    d_colors_ptr,  # [F, V, 3]
    reflectance_ptr,  # [R, V, 3]
    normals_ptr,  # [F, V, 3]
    sh_ptr,  # [F, 9, 3]
    upstream_ptr,  # [F, V, 3] gradient of the normals from elsewhere, or None
    inverse_ptr,  # [F, V] one over the length of the area vectors, or None
    d_reflectance_ptr,  # [R, V, 3] out, or None
    d_normals_ptr,  # [F, V, 3] out, or None; [F, V, 4], gradient of the area vectors, where inverse_ptr is given
    sums_ptr,  # [F, blocks, 9, 3] out, gradient of the light summed over a block of vertices, or None
    vertices,
    frames_per_set,
    BLOCK: tl.constexpr,
):
    """A program has a block of vertices and goes through the frames that share their reflectance."""
    set, block, vertex, mask = lanes_of_frame(vertices, BLOCK)
    at_set = 3 * (set * vertices + vertex)
    r, g, b = load3(reflectance_ptr + at_set, mask)
    dr, dg, db = tl.zeros_like(r), tl.zeros_like(r), tl.zeros_like(r)
    for i in range(frames_per_set):
        frame = set * frames_per_set + i
        at = frame * vertices + vertex
        light_ptr = sh_ptr + frame * 27
        x, y, z = load3(normals_ptr + 3 * at, mask)
        cr, cg, cb = load3(d_colors_ptr + 3 * at, mask)
        if d_reflectance_ptr is not None:
            dr += cr * _light(light_ptr, x, y, z)
            dg += cg * _light(light_ptr + 1, x, y, z)
            db += cb * _light(light_ptr + 2, x, y, z)
        cr, cg, cb = cr * r, cg * g, cb * b  # gradient of the light
        if sums_ptr is not None:
            out_ptr = sums_ptr + (frame * tl.cdiv(vertices, BLOCK) + block) * 27
            _store_light_sums(out_ptr, cr, x, y, z)
            _store_light_sums(out_ptr + 1, cg, x, y, z)
            _store_light_sums(out_ptr + 2, cb, x, y, z)
        if d_normals_ptr is not None:
            rx, ry, rz = _light_gradient(light_ptr, x, y, z)
            gx, gy, gz = _light_gradient(light_ptr + 1, x, y, z)
            bx, by, bz = _light_gradient(light_ptr + 2, x, y, z)
            dx, dy, dz = cr * rx + cg * gx + cb * bx, cr * ry + cg * gy + cb * by, cr * rz + cg * gz + cb * bz
            if upstream_ptr is not None:
                ux, uy, uz = load3(upstream_ptr + 3 * at, mask)
                dx, dy, dz = dx + ux, dy + uy, dz + uz
            if inverse_ptr is not None:
                inverse = tl.load(inverse_ptr + at, mask, 0.0)
                dx, dy, dz = through_normalization(dx, dy, dz, x, y, z, inverse)
                store_row(d_normals_ptr, at, (dx, dy, dz, tl.zeros_like(dx)), mask)
            else:
                store3(d_normals_ptr + 3 * at, dx, dy, dz, mask)
    if d_reflectance_ptr is not None:
        store3(d_reflectance_ptr + at_set, dr, dg, db, mask)


def _shade_bwd(
    d_colors: Tensor | None,  # [F, V, 3]
    reflectance: Tensor,  # [R, V, 3]
    normals: Tensor,  # [F, V, 3]
    sh: Tensor,  # [F, 9, 3]
    upstream: Tensor | None,  # [F, V, 3]
    inverse: Tensor | None,  # [F, V]
    needed: list[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of reflectance, of normals (of area vectors where `inverse` is given) and of sh, where needed."""
    sets, count, _ = reflectance.shape
    frames = len(normals)
    block = lanes(LANES)
    blocks = triton.cdiv(count, block)
    d_reflectance = torch.empty_like(reflectance) if needed[0] else None
    d_normals = normals.new_empty(frames, count, 3 if inverse is None else 4) if needed[1] else None
    sums = sh.new_empty(frames, blocks, 9, 3) if needed[2] else None
    with on_device(normals):
        shade_bwd_kernel[(blocks * sets,)](
            torch.zeros_like(normals) if d_colors is None else d_colors.contiguous(),
            reflectance,
            normals,
            sh,
            None if upstream is None else upstream.contiguous(),
            inverse,
            d_reflectance,
            d_normals,
            sums,
            count,
            frames // max(sets, 1),
            BLOCK=block,
            num_warps=1,  # 27 sums over all lanes cost least where a thread first adds up several
        )
    return d_reflectance, d_normals, None if sums is None else sums.sum(1)


def shade_sh_triton(
    reflectance: Tensor,  # [R, V, 3]
    normals: Tensor,  # [F, V, 3]
    sh: Tensor,  # [F, 9, 3]
) -> Tensor:  # [F, V, 3]
    """Shades by a kernel."""
    frames, count, _ = normals.shape
    colors = torch.empty_like(normals)
    block = lanes(LANES)
    with on_device(normals):
        shade_sh_fwd_kernel[(triton.cdiv(count, block) * frames,)](
            reflectance, normals, sh, colors, count, frames // max(len(reflectance), 1), BLOCK=block, num_warps=4
        )
    return colors


def shade_sh_triton_backward(
    wanted: list[bool],
    grad_colors: Tensor,  # [F, V, 3]
    reflectance: Tensor,  # [R, V, 3]
    normals: Tensor,  # [F, V, 3]
    sh: Tensor,  # [F, 9, 3]
) -> list[Tensor]:  # as reflectance, as normals, as sh
    """Differentiates by reflectance, normals and light."""
    gradients = _shade_bwd(grad_colors, reflectance, normals, sh, None, None, wanted)
    return [gradient for gradient in gradients if gradient is not None]


def _forward(
    vertices: Tensor,  # [F, V, 3]
    triangles: Tensor,  # [T, 3]
    reflectance: Tensor,  # [R, V, 3]
    sh: Tensor,  # [F, 9, 3]
    resolution: float,
) -> tuple[Tensor, Tensor, Tensor]:  # [F, V, 3] twice, [F, V]
    """Shades a mesh; returns colours, normals and one over the lengths of the area vectors."""
    check_corners(triangles, vertices.shape[1])
    mesh = topology(triangles, vertices.shape[1])
    frames, count, _ = vertices.shape
    colors, normals, inverse = _fake(vertices, triangles, reflectance, sh, resolution)
    block = lanes(LANES)
    with on_device(vertices):
        shade_vertices_fwd_kernel[(triton.cdiv(count, block) * frames,)](
            pad_rows(vertices),
            mesh.ring_start,
            mesh.ring,
            reflectance,
            sh,
            colors,
            normals,
            inverse,
            count,
            frames // max(len(reflectance), 1),
            RESOLUTION=resolution,
            BLOCK=block,
            num_warps=4,
        )
    return colors, normals, inverse


def _backward(
    wanted: list[bool],
    grad_colors: Tensor | None,  # [F, V, 3]
    grad_normals: Tensor | None,  # [F, V, 3]
    vertices: Tensor,  # [F, V, 3]
    triangles: Tensor,  # [T, 3]
    reflectance: Tensor,  # [R, V, 3]
    sh: Tensor,  # [F, 9, 3]
    normals: Tensor,  # [F, V, 3]
    inverse: Tensor,  # [F, V]
) -> list[Tensor]:  # as vertices, as reflectance, as sh
    """Differentiates by vertices, reflectance and light."""
    needed = [wanted[1], wanted[0], wanted[2]]
    to_reflectance, to_areas, to_sh = _shade_bwd(grad_colors, reflectance, normals, sh, grad_normals, inverse, needed)
    mesh = topology(triangles, vertices.shape[1])
    to_vertices = None if to_areas is None else gather_area_gradient(vertices, mesh, to_areas)
    return [gradient for gradient in (to_vertices, to_reflectance, to_sh) if gradient is not None]


def _fake(
    vertices: Tensor, triangles: Tensor, reflectance: Tensor, sh: Tensor, resolution: float
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(vertices), torch.empty_like(vertices), vertices.new_empty(vertices.shape[:2])


shade_vertices_triton = register(
    "shade_vertices",
    _forward,
    _backward,
    _fake,
    outputs=("colors", "normals", "inverse"),
    gradients_to=("vertices", "reflectance", "sh"),
)
