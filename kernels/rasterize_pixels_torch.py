"""Splits windows into rows and rows into pixels, for the torch backend of rasterisation.

What a row of pixels has in common is computed once for it, and of a long row only the pixels are kept that the
triangle may reach there. Two splits in turn need no division. First rows and first pixels come as they are, as small
triangles have no others; only what comes after is copied from them.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from .common.gather import places, repeated
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
    box: Tensor  # [N] int64, the window that it is in


class _Rows(NamedTuple):
    """N pieces of rows, each with the triangle that may cover it."""

    box: Tensor  # [N] int64
    at: Tensor  # [N] int64, place of the first pixel
    center: Tensor  # [N] column of its centre
    columns: Tensor  # [N] number of pixels
    x: list[Tensor]  # three of [N], corners as in Boxes
    y: list[Tensor]  # three of [N], relative to the centres
    w: list[Tensor] | None  # three of [N]


def single_pixels(boxes: Boxes, height: int, width: int) -> Iterator[Pixels]:
    """Splits windows into the pixels that their triangles may hit, a bounded number at a time."""
    for rows in map(_shortened, _rows(boxes, height, width)):
        yield Pixels(rows.at, relative(rows.x, rows.center, rows.w), rows.y, rows.w, rows.box)
        for row, rank in repeated(rows.columns - 1, CHUNK):
            rank += 1
            w = None if rows.w is None else take(rows.w, row)
            x = relative(take(rows.x, row), rows.center.index_select(0, row) + rank, w)
            at, box = take((rows.at, rows.box), row)
            yield Pixels(at + rank, x, take(rows.y, row), w, box)


def _rows(boxes: Boxes, height: int, width: int) -> Iterator[_Rows]:
    box = torch.arange(len(boxes.left), device=boxes.left.device)
    at = (boxes.frame.long() * height + boxes.top.long()) * width + boxes.left.long()
    center, middle = boxes.left + 0.5, boxes.top + 0.5
    yield _Rows(box, at, center, boxes.columns, boxes.x, relative(boxes.y, middle, boxes.w), boxes.w)
    for box, rank in repeated(boxes.rows - 1, CHUNK):
        rank += 1
        w = None if boxes.w is None else take(boxes.w, box)
        y = relative(take(boxes.y, box), middle.index_select(0, box) + rank, w)
        below = at.index_select(0, box) + rank * width
        start, columns = take((center, boxes.columns), box)
        yield _Rows(box, below, start, columns, take(boxes.x, box), y, w)


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
    first = torch.minimum((begin * after - _MARGIN).ceil_().clamp_(min=0), after)
    last = torch.maximum((end * after + _MARGIN).floor_(), first)  # one pixel at least is kept
    count = (last - first + 1).to(columns)
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
