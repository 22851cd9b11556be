"""Kernels that project vertices for rasterisation, each once, into rows that a corner is one load of."""
# It knows neither launch options nor that functions of a kernel return something.
# pyright: reportCallIssue=false, reportGeneralTypeIssues=false, reportArgumentType=false

import torch
import triton
import triton.language as tl
from torch import Tensor

from .common.backend import lanes, on_device
from .common.lanes_triton import load_row, store_row
from .common.projection_triton import load_camera
from .rasterize_rules_triton import project_clip_corner, project_corner

OPTIONS = {"num_warps": 4, "enable_fp_fusion": False}


@triton.jit
def rasterize_project_kernel(
    projected_ptr,  # [F, V, 4]
    vertices_ptr,  # [F, V, 3]
    Ks_ptr,  # [F, 3, 3]
    vertices,
    blocks,
    near,
    BLOCK: tl.constexpr,
):
    """Projects every vertex of camera space. Moves 28 bytes a vertex."""
    frame = (tl.program_id(0) // blocks).to(tl.int64)
    vertex = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    mask = vertex < vertices
    camera = load_camera(Ks_ptr, frame)
    row = frame * vertices + vertex
    at = vertices_ptr + row * 3
    corner = tl.load(at, mask=mask), tl.load(at + 1, mask=mask), tl.load(at + 2, mask=mask)
    store_row(projected_ptr, row, project_corner(corner, camera, near), mask)


@triton.jit
def rasterize_clip_project_kernel(
    drawn_ptr,  # [N, 4]
    resolved_ptr,  # [N, 4]
    positions_ptr,  # [N, 4]
    vertices,  # N
    height,
    width,
    BLOCK: tl.constexpr,
):
    """Projects every vertex of clip space, for drawing and for finding barycentrics. Moves 48 bytes a vertex."""
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = row < vertices
    u, v, w, scale, depth = project_clip_corner(load_row(positions_ptr, row, mask), height, width)
    store_row(drawn_ptr, row, (u, v, w, depth), mask)
    store_row(resolved_ptr, row, (u, v, w, scale), mask)


def project(
    vertices: Tensor,  # [F, V, 3] camera space, [..., V, 4] clip space
    Ks: Tensor | None,  # [F, 3, 3]
    near: float,
    height: int,
    width: int,
) -> tuple[Tensor, Tensor]:  # [..., V, 4] twice
    """Projects vertices into rows (u, v, w, a): for drawing, where a gives the depth, and with a the scale.

    In camera space they are the same, as the depth is w over the scale; in clip space it is a over w.
    """
    rows = torch.empty(*vertices.shape[:-1], 4, dtype=torch.float32, device=vertices.device)
    with on_device(vertices):
        if Ks is None:
            drawn = torch.empty_like(rows)
            size, count = blocks_of(vertices.numel() // 4)
            rasterize_clip_project_kernel[(count,)](
                *(drawn, rows, vertices, vertices.numel() // 4, height, width), BLOCK=size, **OPTIONS
            )
            return drawn, rows
        frames, number, _ = vertices.shape
        size, count = blocks_of(number)
        rasterize_project_kernel[(frames * count,)](
            *(rows, vertices, Ks.contiguous(), number, count, near), BLOCK=size, **OPTIONS
        )
    return rows, rows


def blocks_of(size: int) -> tuple[int, int]:
    """Returns lanes of a program, and how many programs, one at least, `size` elements take."""
    block = min(lanes(128), max(128, 1 << (size - 1).bit_length()))
    return block, max(1, -(-size // block))
