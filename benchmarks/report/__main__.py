"""Writes docs/benchmarks.md and its plots from the stored rows: python -m benchmarks.report."""

from benchmarks.report.page import write_report

if __name__ == "__main__":
    print(write_report())
