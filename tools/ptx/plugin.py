# SPDX-License-Identifier: Apache-2.0
"""A plugin for pytest, `-p tools.ptx.plugin`: the project's tests of its kernels run the compiled PTX in the emulator.

A test fails where a launch did something wrong. PTX_REPORT names a file to which every finding is added as a line of
JSON; PTX_CAPABILITY is 90 or 80; PTX_SEED seeds the schedules; PTX_SCHEDULES is how many each launch is run under.
"""

import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.ptx import driver

driver.gates()  # before tests/conftest.py imports the project

_seen: Counter[str] = Counter()
"""Tests that launched kernels, and findings by type."""


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
    driver.clear()
    before = driver.counts.total()
    with driver.memory.poisoned():
        yield
    _seen["tests that launched kernels"] += driver.counts.total() > before
    for finding in driver.findings:
        _seen[f"{'benign: ' if finding.benign else 'FINDING: '}{finding.type}"] += 1
    if report := os.environ.get("PTX_REPORT"):
        with Path(report).open("a") as file:
            for finding in driver.findings:
                file.write(
                    json.dumps({"test": request.node.nodeid, "benign": finding.benign} | finding.__dict__) + "\n"
                )
    bad = [str(f) for f in driver.findings if not f.benign]
    driver.clear()
    if bad:
        pytest.fail("\n".join(bad[:5]), pytrace=False)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.section("compiled kernels, executed")
    launches = f"{driver.counts.total()} launches of {len(driver.counts)} kernels"
    terminalreporter.line(", ".join([launches, *(f"{kind}: {count}" for kind, count in sorted(_seen.items()))]))
