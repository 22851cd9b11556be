"""Measures everything and writes benchmarks/results/*.csv and docs/benchmarks.md, in one call under nine minutes.

python -m benchmarks.run --device cuda|cpu [--only OP] [--compare] [--seconds N]; on a GPU also [--group G] [--out DIR].
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.harness.measure import Job, LastInspector, jobs, measure_gpu
from benchmarks.harness.rows import RESULTS, Row, merge, provenance, read_rows, write_rows
from benchmarks.harness.timing import Call, Deadline, copy_bandwidth, count_launches, peak_mb, time_gpu
from benchmarks.ops import all_cases
from benchmarks.peers import all_peers
from benchmarks.report.page import write_report
from benchmarks.training import steps
from benchmarks.training.steps import StepCase

ROW_SECONDS = 0.25  # of timing for a row on a GPU
OWN = ("triton", steps.EAGER, "torch")
GROUPS = ("kernels", "steps", "rest")
"""On a GPU, in this order: operations at the sizes of training; training steps; data, torch.compile and sweeps."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--only", metavar="OP", help="one operation; the rows of the others stay as they are")
    parser.add_argument("--group", choices=GROUPS, help="on a GPU: these rows alone; the others stay as they are")
    parser.add_argument("--seconds", type=float, default=480.0, help="after which the rest is left out, and said to be")
    parser.add_argument("--out", type=Path, default=RESULTS, help="on a GPU: folder of the CSV file")
    parser.add_argument(
        "--compare", action="store_true", help="on the CPU: compare with the committed run, write nothing"
    )
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        sys.exit("error: no GPU here; run with --device cpu")
    if arguments.device == "cpu" and (arguments.group or arguments.out != RESULTS):
        sys.exit("error: --group and --out are for --device cuda")
    if arguments.compare:
        sys.exit(cpu_suite(["--benchmark-compare", str(RESULTS / "cpu.json")], arguments.only, arguments.seconds))
    path = arguments.out / f"{arguments.device}.csv"
    old, new = read_rows(path) if arguments.only or arguments.group else [], []
    for row in measure_rows(arguments.device, arguments.only, arguments.group, arguments.seconds):
        new.append(row)
        write_rows(path, merge(old, new, arguments.only))  # a run that is cut short loses nothing
    if not new:
        sys.exit(f"error: nothing was measured and {path} is left as it is; see above (the extra `dev` has pytest)")
    if arguments.out == RESULTS:
        write_report()
    print(f"{sum(row.median_ms is not None for row in new)} of {len(new)} rows measured: {path.name}")
    bad = [row for row in new if row.note.startswith(("wrong", "failed")) and row.provider in OWN]
    sys.exit(f"error: {len(bad)} wrong or failed: {', '.join(' '.join(row.key) for row in bad)}" if bad else 0)


def measure_rows(device: str, only: str | None, group: str | None, seconds: float) -> Iterator[Row]:
    """Measures the rows of a device, as they come."""
    if device == "cpu":
        yield from cpu_rows(only, seconds)
        return
    source = provenance(device)
    for row in measure_cuda(only, group, Deadline(seconds)):
        time = "" if row.median_ms is None else f"{row.median_ms:.4g} ms"
        print(*row.key, time, row.note, sep=" | ", flush=True)
        yield replace(row, **source)


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


def measure_cuda(only: str | None, group: str | None, deadline: Deadline) -> Iterator[Row]:
    """Measures operations at the sizes of training, then steps, data, torch.compile, and sweeps, the largest last."""
    bandwidth, inspector_of = copy_bandwidth("cuda"), LastInspector("cuda")
    todo = [job for job in jobs(all_cases(), "cuda", all_peers()) if only in (None, job.bench.op)]
    whole = [case for case in steps.step_cases("cuda") if only in (None, case.op)]
    first = [job for job in todo if not job.bench.sweep and job.provider.name != "compile"]

    def measure(some: Sequence[Job]) -> Iterator[Row]:
        for rivals in in_turns(some):
            yield from measure_gpu(rivals, inspector_of, deadline, bandwidth, ROW_SECONDS)
        inspector_of.last = None

    if group in (None, "kernels"):
        yield from measure(first)
    if group in (None, "steps"):
        yield from _step_rows([case for case in whole if case.provider != "compile"], deadline)
    if group in (None, "rest"):
        if only is None or not todo:
            yield from (row for row in steps.data_rows("cuda") if only in (None, row.op))
        yield from _step_rows([case for case in whole if case.provider == "compile"], deadline)
        yield from measure(todo[len(first) :])


def in_turns(some: Sequence[Job]) -> list[list[Job]]:
    """Groups the jobs of one operation, size and direction, by whomever: they are timed in turns."""
    found: dict[tuple[int, str], list[Job]] = {}
    for job in some:
        found.setdefault((id(job.bench), job.direction), []).append(job)
    return list(found.values())


def _step_rows(cases: Sequence[StepCase], deadline: Deadline) -> Iterator[Row]:
    if not cases:
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "synthetic"
        steps.make_clips(folder)
        for case in cases:
            yield steps.measure_step(case, lambda: folder, "cuda", deadline, _time_step)


def _time_step(step: Call, row: Row) -> Row:
    """Times a step as training sees it, the host's time included."""
    timing = time_gpu([step], 2.0, ahead=False)
    launches, waits = count_launches(step)
    return replace(row, **vars(timing), launches=float(launches), host_syncs=float(waits), peak_mb=peak_mb(step))


if __name__ == "__main__":
    main()
