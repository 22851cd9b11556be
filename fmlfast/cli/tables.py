"""Formats results as aligned text."""

from collections.abc import Iterator, Sequence
from typing import Any

SKIPPED = {"spread", "ratios", "person_means", "curves", "expressions", "failed"}
"""Parts of an evaluation that its file holds and the terminal does not show."""


def aligned(rows: Sequence[Sequence[str]], numbers: bool = False, gap: int = 2) -> str:
    """Formats rows of cells as columns, the first to the left; the others to the right where they are `numbers`."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *rest in rows:
        cells = [first.ljust(widths[0])]
        cells += [c.rjust(w) if numbers else c.ljust(w) for c, w in zip(rest, widths[1:], strict=True)]
        lines.append((" " * gap).join(cells).rstrip())
    return "\n".join(lines)


def error_tables(table: dict[str, Any]) -> str:
    """Formats nested evaluation results: rows with the same metrics as one table, nested ones below their heading."""
    return "\n\n".join(_tables(table, ""))


def _tables(table: dict[str, Any], heading: str) -> Iterator[str]:
    from fmlfast.evaluation.table import row_name  # here: it imports torch

    same: dict[tuple[str, ...], list[list[str]]] = {}
    nested: dict[str, dict[str, Any]] = {}
    for name, row in table.items():
        if not isinstance(row, dict) or name in SKIPPED:
            continue
        values = {metric: value for metric, value in row.items() if isinstance(value, float)}
        if values:
            cells = [row_name(name), *(f"{value:.3f}" for value in values.values())]
            same.setdefault(tuple(values), []).append(cells)
        if any(isinstance(value, dict) for value in row.values()):
            nested[name] = row
    for metrics, rows in same.items():
        yield aligned([[heading, *metrics], *rows], numbers=True)
    for name, row in nested.items():
        yield from _tables(row, f"{heading}, {row_name(name)}".removeprefix(", "))
