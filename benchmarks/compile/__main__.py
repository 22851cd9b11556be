"""Compiles every kernel for every target and writes a table of them, and one of a training step for an H100.

python -m benchmarks.compile [--targets TARGET...] [--out FILE.csv] [--static FILE.md] [--count TARGET...]
"""

import argparse
import csv
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from benchmarks.compile import TARGETS, Usage, compile_case
from benchmarks.compile.instructions import WIDTHS, count
from benchmarks.compile.static import NAME, markdown
from benchmarks.harness.compile_case import Case
from benchmarks.harness.markdown import write_between_markers
from benchmarks.ops import compile_cases
from fmlfast.common.atomic import atomic_path

ROOT = Path(__file__).parent.parent.parent


def row(case: Case, target: str, usage: Usage) -> dict[str, object]:
    """A line of the CSV: what a thread uses and executes, every loop passed once; per element in a training step."""
    found: dict[str, object] = {
        "kernel": case.kernel.__name__,
        "variant": case.variant,
        "target": target,
        "registers": usage.registers,
        "spills": usage.spills,
        "shared_bytes": usage.shared,
        "bytes_per_element": case.bytes,
        "element": case.element,
    }
    once = count(usage.instructions)
    kinds = ("total", "atomics", "fp32", "special", "shared", "branches", "loops")
    numbers = {"instructions" if kind == "total" else kind: getattr(once, kind) for kind in kinds}
    for kind in ("loads", "stores"):
        numbers |= {f"{kind}_{bits}": n for bits, n in zip(WIDTHS, getattr(once, kind), strict=True)}
    found |= {name: int(n) if usage.instructions else "" for name, n in numbers.items()}
    found |= dict.fromkeys(("stage", "elements", "issued_bytes_per_element", "slots_per_element"), "")
    if case.step is not None and target == "sm_90" and usage.instructions:
        if len(case.step.passes) != once.loops:
            raise ValueError(
                f"{case.kernel.__name__}, {case.variant}: {once.loops} loops, passes for {case.step.passes}"
            )
        weighted = count(usage.instructions, case.step.passes)
        found["stage"], found["elements"] = case.step.stage, case.step.count
        found["issued_bytes_per_element"] = round(weighted.issued_bytes * 32 * usage.warps / case.step.program, 2)
        found["slots_per_element"] = round(weighted.total * usage.warps / case.step.program, 3)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS), help="what for")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "compile_report.csv")
    parser.add_argument("--static", type=Path, default=ROOT / "docs" / "performance.md", help="page with markers")
    # Those of sm_80 hardly differ from sm_90's, and NVIDIA's disassembler takes a while.
    parser.add_argument("--count", nargs="*", choices=TARGETS, default=["sm_90", "gfx942"], help="whose instructions")
    arguments = parser.parse_args()
    counted = [target for target in arguments.targets if target in arguments.count]
    tasks = [(i, target, target in counted) for i in range(len(compile_cases())) for target in arguments.targets]
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        rows = list(pool.map(_row, *zip(*tasks, strict=True), chunksize=4))
    with atomic_path(arguments.out) as path, path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    if "sm_90" in counted:
        written = [{name: str(value) for name, value in row.items()} for row in rows]
        write_between_markers(arguments.static, NAME, markdown(written))
    spilled = sum(bool(row["spills"]) for row in rows)
    print(f"{len(rows)} kernels compiled for {', '.join(arguments.targets)}, {spilled} with spilled registers")


def _row(case: int, target: str, instructions: bool) -> dict[str, object]:
    """A line, by the number of its case: the cases themselves cannot be sent to another process."""
    found = compile_cases()[case]
    return row(found, target, compile_case(found, target, instructions))


if __name__ == "__main__":
    main()
