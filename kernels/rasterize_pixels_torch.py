"""Splits windows into rows and rows into pixels, for the torch backend of rasterisation.

What a row of pixels has in common is computed once for it, and of a long row only the pixels are kept that the
triangle reaches there. Two splits in turn need no division.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from .common.gather import places
from .rasterize_windows_torch import CHUNK, OPPOSITE, Boxes, edges, relative, take

_SHORT = 4  # pixels; rows up to this long are drawn whole
_ROUNDING = 4e-6  # of the terms of an edge function; more than the errors of three add up to
_MARGIN = 0.02  # pixels; more than rounding moves where an edge crosses a row


class Pixels(NamedTuple):
    """N pixels, each with the triangle that may cover it."""

    at: Tensor  # [N] int64, place among the pixels of all frames
    x: list[Tensor]  # three of [N], corners relative to the pixel's centre
    y: list[Tensor]  # three of [N]
    w: list[Tensor] | None  # three of [N], None where all are 1
    row: Tensor  # [N] int64, of `box`
    box: Tensor  # [R] int64, of the windows that were split

    def boxes(self, index: Tensor) -> Tensor:  # [n] -> [n]
        """Finds the windows of the pixels `index`."""
        return self.box.index_select(0, self.row.index_select(0, index))


class _Rows(NamedTuple):
    """N pieces of rows, each with the triangle that may cover it."""

    box: Tensor  # [N] int64
    at: Tensor  # [N] int64, place of the first pixel
    center: Tensor  # [N] column of its centre
    columns: Tensor  # [N] number of pixels, 0 too
    x: list[Tensor]  # three of [N], corners as in Boxes
    y: list[Tensor]  # three of [N], relative to the centres
    w: list[Tensor] | None  # three of [N]


def single_pixels(boxes: Boxes, height: int, width: int) -> Iterator[Pixels]:
    """Splits windows into the pixels that their triangles may hit, a bounded number at a time."""
    for rows in _rows(boxes, height, width):
        rows = _shortened(rows)
        for row, rank in _repeated(rows.columns):
            w = None if rows.w is None else take(rows.w, row)
            x = relative(take(rows.x, row), rows.center.index_select(0, row) + rank, w)
            yield Pixels(rows.at.index_select(0, row) + rank, x, take(rows.y, row), w, row, rows.box)


def _rows(boxes: Boxes, height: int, width: int) -> Iterator[_Rows]:
    center = boxes.left + 0.5
    first = (boxes.frame.long() * height + boxes.top.long()) * width + boxes.left.long()
    for box, rank in _repeated(boxes.rows):
        w = None if boxes.w is None else take(boxes.w, box)
        y = relative(take(boxes.y, box), boxes.top.index_select(0, box) + rank + 0.5, w)
        at = first.index_select(0, box) + rank * width
        yield _Rows(box, at, *take((center, boxes.columns), box), take(boxes.x, box), y, w)


def _repeated(counts: Tensor) -> Iterator[tuple[Tensor, Tensor]]:  # [n], n >= 1
    """Repeats each place as often as its count says, some CHUNK at a time: places [N] int64, and how often before."""
    ends = counts.cumsum(0)
    total = int(ends[-1])
    limits = torch.arange(CHUNK, total + CHUNK, CHUNK, device=ends.device)
    cuts = [0, *torch.searchsorted(ends, limits).add_(1).clamp_(max=len(ends)).tolist()]
    for first, last in zip(cuts, cuts[1:], strict=False):
        if first == last:
            continue
        begin = int(ends[first - 1]) if first else 0
        length = int(ends[last - 1]) - begin
        if length == 0:
            continue
        # Faster than repeat_interleave: the place is how many have ended.
        place = torch.bincount(ends[first:last] - begin, minlength=length)[:length].cumsum(0)
        starts = ends[first:last] - counts[first:last] - begin
        rank = torch.arange(length, device=ends.device) - starts.index_select(0, place)
        yield place + first if first else place, rank


def _shortened(rows: _Rows) -> _Rows:
    """Leaves out pixels at both ends of long rows that the triangle cannot hit."""
    long = places(rows.columns > _SHORT)
    if len(long) == 0:
        return rows
    center, columns = take((rows.center, rows.columns), long)
    x, y = take(rows.x, long), take(rows.y, long)
    w = None if rows.w is None else take(rows.w, long)
    after = columns - 1
    left, left_size = _edges_and_sizes(relative(x, center, w), y)
    right, right_size = _edges_and_sizes(relative(x, center + after, w), y)
    slack = torch.maximum(left_size, right_size).mul_(_ROUNDING)
    # Edge functions are linear along the row. Their sum is too: its sign says which way round the triangle turns, and
    # does not change where all w are 1.
    if w is None:
        sign = torch.where(left[0] + left[1] + left[2] < 0, -1.0, 1.0)
        begin, end = _interval([a * sign for a in left], [a * sign for a in right], slack)
    else:
        (b0, e0), (b1, e1) = _interval(left, right, slack), _interval([-a for a in left], [-a for a in right], slack)
        none0, none1 = b0 > e0, b1 > e1
        begin = torch.minimum(b0.masked_fill_(none0, torch.inf), b1.masked_fill_(none1, torch.inf))
        end = torch.maximum(e0.masked_fill_(none0, -torch.inf), e1.masked_fill_(none1, -torch.inf))
    first = torch.minimum((begin * after - _MARGIN).ceil_().clamp_(min=0), columns)
    last = (end * after + _MARGIN).floor_().clamp_(min=-1)
    count = (last - first + 1).clamp_(min=0).to(columns)
    return rows._replace(
        at=rows.at.scatter_add(0, long, first.long()),
        center=rows.center.scatter_add(0, long, first),
        columns=rows.columns.scatter(0, long, count),
    )


def _edges_and_sizes(x: list[Tensor], y: list[Tensor]) -> tuple[list[Tensor], Tensor]:
    """The edge functions, and the largest sum of the sizes of their terms [N]."""
    sizes = [(x[i] * y[j]).abs_().add_((y[i] * x[j]).abs_()) for i, j in OPPOSITE]
    return edges(x, y), torch.maximum(torch.maximum(sizes[0], sizes[1]), sizes[2])


def _interval(left: list[Tensor], right: list[Tensor], slack: Tensor) -> tuple[Tensor, Tensor]:
    """The part [N], [N] of a row, which goes from 0 to 1, where no edge function is below -slack."""
    begin, end = torch.zeros_like(slack), torch.ones_like(slack)
    for l, r in zip(left, right, strict=True):
        l, r = l + slack, r + slack
        crossing = (1 - r / l).reciprocal_()  # does not overflow, as l / (l - r) may
        begin = torch.maximum(begin, torch.where(l < 0, crossing, 0.0))
        end = torch.minimum(end, torch.where(r < 0, crossing, 1.0))
    return begin, end
