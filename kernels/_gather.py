"""Rows of a table, whose gradients are summed in a fixed order."""

from torch import Tensor


def gather_rows(
    table: Tensor,  # [N, C]
    index: Tensor,  # any shape, int64, in [0, N)
) -> Tensor:  # [*index.shape, C]
    """table[index], with the same bits in its gradient on every run.

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
    """A copy of the table with rows added to those at `index`, with the same bits on every run; see `gather_rows`."""
    if table.is_cuda:
        return table.index_put((index,), rows, accumulate=True)
    return table.index_add(0, index, rows)
