"""From rows to what is written: means over seeds with their spread, tables, and verdicts computed from numbers."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.experiments.rows import Row
from benchmarks.table import markdown
from fmlfast.tally import MEAN_FACE

NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Number:
    """A mean with its standard deviation over seeds or, where there is one seed, its standard error over people."""

    mean: float
    spread: float | None
    seeds: int

    def __str__(self) -> str:
        digits = 3 if abs(self.mean) < 1 else 2
        spread = "" if self.spread is None else f" ± {self.spread:.{digits}f}"
        return f"{self.mean:.{digits}f}{spread}"

    @property
    def error(self) -> float:
        """How far the mean itself may be off, as a standard error."""
        return (self.spread or 0.0) / math.sqrt(max(self.seeds, 1))


def number(rows: Sequence[Row], variant: str, row: str, metric: str) -> Number | None:
    """A metric of a variant over its seeds; None where it was not measured."""
    some = [r for r in rows if r.variant == variant and metric in r.metrics.get(row, {})]
    if not some:
        return None
    values = [r.metrics[row][metric] for r in some]
    if len(values) == 1:
        return Number(values[0], some[0].spread.get(row, {}).get(metric), 1)
    return Number(statistics.fmean(values), statistics.stdev(values), len(values))


def ratio(rows: Sequence[Row], variant: str, row: str, metric: str, over: str = MEAN_FACE) -> Number | None:
    """A metric over the same metric of another row, the mean face's by default, seed by seed."""
    shares = []
    for r in rows:
        if r.variant == variant and metric in r.metrics.get(row, {}) and metric in r.metrics.get(over, {}):
            below = r.metrics[over][metric]
            spread = r.spread.get(row, {}).get(metric)
            shares.append((r.metrics[row][metric] / below, spread and spread / below))
    if not shares:
        return None
    if len(shares) == 1:
        return Number(shares[0][0], shares[0][1], 1)
    values = [share for share, _ in shares]
    return Number(statistics.fmean(values), statistics.stdev(values), len(values))


def text(value: Number | None) -> str:
    """The number, or a dash."""
    return "–" if value is None else str(value)


def verdict(claim: str, less: Number | None, more: Number | None, unit: str = "") -> str:
    """Whether `less` is below `more` by at least two standard errors of the difference, in words."""
    if less is None or more is None:
        return f"**{claim}: {NOT_MEASURED}.**"
    margin = 2 * math.hypot(less.error, more.error)
    numbers = f"{less}{unit} against {more}{unit}"
    if less.mean < more.mean - margin:
        return f"**{claim}: reproduced, {numbers}.**"
    if less.mean < more.mean + margin:
        return f"**{claim}: undecided, {numbers}; the difference is within two standard errors.**"
    return f"**{claim}: not reproduced, {numbers}.**"


def table(header: Sequence[str], lines: Sequence[tuple[str, Sequence[Number | None]]]) -> str:
    """A Markdown table of numbers, a name before each line."""
    return markdown(header, [(name, *map(text, numbers)) for name, numbers in lines])


def conditions(rows: Sequence[Row]) -> str:
    """Seeds, steps, machine, torch and commits of some rows, in a sentence."""

    def listed(name: str) -> str:
        return ", ".join(sorted({str(getattr(row, name)) for row in rows}))

    several = len({row.seed for row in rows}) > 1
    return (
        f"Seeds {listed('seed')}; {listed('steps')} steps; {listed('machine')}; torch {listed('torch')}; trained at "
        f"commit {listed('trained')}, measured at {listed('commit')}; ± is the standard "
        f"{'deviation over seeds' if several else 'error over people'}."
    )
