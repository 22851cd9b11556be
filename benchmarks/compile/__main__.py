"""Compiles every kernel for every target and writes a table of them, and one of a training step for an H100.

python -m benchmarks.compile [--targets TARGET...] [--jobs N] [--out FILE.csv] [--static FILE.md] [--count TARGET...]
"""

import argparse
import csv
from pathlib import Path

from benchmarks.compile import TARGETS
from benchmarks.compile.rows import compiled_row
from benchmarks.compile.static import NAME, markdown
from benchmarks.harness.markdown import write_between_markers
from benchmarks.ops import compile_cases
from fmlfast.common.atomic import atomic_path
from fmlfast.common.child_processes import WorkerPool

ROOT = Path(__file__).parent.parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS), help="what for")
    parser.add_argument("--jobs", type=int, default=1, help="processes that compile")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "compile_report.csv")
    parser.add_argument("--static", type=Path, default=ROOT / "docs" / "performance.md", help="page with markers")
    # Those of sm_80 hardly differ from sm_90's, and NVIDIA's disassembler takes a while.
    parser.add_argument("--count", nargs="*", choices=TARGETS, default=["sm_90", "gfx942"], help="whose instructions")
    arguments = parser.parse_args()
    counted = [target for target in arguments.targets if target in arguments.count]
    tasks = [(i, target, target in counted) for i in range(len(compile_cases())) for target in arguments.targets]
    with WorkerPool(arguments.jobs) as pool:
        rows = list(pool.map(compiled_row, *zip(*tasks, strict=True), chunksize=4))
    with atomic_path(arguments.out) as path, path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    if "sm_90" in counted:
        written = [{name: str(value) for name, value in row.items()} for row in rows]
        write_between_markers(arguments.static, NAME, markdown(written))
    spilled = sum(bool(row["spills"]) for row in rows)
    print(f"{len(rows)} kernels compiled for {', '.join(arguments.targets)}, {spilled} with spilled registers")


if __name__ == "__main__":
    main()
