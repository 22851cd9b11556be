"""Measures everything and writes benchmarks/results/*.csv and docs/benchmarks.md, in one call under nine minutes.

python -m benchmarks.run --device cuda|cpu [--only OP] [--compare] [--seconds N]
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.harness.measure import LastInspector, jobs, measure_gpu
from benchmarks.harness.rows import RESULTS, Row, merge, provenance, read_rows, write_rows
from benchmarks.harness.timing import Call, Deadline, copy_bandwidth, count_launches, peak_mb, time_gpu
from benchmarks.ops import all_cases
from benchmarks.peers import all_peers
from benchmarks.report.page import write_report
from benchmarks.training import steps

ROW_SECONDS = 0.25  # of timing for a row on a GPU


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--only", metavar="OP", help="one operation; the rows of the others stay as they are")
    parser.add_argument("--seconds", type=float, default=480.0, help="after which the rest is left out, and said to be")
    parser.add_argument(
        "--compare", action="store_true", help="on the CPU: compare with the committed run, write nothing"
    )
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        sys.exit("error: no GPU here; run with --device cpu")
    if arguments.compare:
        sys.exit(cpu_suite(["--benchmark-compare", str(RESULTS / "cpu.json")], arguments.only, arguments.seconds))
    path = RESULTS / f"{arguments.device}.csv"
    measure = cuda_rows if arguments.device == "cuda" else cpu_rows
    old, new = read_rows(path), measure(arguments.only, arguments.seconds)
    if not new:
        sys.exit(f"error: nothing was measured and {path} is left as it is; see above (the extra `dev` has pytest)")
    write_rows(path, merge(old, new, arguments.only))
    print(f"{len(new)} rows: {path}; {write_report()}")
    bad = [row for row in new if row.note.startswith(("wrong", "failed")) and row.provider in ("triton", "torch")]
    sys.exit(f"error: {len(bad)} wrong or failed: {', '.join(' '.join(row.key) for row in bad)}" if bad else 0)


def cpu_suite(options: list[str], only: str | None, seconds: float) -> int:
    """Runs the suite that pytest-benchmark drives; returns its exit status."""
    root = Path(__file__).parent.parent
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-c",
        "benchmarks/pytest.ini",
        "--rootdir",
        ".",
        "benchmarks/test_cpu.py",
    ]
    limits = ["--time-limit", str(seconds), *(["--only", only] if only else [])]
    return subprocess.run([*command, *limits, *options], cwd=root).returncode


def cpu_rows(only: str | None, seconds: float) -> list[Row]:
    """Measures the CPU suite, whose statistics become those to compare with, and the loader."""
    RESULTS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "rows.csv"
        saved = [] if only else ["--benchmark-json", str(RESULTS / "cpu.json")]
        cpu_suite(["--rows", str(path), *saved], only, seconds)
        return read_rows(path)


def cuda_rows(only: str | None, seconds: float) -> list[Row]:
    """Measures all rows of a GPU."""
    source, rows = provenance("cuda"), []
    for row in measure_cuda(only, Deadline(seconds)):
        rows.append(replace(row, **source))
        time = "" if row.median_ms is None else f"{row.median_ms:.4g} ms"
        print(*row.key, time, row.note, sep=" | ", flush=True)
    return rows


def measure_cuda(only: str | None, deadline: Deadline) -> Iterator[Row]:
    """Measures operations at the sizes of training, then steps, torch.compile, and sweeps, the largest last."""
    bandwidth, inspector_of = copy_bandwidth("cuda"), LastInspector("cuda")
    todo = [job for job in jobs(all_cases(), "cuda", all_peers()) if only in (None, job.bench.op)]
    first = [job for job in todo if not job.bench.sweep and job.provider.name != "compile"]
    for job in first:
        yield measure_gpu(job, inspector_of, deadline, bandwidth, ROW_SECONDS)
    inspector_of.last = None
    if only is None or not todo:
        yield from _training_rows(only, deadline)
    for job in todo[len(first) :]:
        yield measure_gpu(job, inspector_of, deadline, bandwidth, ROW_SECONDS)


def _training_rows(only: str | None, deadline: Deadline) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "synthetic"
        steps.make_clips(folder)
        for case in steps.step_cases("cuda"):
            if only in (None, case.op):
                yield steps.measure_step(case, lambda: folder, "cuda", deadline, _time_step)
        yield from (row for row in steps.data_rows("cuda") if only in (None, row.op))


def _time_step(step: Call, row: Row) -> Row:
    """Times a step as training sees it, the host's time included."""
    timing = time_gpu([step], 2.0, ahead=False)
    launches, waits = count_launches(step)
    return replace(row, **vars(timing), launches=float(launches), host_syncs=float(waits), peak_mb=peak_mb(step))


if __name__ == "__main__":
    main()
