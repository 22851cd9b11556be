"""Formats numbers and Markdown tables."""

import math
from collections.abc import Iterable, Sequence

from benchmarks.harness.rows import Row

OWN = ("triton", "torch", "compile")
"""Providers of this project, the kernels first; the others are libraries."""


def providers_of(rows: Iterable[Row]) -> list[str]:
    """Lists providers' names: ours, the references, then other libraries by name."""
    found = {row.provider for row in rows}
    return [name for name in OWN if name in found] + sorted(found - set(OWN))


def amount(value: float | None, digits: int = 3) -> str:
    """Formats a number with so many significant digits, such as "0.0123", "12.3" or "1,230"; a dash for none."""
    if value is None:
        return "–"
    if value and not 1e-4 <= abs(value) < 1e7:
        return f"{value:.{digits - 1}e}"
    before = math.floor(math.log10(abs(value))) + 1 if value else 1  # digits before the point; negative after zeros
    text = f"{value:,.{max(digits - before, 0)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def percent(value: float | None) -> str:
    """Formats a share of a hundred."""
    return "–" if value is None else f"{amount(value, 2)} %"


def reason(row: Row) -> str:
    """Says why a row has no time, in a word or two."""
    return row.note.split(":")[0] if row.note.startswith(("wrong", "failed")) else row.note


def floor_ms(row: Row) -> float | None:
    """Returns how long a copy of the bytes takes that the operation must move, ms."""
    if row.median_ms is None or row.copy_bandwidth_percent is None:
        return None
    return row.median_ms * row.copy_bandwidth_percent / 100


def markdown(header: Sequence[str], lines: Iterable[Sequence[str]], left: int = 1) -> str:
    """Writes a table; all columns but the first `left` are numbers."""
    rule = ["---"] * left + ["--:"] * (len(header) - left)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, rule, *lines))
