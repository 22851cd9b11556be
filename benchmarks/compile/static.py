"""The floors of a training step in docs/performance.md, read off the machine code without running it."""

from collections.abc import Mapping, Sequence

Row = Mapping[str, str]

NAME = "benchmarks.compile"
"""Of the markers around the table."""
BANDWIDTH = 3.0e12
"""Bytes a second of an H100's memory, copying."""
CLOCK = 1.755e9
SLOTS = 132 * 4 * CLOCK
"""Instructions of a warp that an H100's 132 multiprocessors start a second, one a scheduler and clock."""
L1 = 132 * 128 * CLOCK
"""Bytes a second between an H100's registers and L1 caches: 32 lanes of four bytes a multiprocessor and clock."""
STAGES = ("geometry", "shading", "visibility", "photometric", "regularisers")
STAGES = (*STAGES, *(f"{stage}, backward" for stage in reversed(STAGES)), "optimiser")


def markdown(rows: Sequence[Row]) -> str:
    """The table, from the lines of compile_report.csv."""
    step = sorted((row for row in rows if row["stage"]), key=lambda row: STAGES.index(row["stage"]))
    lines = ["| stage | kernel | floor, MB | floor, µs | static, µs | bound by |", "|---|---|---:|---:|---:|---|"]
    totals = [0.0, 0.0]
    for row in step:
        floor, times = _times(row)
        by = max(times, key=lambda name: times[name])
        totals[0] += times["memory"]
        totals[1] += times[by]
        numbers = f"{floor / 1e6:,.1f} | {times['memory']:,.1f} | {times[by]:,.1f}"
        lines.append(f"| {row['stage']} | `{row['kernel']}` | {numbers} | {by} |")
    return "\n".join([*lines, f"| all | | | {totals[0]:,.0f} | {totals[1]:,.0f} | |"])


def _times(row: Row) -> tuple[float, dict[str, float]]:
    """Bytes of the floor, and microseconds by what takes them."""
    count = float(row["elements"])
    floor, issued = count * float(row["bytes_per_element"]), count * float(row["issued_bytes_per_element"])
    slots = count * float(row["slots_per_element"])
    return floor, {"memory": floor / BANDWIDTH * 1e6, "L1": issued / L1 * 1e6, "slots": slots / SLOTS * 1e6}
