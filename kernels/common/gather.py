"""Deterministic gather and scatter of rows: sums, those of gradients too, are made in a fixed order."""

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def places(
    mask: Tensor,  # bool, any shape
) -> Tensor:  # [n] int64
    """Finds where a mask is true, counted through all of it, ascending; on a CPU NumPy is several times as fast."""
    if mask.device.type != "cpu":
        return mask.flatten().nonzero().view(-1)
    return torch.from_numpy(np.flatnonzero(mask.numpy()))


def repeated(
    counts: Tensor,  # [K] of an integer type
    most: int,
) -> Iterator[tuple[Tensor, Tensor]]:  # [n] int64 twice, n >= 1
    """Repeats each place k as often as counts[k] says: places, ascending, and how often they came before.

    About `most` come at a time; the repetitions of one place are not torn apart.
    """
    ends = counts.cumsum(0)
    total = int(ends[-1]) if len(ends) else 0
    limits = torch.arange(most, total + most, most, device=ends.device)
    cuts = [0, *torch.searchsorted(ends, limits).add_(1).clamp_(max=len(ends)).tolist()]
    done = 0
    for first, last in zip(cuts, cuts[1:], strict=False):
        part = ends[first:last] - done
        length = int(part[-1]) if len(part) else 0
        if length == 0:
            continue
        place = torch.bincount(part, minlength=length)[:length].cumsum(0)  # how many have ended: no repeat_interleave
        begin = part - counts[first:last]
        yield place + first, torch.arange(length, device=ends.device) - begin.index_select(0, place)
        done += length


def gather_rows(
    table: Tensor,  # [N, C]
    index: Tensor,  # any shape, int64, in [0, N)
) -> Tensor:  # [*index.shape, C]
    """Gathers table[index], with the same bits in its gradient on every run.

    The backward pass of indexing sorts first on a GPU, but on a CPU it adds from several threads at once; that of
    index_select adds one row after the other on a CPU, but in random order on a GPU.
    """
    if table.is_cuda:
        return table[index]
    return table.index_select(0, index.reshape(-1)).view(*index.shape, table.shape[1])


def add_rows(
    table: Tensor,  # [N, C]
    index: Tensor,  # [M] int64, in [0, N)
    rows: Tensor,  # [M, C]
) -> Tensor:  # [N, C]
    """Adds rows to a copy of the table at `index`, with the same bits on every run; see `gather_rows`."""
    if table.is_cuda:
        return table.index_put((index,), rows, accumulate=True)
    return table.index_add(0, index, rows)


def sum_rows(
    table: Tensor,  # [N, C]
    index: Tensor,  # [K, n] int32 or int64, in [0, N); given `start` [M]
    start: Tensor | None = None,  # [K + 1] the type of `index`, ascending from 0 to M
    weights: Tensor | None = None,  # the shape of `index`
) -> Tensor:  # [K, C]
    """Sums, weighted if asked to, for row k the table's rows index[k], or index[start[k]:start[k + 1]], in this order.

    Several times as fast on a CPU as index_add_, which calls a kernel for every row.
    """
    if table.shape[1] == 0:
        return table.new_zeros(len(index) if start is None else len(start) - 1, 0)
    return F.embedding_bag(
        index, table, start, mode="sum", per_sample_weights=weights, include_last_offset=start is not None
    )
