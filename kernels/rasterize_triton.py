"""Kernels of `rasterize`: small triangles at once, the rest by tiles of pixels, then what the winners show.

A 64-bit atomic minimum on a pixel's key decides who wins, in any order. Launched without fused multiply-add, so that
every number is the reference's to the bit.
"""
# It knows neither launch options nor that functions of a kernel return something.
# pyright: reportCallIssue=false, reportGeneralTypeIssues=false, reportArgumentType=false

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._backend import interpreting, lanes, on_device
from ._rasterize_grad_triton import gradient as gradient
from ._rasterize_rules_triton import (
    EMPTY,
    around,
    as_columns,
    edge,
    hit_key,
    load_camera,
    project_triangle,
    split,
    window,
)

_SLOT = tl.constexpr(1 << 40)  # a triangle in the counter of a queue, which counts work items below
_QUEUE = 1 << 22  # triangles of frames that one queue is made for: 64 MB
_TILE = 4  # pixels; 3% of the triangles of a face at 240 x 240 do not fit the window of 2 x 2, most of them fit this
_ITEMS = 16  # tiles a program handles at a time
_PROGRAMS = 8  # of a multiprocessor that draw tiles


@triton.jit
def rasterize_micro_kernel(
    keys_ptr,  # [F, H, W] int64
    queue_ptr,  # [N, 2] int32: triangle, frame
    starts_ptr,  # [N] int64: first work item
    counter_ptr,  # [1] int64: triangles * _SLOT + work items
    vertices_ptr,  # [F, V, 3]
    triangles_ptr,  # [T, 3]
    Ks_ptr,  # [F, 3, 3]
    begin,
    end,
    triangles,
    vertices,
    height,
    width,
    near,
    CULL: tl.constexpr,
    TILE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Draws the triangles that hold at most 2 x 2 pixel centres, one a lane, and queues the others.

    Triangles begin ... end - 1, counted over all frames. One addition to the counter a program reserves both places
    in the queue and work items, so the items of the queue increase; their order differs from run to run.
    """
    first = begin + tl.program_id(0).to(tl.int64) * BLOCK
    offsets = tl.arange(0, BLOCK)
    mask = first + offsets < end
    frame, triangle = split(first, offsets, triangles)
    camera = load_camera(Ks_ptr, frame, mask)
    a, b, c = project_triangle(vertices_ptr, triangles_ptr, triangle, frame, vertices, camera, near, mask)
    left, right, top, bottom, crossing, seen = window(a, b, c, height, width)
    seen &= mask
    small = seen & ~crossing & (right - left < 2) & (bottom - top < 2)
    a, b, c = (a[0], a[1], 1.0, a[3]), (b[0], b[1], 1.0, b[3]), (c[0], c[1], 1.0, c[3])
    for k in tl.static_range(4):
        column, row = left + k % 2, top + k // 2
        key = hit_key(a, b, c, column, row, triangle, 0.0, CULL)
        hit = small & (column <= right) & (row <= bottom) & (key < EMPTY)
        tl.atomic_min(keys_ptr + (frame * height + row) * width + column, key, mask=hit, sem="relaxed")
    large = seen & ~small
    if tl.max(large.to(tl.int32), 0) > 0:
        tiles = tl.cdiv(right - left + 1, TILE) * tl.cdiv(bottom - top + 1, TILE)
        share = tl.where(large, tiles.to(tl.int64) + _SLOT, 0)
        place = tl.atomic_add(counter_ptr, tl.sum(share, 0), sem="relaxed") + tl.cumsum(share, 0) - share
        slot = place // _SLOT
        tl.store(queue_ptr + slot * 2, triangle, mask=large)
        tl.store(queue_ptr + slot * 2 + 1, frame.to(tl.int32), mask=large)
        tl.store(starts_ptr + slot, place % _SLOT, mask=large)


@triton.jit
def rasterize_tile_kernel(
    keys_ptr,  # [F, H, W] int64
    queue_ptr,  # [N, 2] int32: triangle, frame
    starts_ptr,  # [N] int64: first work item
    counter_ptr,  # [1] int64: triangles * _SLOT + work items
    vertices_ptr,  # [F, V, 3]
    triangles_ptr,  # [T, 3]
    Ks_ptr,  # [F, 3, 3]
    vertices,
    height,
    width,
    near,
    CULL: tl.constexpr,
    TILE: tl.constexpr,
    ITEMS: tl.constexpr,
):
    """Draws the queued triangles. A work item is a tile of TILE x TILE pixels of a triangle's window.

    Every program takes an equal range of the items, ITEMS at a time: a fixed number of programs, as nobody waits to
    hear how many items there are. Lists of triangles for each tile of the image would need that to be allocated, and
    as the minimum does not mind the order they would only save reading keys again.
    """
    count = tl.load(counter_ptr)
    slots, items = (count // _SLOT).to(tl.int32), count % _SLOT
    share = tl.cdiv(items, tl.num_programs(0) * ITEMS) * ITEMS
    first = tl.program_id(0) * share
    end = tl.minimum(first + share, items)
    slot, above = slots * 0, slots  # the last slot that starts at or before `first` is in [slot, above)
    while above - slot > 1:
        middle = (slot + above) // 2
        before = tl.load(starts_ptr + middle) <= first
        slot, above = tl.where(before, middle, slot), tl.where(before, above, middle)
    lane = tl.arange(0, ITEMS)
    pixel = tl.arange(0, TILE * TILE)[None, :]
    while first < end:
        # Every slot has an item, so those of the next ITEMS items are among as many slots.
        later = slot + 1 + lane
        starts = tl.load(starts_ptr + later, mask=later < slots, other=EMPTY)
        item = first + lane
        mask = item < end
        mine = slot + tl.sum((starts[None, :] <= item[:, None]).to(tl.int32), 1)
        slot += tl.sum((starts <= first + ITEMS).to(tl.int32), 0)
        first += ITEMS
        tile = (item - tl.load(starts_ptr + mine, mask=mask, other=0)).to(tl.int32)
        triangle = tl.load(queue_ptr + mine.to(tl.int64) * 2, mask=mask, other=0)
        frame = tl.load(queue_ptr + mine.to(tl.int64) * 2 + 1, mask=mask, other=0).to(tl.int64)
        camera = load_camera(Ks_ptr, frame, mask)
        a, b, c = project_triangle(vertices_ptr, triangles_ptr, triangle, frame, vertices, camera, near, mask)
        left, right, top, bottom, crossing, seen = window(a, b, c, height, width)
        across = tl.cdiv(right - left + 1, TILE)
        column = (left + tile % across * TILE)[:, None] + pixel % TILE
        row = (top + tile // across * TILE)[:, None] + pixel // TILE
        a, b, c = as_columns(a), as_columns(b), as_columns(c)
        key = hit_key(a, b, c, column, row, triangle[:, None], tl.where(crossing, near, 0.0)[:, None], CULL)
        hit = (seen & mask)[:, None] & (column <= right[:, None]) & (row <= bottom[:, None]) & (key < EMPTY)
        at = keys_ptr + (frame[:, None] * height + row) * width + column
        # Keys only fall, so one that is out of date costs a vain minimum and no more.
        hit &= key < tl.load(at, mask=hit, other=0)
        tl.atomic_min(at, key, mask=hit, sem="relaxed")


@triton.jit
def rasterize_resolve_kernel(
    keys_ptr,  # [F, H, W] int64
    vertices_ptr,  # [F, V, 3]
    triangles_ptr,  # [T, 3]
    Ks_ptr,  # [F, 3, 3]
    triangle_id_ptr,  # [F, H, W] int32
    barycentrics_ptr,  # [F, H, W, 3]
    depth_ptr,  # [F, H, W]
    pixels,
    size,
    vertices,
    width,
    near,
    BLOCK: tl.constexpr,
):
    """Unpacks the keys and finds the barycentrics of the winners. Moves 28 bytes a pixel, and the vertices once."""
    first = tl.program_id(0).to(tl.int64) * BLOCK
    offsets = tl.arange(0, BLOCK)
    at = first + offsets
    mask = at < pixels
    frame, place = split(first, offsets, size)
    key = tl.load(keys_ptr + at, mask=mask, other=EMPTY)
    covered = key < EMPTY
    triangle = key.to(tl.int32)  # the low half: -1 where empty
    depth = (key >> 32).to(tl.int32).to(tl.float32, bitcast=True)
    camera = load_camera(Ks_ptr, frame, covered)
    px, py = (place % width).to(tl.float32) + 0.5, (place // width).to(tl.float32) + 0.5
    a, b, c = project_triangle(vertices_ptr, triangles_ptr, triangle, frame, vertices, camera, near, covered)
    p, q, r = around(a, px, py), around(b, px, py), around(c, px, py)
    w0, w1, w2 = edge(q, r)[0] * a[3], edge(r, p)[0] * b[3], edge(p, q)[0] * c[3]
    total = tl.where(covered, w0 + w1 + w2, 1.0)
    tl.store(triangle_id_ptr + at, triangle, mask=mask)
    tl.store(barycentrics_ptr + at * 3, tl.where(covered, tl.div_rn(w0, total), 0.0), mask=mask)
    tl.store(barycentrics_ptr + at * 3 + 1, tl.where(covered, tl.div_rn(w1, total), 0.0), mask=mask)
    tl.store(barycentrics_ptr + at * 3 + 2, tl.where(covered, tl.div_rn(w2, total), 0.0), mask=mask)
    tl.store(depth_ptr + at, tl.where(covered, depth, float("inf")), mask=mask)


def draw(
    vertices: Tensor,  # [F, V, 3]
    triangles: Tensor,  # [T, 3]
    Ks: Tensor,  # [F, 3, 3]
    height: int,
    width: int,
    cull_backfaces: bool,
    near: float,
) -> tuple[Tensor, Tensor, Tensor]:  # [F, H, W] int32, [F, H, W, 3], [F, H, W]
    """Triangle ids, barycentrics and depth, as `rasterize` returns them."""
    frames = len(vertices)
    shape = frames, height, width
    triangle_id = torch.empty(shape, dtype=torch.int32, device=vertices.device)
    barycentrics = torch.empty(*shape, 3, dtype=torch.float32, device=vertices.device)
    depth = torch.empty(shape, dtype=torch.float32, device=vertices.device)
    if frames == 0:
        return triangle_id, barycentrics, depth
    Ks = Ks.contiguous()
    tile, items = (_TILE, _ITEMS) if lanes(1) == 1 else (32, 64)  # operations cost time in the interpreter, not lanes
    programs = (
        2 if interpreting() else _PROGRAMS * torch.cuda.get_device_properties(vertices.device).multi_processor_count
    )
    pairs = frames * len(triangles)
    chunk = min(pairs, _QUEUE, _SLOT.value // (triton.cdiv(height, tile) * triton.cdiv(width, tile)))
    keys = torch.full(shape, EMPTY.value, device=vertices.device)
    queue = torch.empty(chunk, 2, dtype=torch.int32, device=vertices.device)
    starts = torch.empty(chunk, dtype=torch.int64, device=vertices.device)
    counters = torch.zeros(triton.cdiv(pairs, chunk), dtype=torch.int64, device=vertices.device)
    mesh = vertices, triangles, Ks
    with on_device(vertices):
        for i, begin in enumerate(range(0, pairs, chunk)):
            end = min(begin + chunk, pairs)
            block = min(lanes(128), max(128, triton.next_power_of_2(end - begin)))
            rasterize_micro_kernel[(triton.cdiv(end - begin, block),)](
                *(keys, queue, starts, counters[i:], *mesh, begin, end, len(triangles), vertices.shape[1]),
                *(height, width, near),
                CULL=cull_backfaces,
                TILE=tile,
                BLOCK=block,
                num_warps=4,
                enable_fp_fusion=False,
            )
            rasterize_tile_kernel[(programs,)](
                *(keys, queue, starts, counters[i:], *mesh, vertices.shape[1], height, width, near),
                CULL=cull_backfaces,
                TILE=tile,
                ITEMS=items,
                num_warps=4,
                enable_fp_fusion=False,
            )
        block = min(lanes(128), max(128, triton.next_power_of_2(keys.numel())))
        rasterize_resolve_kernel[(triton.cdiv(keys.numel(), block),)](
            *(keys, *mesh, triangle_id, barycentrics, depth, keys.numel(), height * width, vertices.shape[1]),
            *(width, near),
            BLOCK=block,
            num_warps=4,
            enable_fp_fusion=False,
        )
    return triangle_id, barycentrics, depth
