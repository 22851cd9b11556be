# SPDX-License-Identifier: Apache-2.0
"""What the tests of compiled kernels ran and found, added up over all processes, and its table."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tools.ptx.execute import Finding


@dataclass
class Row:
    """Sums over the tests of a file."""

    tests: int = 0
    """That launched kernels."""
    launches: int = 0
    findings: int = 0
    benign: int = 0
    seconds: float = 0.0
    """Of the processor."""

    def __add__(self, other: "Row") -> "Row":
        return Row(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))


@dataclass
class Report:
    """What was run: sums by file, launches by kernel, findings by kind."""

    rows: defaultdict[str, Row] = field(default_factory=lambda: defaultdict(Row))
    launches: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)

    def add(self, test: str, outcome: dict[str, Any], path: Path | None = None) -> None:
        """Adds the outcome of a test, as `outcome` made it; its findings go to `path` as lines of JSON."""
        launches, findings = outcome["launches"], outcome["findings"]
        bad = sum(not finding["benign"] for finding in findings)
        row = Row(int(bool(launches)), sum(launches.values()), bad, len(findings) - bad, outcome["seconds"])
        self.rows[test.split("::")[0]] += row
        self.launches.update(launches)
        self.kinds.update(f"{'benign' if f['benign'] else 'FINDING'}: {f['type']}" for f in findings)
        if path is not None and findings:
            with path.open("a") as file:
                file.writelines(json.dumps({"test": test} | finding) + "\n" for finding in findings)

    def missing(self, kernels: Iterable[str]) -> list[str]:
        """Names the kernels that no test launched."""
        return sorted(set(kernels) - self.launches.keys())

    def lines(self, kernels: Iterable[str]) -> list[str]:
        """Writes the table; `kernels` are all that the project has."""
        total = sum(self.rows.values(), Row())
        found = [f"{'tests':>6} {'launches':>9} {'findings':>9} {'benign':>7} {'minutes':>8}  file"]
        for name, row in [*sorted(self.rows.items()), ("in all", total)]:
            found.append(
                f"{row.tests:6} {row.launches:9,} {row.findings:9} {row.benign:7} {row.seconds / 60:8.1f}  {name}"
            )
        kernels = set(kernels)
        found.append(f"{len(kernels & self.launches.keys())} of {len(kernels)} kernels launched")
        return found + [f"{kind}, {count} times" for kind, count in sorted(self.kinds.items())]


def outcome(launches: Counter[str], findings: list[Finding], seconds: float) -> dict[str, Any]:
    """What a test did, in types that may be sent to another process."""
    found = [{"benign": finding.benign} | vars(finding) for finding in findings]
    return {"launches": dict(launches), "findings": found, "seconds": seconds}
