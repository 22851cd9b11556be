# SPDX-License-Identifier: Apache-2.0
"""Tables of counted launches: the file of numbers, and the floors that follow from them for an H100."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fmlfast.common.atomic import atomic_path

Row = Mapping[str, str]

NAME = "tools.ptx.performance"
"""Of the markers around the table of floors."""
SLOTS = 132 * 4 * 1.755e9
"""Instructions of warps that an H100 starts a second."""
LINES = 132 * 1.755e9
"""Lines of 128 bytes that its L1 caches look up a second, if it is one a clock and multiprocessor."""
MEMORY, L2 = 3.0e12, 5.5e12
"""Bytes a second."""


def rows(records: Iterable[Mapping[str, Any]], versions: Mapping[str, str]) -> list[dict[str, str]]:
    """Numbers of each kernel of each operation, its launches added up; bytes, sectors of 32 and lines of 128 bytes."""
    sums: dict[tuple[str, str, str], dict[str, int]] = {}
    for record in records:
        c, written = record["counters"], record["unique_written"]
        numbers = {
            "launches": 1,
            "warps": c["blocks"] * record["warps"],
            "instructions": c["warp_instructions"],
            "memory_bytes": record["unique_read"] + written,
            # Stores of one instruction go to L2 as they are; loads of a block that hit a sector again find it in L1.
            "l2_bytes": 32 * (c["block_sectors"] + c["store_sectors"]) - written,
            "lines": c["load_lines"] + c["store_lines"],
            **{name: c[name] for name in ("load_requests", "load_lines", "load_sectors", "load_ideal")},
            **{name: c[name] for name in ("store_requests", "store_lines", "store_sectors", "store_ideal")},
            "atomics": c["atomic_lanes"],
        }
        total = sums.setdefault((record["op"], record["shape"], record["kernel"]), dict.fromkeys(numbers, 0))
        for name, number in numbers.items():
            total[name] += number
    keys = "op", "shape", "kernel"
    return [
        {**dict(zip(keys, key, strict=True)), **{n: str(x) for n, x in total.items()}, **versions}
        for key, total in sums.items()
    ]


def write(path: Path, table: Sequence[Row]) -> None:
    """Writes rows as CSV."""
    with atomic_path(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(table[0]))
        writer.writeheader()
        writer.writerows(table)


def read(path: Path) -> list[dict[str, str]]:
    """Reads what `write` wrote."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def floors(table: Iterable[Row]) -> str:
    """Microseconds that each resource of an H100 takes at least, the largest of them bold, and what loads use."""
    head = "kernel", "of", "memory", "L2", "L1 look-ups", "slots", "lines a load", "useful of loaded, %", "of stored, %"
    lines = [f"| {' | '.join(head)} |", "|---|---|" + "---:|" * (len(head) - 2)]
    for row in table:
        times = [
            1e6 * float(row[name]) / rate
            for name, rate in (("memory_bytes", MEMORY), ("l2_bytes", L2), ("lines", LINES), ("instructions", SLOTS))
        ]
        shown = [f"**{time:.1f}**" if time == max(times) else f"{time:.1f}" for time in times]
        used = [
            _part(row, "load_lines", "load_requests", ".1f"),
            _part(row, "load_ideal", "load_sectors", ".0f", 100),
            _part(row, "store_ideal", "store_sectors", ".0f", 100),
        ]
        lines.append(f"| `{row['kernel'].removesuffix('_kernel')}` | {row['op']} | {' | '.join(shown + used)} |")
    return "\n".join(lines)


def _part(row: Row, part: str, whole: str, style: str, scale: int = 1) -> str:
    return format(scale * float(row[part]) / float(row[whole]), style) if float(row[whole]) else "–"
