"""The CPU suite: pytest -c benchmarks/pytest.ini benchmarks, with all options of pytest-benchmark.

A wrong result fails and is not timed; what is not installed, or not reached in time, is skipped. Each leaves a row.
"""

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks import end_to_end
from benchmarks.case import Bench
from benchmarks.end_to_end import StepCase
from benchmarks.measure import Inspector, Job, inspect, jobs, left_out, timed
from benchmarks.ops import all_cases
from benchmarks.rows import OUT_OF_TIME, Row
from benchmarks.timing import Call, Deadline, Timing, summarize

COMPILE_SHARE = 0.6  # of the time, after which nothing more is compiled, so that the sweeps get their turn

Record = Callable[[Row], None]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    only = metafunc.config.getoption("--only")
    if "job" in metafunc.fixturenames:
        found = [job for job in jobs(all_cases(), "cpu") if only in (None, job.bench.op)]
        metafunc.parametrize("job", found, ids=[job.name for job in found])
    if "case" in metafunc.fixturenames:
        cases = [case for case in end_to_end.step_cases("cpu") if only in (None, case.op)]
        metafunc.parametrize("case", cases, ids=[case.name for case in cases])


def measured(benchmark: BenchmarkFixture, group: str, call: Call) -> Timing:
    """Runs a call by pytest-benchmark, in a table of its operation's."""
    benchmark.group = group
    benchmark(call)
    return summarize(benchmark.stats.stats.data)


def test_training_step(
    case: StepCase, benchmark: BenchmarkFixture, clips: Path, record: Record, deadline: Deadline
) -> None:
    """A whole training step, whose losses after a step must be those of the eager one."""
    if deadline.passed():
        record(case.row(OUT_OF_TIME))
        pytest.skip(OUT_OF_TIME)
    row = end_to_end.inspect_step(case, clips, "cpu")
    if row.note:
        record(row)
        pytest.fail(row.note, pytrace=False)
    timing = measured(benchmark, case.op, end_to_end.training_step(case, clips, "cpu"))
    record(replace(row, **vars(timing)))


def test_operation(
    job: Job,
    benchmark: BenchmarkFixture,
    inspector_of: Callable[[Bench], Inspector],
    record: Record,
    deadline: Deadline,
    bandwidth: float,
) -> None:
    """One operation, checked against float64 and then timed."""
    if deadline.passed(COMPILE_SHARE if job.provider.name == "compile" else 1.0):
        record(left_out(job))
        pytest.skip(OUT_OF_TIME)
    inspector = inspector_of(job.bench)
    row = inspect(job, inspector)
    if row.note:
        record(row)
        if job.provider.missing:
            pytest.skip(row.note)
        pytest.fail(row.note, pytrace=False)
    calls = itertools.cycle(inspector.calls(job))
    record(timed(row, measured(benchmark, row.op, lambda: next(calls)()), job.bench, bandwidth))


def test_generator(benchmark: BenchmarkFixture, record: Record, request: pytest.FixtureRequest) -> None:
    """Synthetic clips, each round another person."""
    row = end_to_end.generator_row()
    if request.config.getoption("--only") not in (None, row.op):
        pytest.skip("another operation was asked for")
    people = itertools.count()
    timing = measured(benchmark, row.op, lambda: end_to_end.film_one(next(people)))
    record(replace(row, **vars(timing)))
