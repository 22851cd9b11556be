"""Compares providers: finds where others are faster, or the memory would allow more."""

from collections.abc import Sequence
from dataclasses import replace

from benchmarks.harness.rows import OUT_OF_TIME, Row
from benchmarks.report.table import amount, floor_ms, markdown

FLOOR = 1.5  # times the floor, above which an operation is listed
LISTED = 12  # of those; the table of all operations has the others
MARGIN = 1.05  # times the faster one's time: less is noise


def where_we_lose(ours: str, rows: Sequence[Row]) -> list[str]:
    """Lists who is faster, what is far from its floor, what is wrong, and what is missing."""
    parts = [_faster(ours, rows), _far(ours, rows)]
    wrong = [row for row in rows if row.note.startswith(("wrong", "failed"))]
    if wrong:
        parts.append("Refused, because wrong or failing:\n\n" + "\n".join(f"- {_name(r)}: {r.note}" for r in wrong))
    unsteady = dict.fromkeys(f"`{r.op}` {r.direction} by {r.provider}" for r in rows if r.repeatable is False)
    if unsteady:
        parts.append(f"Two runs differ in their last bits: {', '.join(unsteady)}.")
    late = sum(row.note == OUT_OF_TIME for row in rows)
    if late:
        parts.append(f"Not measured because the time was over: {late} of {len(rows)} rows.")
    return [part for part in parts if part]


def _name(row: Row) -> str:
    return f"`{row.op}` {row.direction}, {row.shape}, by {row.provider}"


def _faster(ours: str, rows: Sequence[Row]) -> str:
    """Lists every size at which another provider takes less time than ours, the worst first."""
    found = []
    for mine in rows:
        if mine.provider != ours or mine.median_ms is None:
            continue
        for other in rows:
            if replace(mine, provider=other.provider).key != other.key or other.median_ms is None:
                continue
            ratio = mine.median_ms / other.median_ms
            if other.provider != ours and mine.dtype == other.dtype and ratio > MARGIN:
                found.append((ratio, mine, other))
    if not found:
        return f"No other provider is faster than {ours} at any size measured here."
    found.sort(key=lambda item: -item[0])
    lines = [
        [f"`{mine.op}` {mine.shape}", mine.direction, other.provider, amount(mine.median_ms), amount(other.median_ms)]
        + [f"{amount(ratio, 2)}x"]
        for ratio, mine, other in found
    ]
    header = ["operation", "", "faster", f"{ours}, ms", "theirs, ms", "by"]
    return "Others are faster than ours:\n\n" + markdown(header, lines, 3)


def _far(ours: str, rows: Sequence[Row]) -> str:
    """Lists what takes more than 1.5 times its floor at the sizes of training."""
    far = [
        (row.median_ms / floor, row)
        for row in rows
        if row.provider == ours and not row.sweep and row.median_ms and (floor := floor_ms(row))
    ]
    high = sorted((item for item in far if item[0] > FLOOR), key=lambda item: -item[0])
    if not high:
        return ""
    listed = ", ".join(f"`{row.op}` {row.direction} {amount(ratio, 2)}x" for ratio, row in high[:LISTED])
    most = f"the {LISTED} farthest: " if len(high) > LISTED else ""
    return f"{len(high)} of {len(far)} take more than {FLOOR} times their floor; {most}{listed}."
