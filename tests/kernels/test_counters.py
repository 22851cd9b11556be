"""The table of counted launches, and that docs/performance.md shows it."""

from pathlib import Path
from typing import Any

from benchmarks.harness.markdown import read_between_markers
from tools.ptx import counters
from tools.ptx.structures import COUNTERS

ROOT = Path(__file__).parents[2]
CSV = ROOT / "benchmarks" / "results" / "counters.csv"


def launch() -> dict[str, Any]:
    """Two blocks of four warps that read 3 MB and write 3."""
    numbers = dict.fromkeys(COUNTERS, 0)
    numbers |= {"blocks": 2, "warp_instructions": 9_266_400, "block_sectors": 200_000, "store_sectors": 150_000}
    numbers |= {"load_requests": 4, "load_lines": 12, "load_sectors": 40, "load_ideal": 10}
    record = {"op": "o", "shape": "s", "kernel": "k_kernel", "warps": 4, "counters": numbers}
    return record | {"unique_read": 3_000_000, "unique_written": 3_000_000}


def test_floors_of_two_launches(tmp_path: Path):
    table = counters.rows([launch(), launch()], {"commit": "c"})
    assert len(table) == 1 and table[0]["launches"] == "2" and table[0]["warps"] == "16" and table[0]["commit"] == "c"
    counters.write(tmp_path / "counters.csv", table)
    assert counters.read(tmp_path / "counters.csv") == table
    # 12 MB of memory; (200,000 + 150,000) x 32 - 3,000,000 bytes twice; 18.5 of 926,640 million instructions a second
    shown = counters.floors(table).split("\n")[-1]
    assert shown == "| `k` | o | 4.0 | 3.0 | 0.0 | **20.0** | 3.0 | 25 | 0 |"


def test_the_page_shows_the_kept_table():
    shown = read_between_markers(ROOT / "docs" / "performance.md", counters.NAME)
    assert shown == counters.floors(counters.read(CSV)), "run python -m tools.ptx.performance --keep"
