"""The CPU suite: pytest -c benchmarks/pytest.ini benchmarks, with all options of pytest-benchmark.

A wrong result fails and is not timed; what is not installed, or not reached in time, is skipped. Each leaves a row.
"""

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.harness.measure import Job, LastInspector, jobs, prepare, timed
from benchmarks.harness.rows import Row
from benchmarks.harness.timing import Call, Deadline, Timing, summarize
from benchmarks.ops import all_cases
from benchmarks.peers import all_peers
from benchmarks.training import loader, steps
from benchmarks.training.steps import StepCase

Record = Callable[[Row], None]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    only = metafunc.config.getoption("--only")
    if "job" in metafunc.fixturenames:
        found = [job for job in jobs(all_cases(), "cpu", all_peers()) if only in (None, job.bench.op)]
        metafunc.parametrize("job", found, ids=[job.name for job in found])
    if "case" in metafunc.fixturenames:
        cases = [case for case in steps.step_cases("cpu") if only in (None, case.op)]
        metafunc.parametrize("case", cases, ids=[case.name for case in cases])


def measured(benchmark: BenchmarkFixture, group: str, call: Call) -> Timing:
    """Runs a call by pytest-benchmark, in a table of its operation's."""
    benchmark.group = group
    benchmark(call)
    assert benchmark.stats is not None
    return summarize(benchmark.stats.stats.data)


def kept(row: Row, record: Record) -> None:
    """Records a row, and fails or skips where it has no time."""
    record(row)
    if row.note.startswith(("wrong", "failed")):
        pytest.fail(row.note, pytrace=False)
    if row.median_ms is None:
        pytest.skip(row.note)


def test_training_step(
    case: StepCase, benchmark: BenchmarkFixture, clips: Callable[[], Path], record: Record, deadline: Deadline
) -> None:
    """A whole training step, whose losses after a step must be those of the eager one."""

    def time(step: Call, row: Row) -> Row:
        return replace(row, **vars(measured(benchmark, case.op, step)))

    kept(steps.measure_step(case, clips, "cpu", deadline, time), record)


def test_generator(benchmark: BenchmarkFixture, record: Record, only: str | None) -> None:
    """Synthetic clips, each round another person."""
    row = steps.generator_row()
    if only not in (None, row.op):
        pytest.skip("another operation was asked for")
    people = itertools.count()
    timing = measured(benchmark, row.op, lambda: steps.film_one(next(people)))
    record(replace(row, **vars(timing)))


def test_loader(record: Record, only: str | None) -> None:
    """Batches of clips, by the loader's own clock: its processes fill queues ahead."""
    if only not in (None, "clip loader"):
        pytest.skip("another operation was asked for")
    for row in loader.measure("cpu"):
        record(row)


def test_operation(
    job: Job,
    benchmark: BenchmarkFixture,
    inspector_of: LastInspector,
    record: Record,
    deadline: Deadline,
    bandwidth: Callable[[], float],
) -> None:
    """One operation, checked against float64 and then timed."""
    row, calls = prepare(job, inspector_of, deadline)
    if not row.note:
        turns = itertools.cycle(calls)
        row = timed(row, measured(benchmark, row.op, lambda: next(turns)()), job, bandwidth())
    kept(row, record)
