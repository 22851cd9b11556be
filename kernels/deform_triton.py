"""Triton kernel of `deform`: skinning, blendshapes and pose in one pass."""
# num_warps is an option of the launch and no argument of the kernel:
# pyright: reportCallIssue=false

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from .blendshape_triton import codes_gradient, skinny_product
from .common.backend import lanes, on_device
from .deform_grad_triton import unpose, unskin

FRAMES = 16
"""Frames whose coordinates a program of the forward kernel keeps in registers: expressions are read once for them."""
SUBJECTS = 8
"""Subjects among them at most."""
COEFFICIENTS = 4
"""Expressions that it reads at once, to have several loads in flight; the coefficients are padded to a multiple."""


@triton.jit
def deform_fwd_kernel(
    out_ptr,  # [B, M, V, 3] float32
    mean_ptr,  # [V, 3] float32 or None
    displacements_ptr,  # [G, B up to a multiple of BLOCK_B, 3] float32: the subjects of a node are one run of memory
    skin_indices_ptr,  # [V, SLOTS] int32 or int64
    skin_weights_ptr,  # [V, SLOTS] float32
    expressions_ptr,  # [E, V, 3] float32 or bfloat16
    delta_ptr,  # [subject blocks, frame blocks, E up to a multiple of TERMS, BLOCK_B, BLOCK_M] float32, padded with 0
    pose_ptr,  # [subject blocks, frame blocks, BLOCK_B, BLOCK_M, 12] float32: R and t, padded, or None
    subjects,  # B
    frames,  # M
    vertices,  # V
    expressions,  # E
    SLOTS: tl.constexpr,
    TERMS: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_V: tl.constexpr,
):
    """A program makes a block of vertices for BLOCK_B subjects with BLOCK_M frames each, a lane a vertex.

    Neighbours in the grid share vertices, and with them the expressions in the cache. Floor for V=55,525, E=51 and 32
    frames: 34 MB read and 21 MB written, 18 us at 3.0 TB/s.
    """
    subject_blocks = tl.cdiv(subjects, BLOCK_B)
    frame_blocks = tl.cdiv(frames, BLOCK_M)
    program = tl.program_id(0)
    block = (program % (subject_blocks * frame_blocks)).to(tl.int64)
    first_subject = block // frame_blocks * BLOCK_B
    first_frame = block % frame_blocks * BLOCK_M
    vertex = (program // (subject_blocks * frame_blocks)).to(tl.int64) * BLOCK_V + tl.arange(0, BLOCK_V)
    inside = vertex < vertices
    zero = tl.zeros((BLOCK_V,), tl.float32)

    mx, my, mz = zero, zero, zero
    if mean_ptr is not None:
        mx += tl.load(mean_ptr + vertex * 3, mask=inside, other=0.0)
        my += tl.load(mean_ptr + vertex * 3 + 1, mask=inside, other=0.0)
        mz += tl.load(mean_ptr + vertex * 3 + 2, mask=inside, other=0.0)
    x, y, z = (mx,) * BLOCK_B, (my,) * BLOCK_B, (mz,) * BLOCK_B
    for slot in range(SLOTS):
        node = tl.load(skin_indices_ptr + vertex * SLOTS + slot, mask=inside, other=0).to(tl.int64)
        weight = tl.load(skin_weights_ptr + vertex * SLOTS + slot, mask=inside, other=0.0)
        ux, uy, uz = (), (), ()
        for b in tl.static_range(BLOCK_B):
            moved_ptr = displacements_ptr + (node * (subject_blocks * BLOCK_B) + first_subject) * 3 + b * 3
            ux += (x[b] + weight * tl.load(moved_ptr, mask=inside, other=0.0),)
            uy += (y[b] + weight * tl.load(moved_ptr + 1, mask=inside, other=0.0),)
            uz += (z[b] + weight * tl.load(moved_ptr + 2, mask=inside, other=0.0),)
        x, y, z = ux, uy, uz
    ux, uy, uz = (), (), ()
    for n in tl.static_range(BLOCK_B * BLOCK_M):
        ux, uy, uz = ux + (x[n // BLOCK_M],), uy + (y[n // BLOCK_M],), uz + (z[n // BLOCK_M],)
    x, y, z = ux, uy, uz

    delta_ptr += block * tl.cdiv(expressions, TERMS) * (TERMS * BLOCK_B * BLOCK_M)
    for first in range(0, expressions, TERMS):
        offsets = ()
        for k in tl.static_range(TERMS):
            known = inside & (first + k < expressions)
            for c in tl.static_range(3):
                offsets += (tl.load(expressions_ptr + vertex * 3 + c, mask=known, other=0.0),)
            expressions_ptr += vertices * 3
        for k in tl.static_range(TERMS):
            ex, ey, ez = (
                offsets[3 * k].to(tl.float32),
                offsets[3 * k + 1].to(tl.float32),
                offsets[3 * k + 2].to(tl.float32),
            )
            ux, uy, uz = (), (), ()
            for n in tl.static_range(BLOCK_B * BLOCK_M):
                delta = tl.load(delta_ptr + n)
                ux, uy, uz = ux + (x[n] + delta * ex,), uy + (y[n] + delta * ey,), uz + (z[n] + delta * ez,)
            x, y, z = ux, uy, uz
            delta_ptr += BLOCK_B * BLOCK_M

    for n in tl.static_range(BLOCK_B * BLOCK_M):
        px, py, pz = x[n], y[n], z[n]
        if pose_ptr is not None:
            r = ()
            for i in tl.static_range(12):
                r += (tl.load(pose_ptr + (block * (BLOCK_B * BLOCK_M) + n) * 12 + i),)
            # Left alone, the compiler fuses one product or another, and a frame depends on how many it is made with.
            px = tl.fma(r[0], x[n], tl.fma(r[1], y[n], tl.fma(r[2], z[n], r[9])))
            py = tl.fma(r[3], x[n], tl.fma(r[4], y[n], tl.fma(r[5], z[n], r[10])))
            pz = tl.fma(r[6], x[n], tl.fma(r[7], y[n], tl.fma(r[8], z[n], r[11])))
        subject, m = first_subject + n // BLOCK_M, first_frame + n % BLOCK_M
        known = inside & (subject < subjects) & (m < frames)
        place_ptr = out_ptr + ((subject * frames + m) * vertices + vertex) * 3
        tl.store(place_ptr, px, mask=known)
        tl.store(place_ptr + 1, py, mask=known)
        tl.store(place_ptr + 2, pz, mask=known)


def deform_triton(
    mean: Tensor | None,  # [V, 3]
    displacements: Tensor,  # [B, G, 3]
    skin_indices: Tensor,  # [V, SLOTS]
    skin_weights: Tensor,  # [V, SLOTS]
    expressions: Tensor,  # [E, V, 3]
    delta: Tensor,  # [B, M, E]
    rotation: Tensor | None,  # [B, M, 3, 3]
    translation: Tensor | None,  # [B, M, 3]
) -> Tensor:  # [B, M, V, 3]
    """Deforms by the kernel."""
    (subjects, frames, count), (vertices, slots) = delta.shape, skin_indices.shape
    out = torch.empty(subjects, frames, vertices, 3, dtype=torch.float32, device=displacements.device)
    if out.numel() == 0:
        return out
    block_m = int(min(FRAMES, triton.next_power_of_2(frames)))
    block_b = int(min(FRAMES // block_m, SUBJECTS, triton.next_power_of_2(subjects)))
    coefficients = _blocks(F.pad(delta, (0, -count % COEFFICIENTS)), block_b, block_m).transpose(2, 3).contiguous()
    table = F.pad(displacements, (0, 0, 0, 0, 0, -subjects % block_b)).transpose(0, 1).contiguous()
    pose = None
    if rotation is not None and translation is not None:
        pose = _blocks(torch.cat([rotation.flatten(2), translation], 2), block_b, block_m)
    grid = triton.cdiv(subjects, block_b) * triton.cdiv(frames, block_m)
    block_v = lanes(64)
    with on_device(out):
        deform_fwd_kernel[(grid * triton.cdiv(vertices, block_v),)](
            out,
            mean,
            table,
            skin_indices,
            skin_weights,
            expressions,
            coefficients,
            pose,
            subjects,
            frames,
            vertices,
            count,
            SLOTS=slots,
            TERMS=COEFFICIENTS,
            BLOCK_B=block_b,
            BLOCK_M=block_m,
            BLOCK_V=block_v,
            num_warps=2,
        )
    return out


def _blocks(
    values: Tensor,  # [B, M, C]
    block_b: int,
    block_m: int,
) -> Tensor:  # [subject blocks, frame blocks, BLOCK_B * BLOCK_M, C]
    """What the programs of the forward kernel read of each frame, padded with zeros."""
    padded = F.pad(values, (0, 0, 0, -values.shape[1] % block_m, 0, -len(values) % block_b))
    blocks = padded.unflatten(1, (-1, block_m)).unflatten(0, (-1, block_b))
    return blocks.transpose(1, 2).flatten(2, 3).contiguous()


def deform_triton_backward(
    wanted: list[bool],
    grad: Tensor,  # [B, M, V, 3]
    out: Tensor,  # [B, M, V, 3]
    skin_indices: Tensor,  # [V, 8]
    skin_weights: Tensor,  # [V, 8]
    expressions: Tensor,  # [E, V, 3]
    delta: Tensor,  # [B, M, E]
    rotation: Tensor | None,  # [B, M, 3, 3]
    translation: Tensor | None,  # [B, M, 3]
    nodes: int,
) -> list[Tensor]:
    """Gradients of those of mean, displacements, expressions, delta, rotation and translation that are wanted."""
    mean, displacements, basis, codes, turned, moved = wanted
    found: list[Tensor | None] = [None] * 6
    grad = grad.contiguous()
    local, summed = grad, None
    if rotation is not None and translation is not None:
        local, summed, found[4], found[5] = unpose(
            grad,
            out,
            rotation.contiguous(),
            translation.contiguous(),
            local_needed=basis or codes,
            summed_needed=mean or displacements,
            pose_needed=turned or moved,
        )
    elif mean or displacements:
        summed = grad.sum(1).transpose(0, 1).contiguous()
    if summed is not None:
        found[0] = summed.sum(1) if mean else None
        found[1] = unskin(summed, nodes, skin_indices, skin_weights) if displacements else None
    if local is not None and (basis or codes):
        rows, flat = local.flatten(0, 1).flatten(1), expressions.flatten(1)  # [B M, 3V], [E, 3V]
        if basis:
            product = skinny_product(delta.flatten(0, 1).T, rows, torch.empty_like(flat))
            found[2] = product.view_as(expressions)
        found[3] = codes_gradient(rows, flat).view_as(delta) if codes else None
    return [x for x, needed in zip(found, wanted, strict=True) if x is not None and needed]


def skin_displacements_triton(
    displacements: Tensor,  # [B, G, 3]
    skin_indices: Tensor,  # [V, 8]
    skin_weights: Tensor,  # [V, 8]
) -> Tensor:  # [B, V, 3]
    """Skins by the kernel of `deform`: one frame without expressions, mean and pose."""
    subjects, vertices = len(displacements), len(skin_indices)
    expressions, delta = displacements.new_empty(0, vertices, 3), displacements.new_empty(subjects, 1, 0)
    return deform_triton(None, displacements, skin_indices, skin_weights, expressions, delta, None, None)[:, 0]
