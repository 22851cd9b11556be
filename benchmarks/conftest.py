"""What the CPU suite shares: the time left, one case's inputs at a time, and the rows it writes."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.harness.measure import LastInspector
from benchmarks.harness.rows import Row, cpu_name, provenance, write_rows
from benchmarks.harness.timing import Deadline, copy_bandwidth
from benchmarks.training import steps

rows_key: pytest.StashKey[list[Row]] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rows", type=Path, help="write the rows as CSV")
    parser.addoption("--time-limit", type=float, default=480.0, help="seconds after which the rest is left out")
    parser.addoption("--only", help="one operation")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[rows_key] = []


def pytest_sessionfinish(session: pytest.Session) -> None:
    path = session.config.getoption("--rows")
    if path is not None:
        source = provenance("cpu")
        write_rows(path, [replace(row, **source) for row in session.config.stash[rows_key]])


def pytest_benchmark_generate_machine_info() -> dict[str, Any]:
    """Describes the machine as far as a comparison needs it, without its name."""
    return {"cpu": cpu_name(), "threads": torch.get_num_threads(), "torch": torch.__version__}


def pytest_benchmark_update_json(output_json: dict[str, Any]) -> None:
    """Keeps what a comparison needs: no single times, and nothing that differs between two runs of the same code."""
    for benchmark in output_json["benchmarks"]:
        benchmark["stats"].pop("data", None)
        benchmark.update(params={}, options={})


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Callable[[Row], None]:
    """Keeps a row for the CSV file."""
    return request.config.stash[rows_key].append


@pytest.fixture
def only(request: pytest.FixtureRequest) -> str | None:
    """The one operation that was asked for."""
    return request.config.getoption("--only")


@pytest.fixture(scope="session")
def deadline(request: pytest.FixtureRequest) -> Deadline:
    return Deadline(float(request.config.getoption("--time-limit") or 0.0))


@pytest.fixture(scope="session")
def bandwidth() -> Callable[[], float]:
    """Measures the bytes a second that a copy reaches, when it is first asked for."""
    return cache(lambda: copy_bandwidth("cpu"))


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    """Makes a folder of a few synthetic people when it is first asked for."""

    @cache
    def folder() -> Path:
        path = tmp_path_factory.mktemp("clips") / "synthetic"
        steps.make_clips(path)
        return path

    return folder


@pytest.fixture(scope="session")
def inspector_of() -> LastInspector:
    return LastInspector("cpu")
