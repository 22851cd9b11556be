"""Compiles every kernel for every target and writes a table: python -m benchmarks.compile [--out FILE.csv]."""

import argparse
import csv
import importlib
import pkgutil
from pathlib import Path

import benchmarks.compile
from benchmarks.compile import TARGETS, Case, compile_case

COLUMNS = ("kernel", "variant", "target", "registers", "spills", "shared_bytes", "bytes_per_element", "element")


def all_cases() -> list[Case]:
    """The cases of all operations, one module of this package each."""
    names = sorted(m.name for m in pkgutil.iter_modules(benchmarks.compile.__path__) if m.name != "__main__")
    return [case for name in names for case in importlib.import_module(f"benchmarks.compile.{name}").CASES]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "compile_report.csv")
    out: Path = parser.parse_args().out
    rows = []
    for case in all_cases():
        for target in TARGETS:
            usage = compile_case(case, target)
            name = case.kernel.__name__
            rows.append(
                (name, case.variant, target, usage.registers, usage.spills, usage.shared, case.bytes, case.element)
            )
            print(*rows[-1], sep=", ")
    with out.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(rows)


if __name__ == "__main__":
    main()
