"""Triton kernels of the reflectance sparsity: a lane per vertex, which gathers its neighbours.

Floor for 8 subjects of 4 frames and 55,525 vertices: `chromaticity` reads 28.4 MB and writes 4, 11 us at 3.0 TB/s;
`sparsity` reads 10.7 MB and the lists of edges, writes 5.3, 6 us, the gathers of neighbours being served by the cache.
"""

# pyright: reportCallIssue=false, reportGeneralTypeIssues=false
# (launch options are no parameters of the kernels, and what a kernel calls returns values)

import torch
import triton
import triton.language as tl
from torch import Tensor

from .common.backend import lanes, on_device
from .common.cache import TensorCache
from .common.custom_op import register_constant
from .common.lanes_triton import lanes_of_frame, load_pair, load_row, store3_together
from .common.rows_triton import pad_rows
from .common.topology import grouped

_lists = TensorCache()


@triton.jit
def chromaticity_fwd_kernel(
    colors_ptr,  # [B, M, V, 3]
    weights_ptr,  # [B, M, V]
    chroma_ptr,  # [B, V, 2]
    known_ptr,  # [B, V]
    frames,
    vertices,
    BLOCK: tl.constexpr,
):
    subject, _, v, inside = lanes_of_frame(vertices, BLOCK)
    red = tl.zeros((BLOCK,), tl.float32)
    green = tl.zeros((BLOCK,), tl.float32)
    blue = tl.zeros((BLOCK,), tl.float32)
    known = tl.zeros((BLOCK,), tl.int32)
    for m in range(frames):
        at = (subject * frames + m) * vertices + v
        seen = inside & (tl.load(weights_ptr + at, mask=inside, other=0.0) > 0)
        red += tl.load(colors_ptr + 3 * at, mask=seen, other=0.0)
        green += tl.load(colors_ptr + 3 * at + 1, mask=seen, other=0.0)
        blue += tl.load(colors_ptr + 3 * at + 2, mask=seen, other=0.0)
        known |= seen.to(tl.int32)
    total = red + green + blue
    total = tl.where(total < 1e-4, 1e-4, total)  # NaN stays NaN
    at = subject * vertices + v
    tl.store(chroma_ptr + 2 * at, red / total, mask=inside)
    tl.store(chroma_ptr + 2 * at + 1, green / total, mask=inside)
    tl.store(known_ptr + at, known > 0, mask=inside)


@triton.jit
def sparsity_fwd_kernel(
    rows_ptr,  # [B, V, 4] reflectance
    chroma_ptr,  # [B, V, 2]
    known_ptr,  # [B, V]
    start_ptr,  # [V + 1]
    neighbor_ptr,  # [2N]
    cost_ptr,  # [B, blocks]
    gradient_ptr,  # [B, V, 3]
    vertices,
    eta,
    half_p,
    share,  # of an edge in the mean
    TINY: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Sums half the cost of every edge at each of its ends, and the whole gradient of each end."""
    subject, _, v, inside = lanes_of_frame(vertices, BLOCK)
    at = subject * vertices + v
    r0, r1, r2, _ = load_row(rows_ptr, at, inside)
    h0, h1 = load_pair(chroma_ptr, at, inside)
    known = tl.load(known_ptr + at, mask=inside, other=0).to(tl.int1)
    first = tl.load(start_ptr + v, mask=inside, other=0)
    degree = tl.load(start_ptr + v + 1, mask=inside, other=0) - first
    cost = tl.zeros((BLOCK,), tl.float32)
    g0 = tl.zeros((BLOCK,), tl.float32)
    g1 = tl.zeros((BLOCK,), tl.float32)
    g2 = tl.zeros((BLOCK,), tl.float32)
    for n in range(tl.max(degree)):
        has = n < degree
        other = subject * vertices + tl.load(neighbor_ptr + first + n, mask=has, other=0)
        o0, o1, o2, _ = load_row(rows_ptr, other, has)
        d0, d1, d2 = r0 - o0, r1 - o1, r2 - o2
        k0, k1 = load_pair(chroma_ptr, other, has)
        k0, k1 = h0 - k0, h1 - k1
        both = known & tl.load(known_ptr + other, mask=has, other=0).to(tl.int1)
        weight = tl.exp(tl.where(both, -eta * tl.sqrt(k0 * k0 + k1 * k1), 0.0))
        squared = d0 * d0 + d1 * d1 + d2 * d2 + TINY
        value = tl.where(has, weight * tl.exp(half_p * tl.log(squared)), 0.0)
        slope = value / squared
        cost += value
        g0 += slope * d0
        g1 += slope * d1
        g2 += slope * d2
    tl.store(cost_ptr + tl.program_id(0), tl.sum(cost) * 0.5)
    scale = 2.0 * half_p * share
    store3_together(gradient_ptr + 3 * at, scale * g0, scale * g1, scale * g2, inside)


def _chromaticity(
    colors: Tensor,  # [B, M, V, 3]
    weights: Tensor,  # [B, M, V]
) -> tuple[Tensor, Tensor]:  # [B, V, 2], [B, V] bool
    subjects, frames, vertices, _ = colors.shape
    chroma = colors.new_empty(subjects, vertices, 2)
    known = torch.empty(subjects, vertices, dtype=torch.bool, device=colors.device)
    block = lanes(256)
    if known.numel():
        with on_device(colors):
            grid = (triton.cdiv(vertices, block) * subjects,)
            chromaticity_fwd_kernel[grid](colors, weights, chroma, known, frames, vertices, BLOCK=block, num_warps=4)
    return chroma, known


def _fake(colors: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    subjects, _, vertices, _ = colors.shape
    return colors.new_empty(subjects, vertices, 2), colors.new_empty(subjects, vertices, dtype=torch.bool)


chromaticity_triton = register_constant("chromaticity", _chromaticity, _fake)


def sparsity_triton(
    reflectance: Tensor,  # [B, V, 3]
    chroma: Tensor,  # [B, V, 2]
    known: Tensor,  # [B, V]
    edges: Tensor,  # [N, 2]
    eta: float,
    p: float,
    tiny: float,
) -> tuple[Tensor, Tensor]:  # [B], [B, V, 3]
    """Computes each subject's prior and its gradient."""
    subjects, vertices, _ = reflectance.shape
    start, neighbor = _lists.get(edges, vertices, lambda: _neighbors(edges.detach(), vertices))
    block = lanes(128)
    blocks = -(-vertices // block)
    cost = reflectance.new_empty(subjects, blocks)
    gradient = torch.empty_like(reflectance)
    if subjects:
        with on_device(reflectance):
            sparsity_fwd_kernel[(blocks * subjects,)](
                pad_rows(reflectance), chroma, known, start, neighbor, cost, gradient, vertices,
                eta, p / 2, 1 / len(edges), TINY=tiny, BLOCK=block, num_warps=4,
            )  # fmt: skip
    return cost.sum(1) / len(edges), gradient


def _neighbors(edges: Tensor, vertices: int) -> tuple[Tensor, Tensor]:  # [V + 1] int32, [2N] int32
    """The other end of every edge at a vertex, sorted by vertex, then in the order of the edges."""
    ends, others = torch.cat([edges[:, 0], edges[:, 1]]), torch.cat([edges[:, 1], edges[:, 0]])
    start, order = grouped(ends, vertices)
    return start, others[order].int()
