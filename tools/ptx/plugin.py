# SPDX-License-Identifier: Apache-2.0
"""A plugin for pytest, `-p tools.ptx.plugin`: the project's tests of its kernels run the compiled PTX in the emulator.

A test fails where a launch did something wrong; with --every-kernel the run fails where a kernel was not launched.
PTX_REPORT names a file to which every finding is added as a line of JSON; PTX_CAPABILITY is 90 or 80; PTX_SEED seeds
the schedules; PTX_SCHEDULES is how many each launch is run under.
"""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.ptx import driver
from tools.ptx.report import Report, outcome

driver.gates()  # before tests/conftest.py imports the project

_OUTCOME = "ptx"
_report = Report()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--every-kernel", action="store_true", help="fail where a kernel of the project is not launched")


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    os.environ.pop("TRITON_INTERPRET", None)
    driver.install(int(os.environ.get("PTX_CAPABILITY", "90")))
    seed, count = int(os.environ.get("PTX_SEED", "0")), int(os.environ.get("PTX_SCHEDULES", "2"))
    driver.settings.schedules = [driver.Schedule(seed)]
    driver.settings.schedules += [driver.Schedule(seed + n, 3, True, n % 2 == 1) for n in range(1, count)]
    if os.environ.get("PTX_APPROXIMATE"):
        driver.settings.schedules = [driver.Schedule(seed, approximate=True)]


@pytest.fixture(autouse=True)
def emulated(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails the test where one of its launches did something wrong."""
    start = time.process_time()
    with driver.memory.poisoned():
        yield
    # With what fixtures of a module did before.
    done = outcome(driver.counts, driver.findings, time.process_time() - start)
    request.node.user_properties.append((_OUTCOME, done))  # which goes to the process that adds up
    bad = [str(f) for f in driver.findings if not f.benign]
    driver.clear()
    driver.counts.clear()
    if bad:
        pytest.fail("\n".join(bad[:5]), pytrace=False)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    done = dict(report.user_properties).get(_OUTCOME)
    if report.when == "teardown" and isinstance(done, dict):
        path = os.environ.get("PTX_REPORT")
        _report.add(report.nodeid, done, Path(path) if path else None)


def _kernels() -> set[str]:
    from benchmarks.ops import compile_cases  # which imports the kernels

    return {case.kernel.__name__ for case in compile_cases()}


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    controller = not hasattr(session.config, "workerinput")
    if session.config.getoption("every_kernel") and controller and _report.missing(_kernels()):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.section("compiled kernels, executed")
    kernels = _kernels()
    for line in _report.lines(kernels):
        terminalreporter.line(line)
    if terminalreporter.config.getoption("every_kernel"):
        for name in _report.missing(kernels):
            terminalreporter.line(f"NOT LAUNCHED: {name}", red=True)
