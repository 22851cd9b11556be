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

from .common.backend import interpreting, lanes, on_device
from .common.lanes_triton import store3_together, store_row
from .common.picture import Picture
from .rasterize_grad_triton import gradient as gradient
from .rasterize_project_triton import OPTIONS, blocks_of, project
from .rasterize_rules_triton import (
    EMPTY,
    around,
    as_columns,
    edge,
    hit_key,
    lies_behind,
    load_triangle,
    ordered,
    slopes,
    window,
)

_ITEM_BITS = tl.constexpr(40)  # of the counter of a queue; triangles are counted above
_SLOT = tl.constexpr(1 << _ITEM_BITS.value)  # a triangle in it
_QUEUE = 1 << 22  # triangles of frames that one queue is made for: 64 MB
_TILE = 4  # pixels; 6% of the triangles of a face at 240 x 240 do not fit the window of 2 x 2, most of them fit this
_ITEMS = 16  # tiles a program handles at a time
_PROGRAMS = 8  # of a multiprocessor that draw tiles


@triton.jit
def rasterize_micro_kernel(
    keys_ptr,  # [F, H, W] int64
    queue_ptr,  # [N, 2] int32: triangle, frame
    starts_ptr,  # [N] int64: first work item
    counter_ptr,  # [1] int64: triangles * _SLOT + work items
    projected_ptr,  # [F, V, 4]
    triangles_ptr,  # [T, 3]
    ranges_ptr,  # [F, 2] int32: first triangle, number of triangles, or None for all
    behind_depth_ptr,  # [F, H, W] or None
    behind_id_ptr,  # [F, H, W] int32 or None
    begin,
    blocks,
    triangles,
    vertices,  # between those of two frames
    height,
    width,
    FACING: tl.constexpr,
    CLIP: tl.constexpr,
    TILE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Draws the triangles that hold at most 2 x 2 pixel centres and queues the others.

    A frame has `blocks` blocks of triangles; `begin` is the first program's, counted over all frames. One addition to
    the counter a program reserves both places in the queue and work items, so the items of the queue increase; their
    order differs from run to run.
    """
    block = begin + tl.program_id(0)
    frame = (block // blocks).to(tl.int64)
    first = block % blocks * BLOCK
    offsets = tl.arange(0, BLOCK)
    triangle = first + offsets
    mask = triangle < triangles
    if ranges_ptr is not None:
        mask &= triangle < tl.load(ranges_ptr + frame * 2 + 1)
        start = tl.load(ranges_ptr + frame * 2)
        first += start
        triangle += start
    corners = triangles_ptr + first.to(tl.int64) * 3 + offsets * 3
    a, b, c = load_triangle(projected_ptr + frame * vertices * 4, corners, 0, mask)
    left, right, top, bottom, crossing, seen = window(a, b, c, height, width, CLIP)
    seen &= mask
    small = seen & ~crossing & (right - left < 2) & (bottom - top < 2)
    a, b, c = (a[0], a[1], 1.0, a[3]), (b[0], b[1], 1.0, b[3]), (c[0], c[1], 1.0, c[3])
    at = frame * height * width + (top.to(tl.int32) * width + left.to(tl.int32))
    for k in tl.static_range(4):
        column, row = left + k % 2, top + k // 2
        inside, key = hit_key(a, b, c, column, row, triangle, 0, FACING, CLIP)
        hit = inside & small & (column <= right) & (row <= bottom)
        pixel = at + (k // 2 * width + k % 2)
        if behind_depth_ptr is not None:
            hit = lies_behind(key, behind_depth_ptr, behind_id_ptr, pixel, hit)
        tl.atomic_min(keys_ptr + pixel, key, mask=hit, sem="relaxed")
    large = seen & ~small
    tiles = ((right - left) * (1 / TILE)).to(tl.int32) + 1
    tiles *= ((bottom - top) * (1 / TILE)).to(tl.int32) + 1
    share = tl.where(large, tiles.to(tl.int64) + _SLOT, 0)
    total = tl.sum(share, 0)
    if total > 0:
        place = tl.atomic_add(counter_ptr, total, sem="relaxed") + tl.cumsum(share, 0) - share
        slot = place >> _ITEM_BITS
        tl.store(queue_ptr + slot * 2, triangle, mask=large)
        tl.store(queue_ptr + slot * 2 + 1, frame.to(tl.int32), mask=large)
        tl.store(starts_ptr + slot, place & (_SLOT - 1), mask=large)


@triton.jit
def rasterize_tile_kernel(
    keys_ptr,  # [F, H, W] int64
    queue_ptr,  # [N, 2] int32: triangle, frame
    starts_ptr,  # [N] int64: first work item
    counter_ptr,  # [1] int64: triangles * _SLOT + work items
    projected_ptr,  # [F, V, 4]
    triangles_ptr,  # [T, 3]
    behind_depth_ptr,  # [F, H, W] or None
    behind_id_ptr,  # [F, H, W] int32 or None
    vertices,  # between those of two frames
    height,
    width,
    near,
    FACING: tl.constexpr,
    CLIP: tl.constexpr,
    TILE: tl.constexpr,
    ITEMS: tl.constexpr,
):
    """Draws the queued triangles. A work item is a tile of TILE x TILE pixels of a triangle's window.

    Every program takes an equal range of the items, ITEMS at a time: a fixed number of programs, as nobody waits to
    hear how many items there are. Lists of triangles for each tile of the image would need that to be allocated, and
    as the minimum does not mind the order they would only save reading keys again.
    """
    count = tl.load(counter_ptr)
    slots, items = (count >> _ITEM_BITS).to(tl.int32), count & (_SLOT - 1)
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
        corners = triangles_ptr + triangle.to(tl.int64) * 3
        a, b, c = load_triangle(projected_ptr, corners, frame * vertices, mask)
        left, right, top, bottom, crossing, seen = window(a, b, c, height, width, CLIP)
        across = ((right - left) * (1 / TILE)).to(tl.int32) + 1
        column = (left + (tile % across * TILE).to(tl.float32))[:, None] + (pixel % TILE).to(tl.float32)
        row = (top + (tile // across * TILE).to(tl.float32))[:, None] + (pixel // TILE).to(tl.float32)
        a, b, c = as_columns(a), as_columns(b), as_columns(c)
        least = tl.where(crossing, near, 0.0).to(tl.int32, bitcast=True)[:, None]
        inside, key = hit_key(a, b, c, column, row, triangle[:, None], least, FACING, CLIP)
        hit = inside & (seen & mask)[:, None] & (column <= right[:, None]) & (row <= bottom[:, None])
        at = (frame * height * width)[:, None] + (row.to(tl.int32) * width + column.to(tl.int32))
        if behind_depth_ptr is not None:
            hit = lies_behind(key, behind_depth_ptr, behind_id_ptr, at, hit)
        # Keys only fall, so one that is out of date costs a vain minimum and no more.
        hit &= key < tl.load(keys_ptr + at, mask=hit, other=0)
        tl.atomic_min(keys_ptr + at, key, mask=hit, sem="relaxed")


@triton.jit
def rasterize_resolve_kernel(
    keys_ptr,  # [F, H, W] int64
    projected_ptr,  # [F, V, 4]
    triangles_ptr,  # [T, 3]
    triangle_id_ptr,  # [F, H, W] int32
    barycentrics_ptr,  # [F, H, W, 3]
    depth_ptr,  # [F, H, W]
    derivatives_ptr,  # [F, H, W, 4] or None
    size,
    blocks,
    vertices,  # between those of two frames
    width,
    BLOCK: tl.constexpr,
):
    """Unpacks the keys and finds the barycentrics of the winners, and how they change with the pixel.

    Moves 28 bytes a pixel, 44 with derivatives, and the vertices once.
    """
    frame = (tl.program_id(0) // blocks).to(tl.int64)
    place = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    at = frame * size + place
    mask = place < size
    key = tl.load(keys_ptr + at, mask=mask, other=EMPTY)
    covered = key < EMPTY
    triangle = key.to(tl.int32)  # the low half: -1 where empty
    depth = ordered((key >> 32).to(tl.int32)).to(tl.float32, bitcast=True)
    px, py = (place % width).to(tl.float32) + 0.5, (place // width).to(tl.float32) + 0.5
    corners = triangles_ptr + triangle.to(tl.int64) * 3
    a, b, c = load_triangle(projected_ptr + frame * vertices * 4, corners, 0, covered)
    p, q, r = around(a, px, py), around(b, px, py), around(c, px, py)
    w0, w1, w2 = edge(q, r)[0] * a[3], edge(r, p)[0] * b[3], edge(p, q)[0] * c[3]
    total = tl.where(covered, w0 + w1 + w2, 1.0)
    tl.store(triangle_id_ptr + at, triangle, mask=mask)
    w0, w1, w2 = tl.div_rn(w0, total), tl.div_rn(w1, total), tl.div_rn(w2, total)
    w0, w1, w2 = tl.where(covered, w0, 0.0), tl.where(covered, w1, 0.0), tl.where(covered, w2, 0.0)
    store3_together(barycentrics_ptr + at * 3, w0, w1, w2, mask)
    tl.store(depth_ptr + at, tl.where(covered, depth, float("inf")), mask=mask)
    if derivatives_ptr is not None:
        right0, down0 = slopes(q, r)
        right1, down1 = slopes(r, p)
        right2, down2 = slopes(p, q)
        right0, right1, down0, down1 = right0 * a[3], right1 * b[3], down0 * a[3], down1 * b[3]
        right, down = right0 + right1 + right2 * c[3], down0 + down1 + down2 * c[3]
        x0, y0 = tl.div_rn(right0 - w0 * right, total), tl.div_rn(down0 - w0 * down, total)
        x1, y1 = tl.div_rn(right1 - w1 * right, total), tl.div_rn(down1 - w1 * down, total)
        x0, y0 = tl.where(covered, x0, 0.0), tl.where(covered, y0, 0.0)
        x1, y1 = tl.where(covered, x1, 0.0), tl.where(covered, y1, 0.0)
        store_row(derivatives_ptr, at, (x0, y0, x1, y1), mask)


def draw(
    vertices: Tensor,  # [F, V, 3], [F, V, 4] in clip space, [V, 4] with ranges
    triangles: Tensor,  # [T, 3]
    Ks: Tensor | None,  # [F, 3, 3]
    picture: Picture,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:  # [F, H, W] int32, [F, H, W, 3], [F, H, W], [F, H, W, 4]
    """Draws what `Fragments` holds."""
    height, width, clip = picture.height, picture.width, Ks is None
    ranges, most = None, len(triangles)
    frames, stride = vertices.shape[:2]
    if picture.ranges is not None:
        frames, stride = len(picture.ranges), 0
        most = int(picture.ranges[:, 1].max()) if frames else 0
        ranges = picture.ranges.to(vertices.device, non_blocking=True)
    shape = frames, height, width
    triangle_id = torch.empty(shape, dtype=torch.int32, device=vertices.device)
    barycentrics = torch.empty(*shape, 3, dtype=torch.float32, device=vertices.device)
    depth = torch.empty(shape, dtype=torch.float32, device=vertices.device)
    derivatives = torch.empty(*shape, 4, dtype=torch.float32, device=vertices.device) if picture.derivatives else None
    if frames == 0:
        return triangle_id, barycentrics, depth, derivatives
    tile, items = (_TILE, _ITEMS) if lanes(1) == 1 else (32, 64)  # operations cost time in the interpreter, not lanes
    programs = (
        2 if interpreting() else _PROGRAMS * torch.cuda.get_device_properties(vertices.device).multi_processor_count
    )
    block, blocks = blocks_of(most)
    queued = min(_QUEUE, _SLOT.value // (triton.cdiv(height, tile) * triton.cdiv(width, tile)))
    chunk = min(max(queued // block, 1), frames * blocks)  # programs
    keys = torch.full(shape, EMPTY.value, device=vertices.device)
    queue = torch.empty(chunk * block, 2, dtype=torch.int32, device=vertices.device)
    starts = torch.empty(chunk * block, dtype=torch.int64, device=vertices.device)
    counters = torch.zeros(triton.cdiv(frames * blocks, chunk), dtype=torch.int64, device=vertices.device)
    drawn, resolved = project(vertices, Ks, picture.near, height, width)
    layer = (None, None) if picture.behind is None else (picture.behind.depth, picture.behind.triangle_id)
    # Seen from outside are counter-clockwise triangles; in camera space y points down.
    rules = {"FACING": (1 if clip else -1) * picture.cull_backfaces, "CLIP": clip, "TILE": tile}
    with on_device(vertices):
        for i, begin in enumerate(range(0, frames * blocks, chunk)):
            rasterize_micro_kernel[(min(chunk, frames * blocks - begin),)](
                *(keys, queue, starts, counters[i:], drawn, triangles, ranges, *layer),
                *(begin, blocks, most, stride, height, width),
                **rules,
                BLOCK=block,
                num_warps=2,  # two triangles a lane, which share the sums over the program
                enable_fp_fusion=False,
            )
            rasterize_tile_kernel[(programs,)](
                *(keys, queue, starts, counters[i:], drawn, triangles, *layer, stride, height, width, picture.near),
                **rules,
                ITEMS=items,
                **OPTIONS,
            )
        size, count = blocks_of(height * width)
        rasterize_resolve_kernel[(frames * count,)](
            *(keys, resolved, triangles, triangle_id, barycentrics, depth, derivatives),
            *(height * width, count, stride, width),
            BLOCK=size,
            **OPTIONS,
        )
    return triangle_id, barycentrics, depth, derivatives
