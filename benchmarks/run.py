"""Measures everything and writes benchmarks/results/*.csv and docs/benchmarks.md, in one call under nine minutes.

python -m benchmarks.run --device cuda|cpu [--only OP] [--compare] [--seconds N]
"""

import argparse
import itertools
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks import end_to_end
from benchmarks.measure import Inspector, Job, jobs, left_out, measure_gpu
from benchmarks.ops import all_cases
from benchmarks.report import write_report
from benchmarks.rows import OUT_OF_TIME, RESULTS, Row, merge, provenance, read_rows, write_rows
from benchmarks.timing import Call, Deadline, copy_bandwidth, count_launches, peak_mb, time_gpu

ROW_SECONDS = 0.25  # of timing for a row on a GPU
COMPILE_SHARE = 0.6  # of the time, after which nothing more is compiled, so that the sweeps get their turn


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
    """The rows of the CPU suite, whose statistics become the ones to compare with, and of the loader."""
    RESULTS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "rows.csv"
        saved = [] if only else ["--benchmark-json", str(RESULTS / "cpu.json")]
        cpu_suite(["--rows", str(path), *saved], only, seconds)
        return read_rows(path)


def cuda_rows(only: str | None, seconds: float) -> list[Row]:
    """All rows of a GPU."""
    source, rows = provenance("cuda"), []
    for row in measure_cuda(only, Deadline(seconds)):
        rows.append(replace(row, **source))
        time = "" if row.median_ms is None else f"{row.median_ms:.4g} ms"
        print(*row.key, time, row.note, sep=" | ", flush=True)
    return rows


def measure_cuda(only: str | None, deadline: Deadline) -> Iterator[Row]:
    """Operations at the sizes of training, then whole steps, torch.compile, and sweeps, the largest last."""
    bandwidth = copy_bandwidth("cuda")
    todo = [job for job in jobs(all_cases(), "cuda") if only in (None, job.bench.op)]
    yield from _operations((job for job in todo if not _later(job)), deadline, bandwidth)
    yield from _end_to_end(only, deadline)
    yield from _operations((job for job in todo if _later(job)), deadline, bandwidth)


def _later(job: Job) -> bool:
    return bool(job.bench.sweep) or job.provider.name == "compile"


def _operations(todo: Iterable[Job], deadline: Deadline, bandwidth: float) -> Iterator[Row]:
    for bench, group in itertools.groupby(todo, key=lambda job: job.bench):
        inspector = None  # the last one's memory is free before the next one's is taken
        for job in group:
            if deadline.passed(COMPILE_SHARE if job.provider.name == "compile" else 1.0):
                yield left_out(job)
                continue
            inspector = inspector or Inspector(bench, "cuda")
            yield measure_gpu(job, inspector, bandwidth, ROW_SECONDS)
        del inspector
        torch.cuda.empty_cache()


def _end_to_end(only: str | None, deadline: Deadline) -> Iterator[Row]:
    cases = [case for case in end_to_end.step_cases("cuda") if only in (None, case.op)]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "synthetic"
        if cases:
            end_to_end.make_clips(folder)
        for case in cases:
            if deadline.passed(COMPILE_SHARE):
                yield case.row(OUT_OF_TIME)
                continue
            row = end_to_end.inspect_step(case, folder, "cuda")
            yield row if row.note else _timed_step(row, end_to_end.training_step(case, folder, "cuda"))
        yield from end_to_end.data_rows(folder, only)


def _timed_step(row: Row, step: Call) -> Row:
    """A step as training sees it, the host's time included."""
    timing = time_gpu([step], 2.0, ahead=False)
    launches, waits = count_launches(step)
    return replace(row, **vars(timing), launches=float(launches), host_syncs=float(waits), peak_mb=peak_mb(step))


if __name__ == "__main__":
    main()
