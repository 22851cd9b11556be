"""Summarises rows: means over seeds with their spread, tables, and verdicts computed from numbers."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.paper.rows import Row
from benchmarks.report.table import markdown
from fmlfast.evaluation.table import MEAN_FACE

NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Number:
    """A metric by seed, and its standard error over people where there is one seed."""

    values: Mapping[int, float]  # by seed
    people: float | None = None

    @property
    def mean(self) -> float:
        """Over seeds."""
        return statistics.fmean(self.values.values())

    @property
    def spread(self) -> float | None:
        """The standard deviation over seeds or, where there is one seed, the standard error over people."""
        return statistics.stdev(self.values.values()) if len(self.values) > 1 else self.people

    def __str__(self) -> str:
        digits = 3 if abs(self.mean) < 1 else 2
        spread = "" if self.spread is None else f" ± {self.spread:.{digits}f}"
        return f"{self.mean:.{digits}f}{spread}"


def number(rows: Sequence[Row], variant: str, row: str, metric: str) -> Number | None:
    """Returns a metric of a variant; None where it was not measured."""
    return ratio(rows, variant, row, metric, over=None)


def ratio(rows: Sequence[Row], variant: str, row: str, metric: str, over: str | None = MEAN_FACE) -> Number | None:
    """Divides a metric by that of another row, the mean face's by default, seed by seed."""
    values, people = {}, None
    for r in rows:
        below = 1.0 if over is None else r.metrics.get(over, {}).get(metric)
        if r.variant == variant and metric in r.metrics.get(row, {}) and below:
            values[r.seed] = r.metrics[row][metric] / below
            spread = r.spread.get(row, {}).get(metric)
            people = None if spread is None else spread / below
    return Number(values, people if len(values) == 1 else None) if values else None


def text(value: Number | None) -> str:
    """Formats the number, or a dash."""
    return "–" if value is None else str(value)


def verdict(claim: str, less: Number | None, more: Number | None, unit: str = "") -> str:
    """Says whether `less` is below `more` by at least two standard errors of the difference.

    Differences are taken seed by seed where both have the same seeds, two at least; else errors over people add up.
    """
    if less is None or more is None:
        return f"**{claim}: {NOT_MEASURED}.**"
    numbers = f"{less}{unit} against {more}{unit}"
    seeds = sorted(less.values.keys() & more.values.keys())
    if len(seeds) > 1:
        differences = [more.values[seed] - less.values[seed] for seed in seeds]
        gain, margin = statistics.fmean(differences), 2 * statistics.stdev(differences) / math.sqrt(len(seeds))
    elif less.spread is None or more.spread is None:
        return f"**{claim}: undecided, {numbers}; one seed does not tell how much they vary.**"
    else:
        gain, margin = more.mean - less.mean, 2 * math.hypot(less.spread, more.spread)
    if gain > margin:
        return f"**{claim}: reproduced, {numbers}.**"
    if gain > -margin:
        return f"**{claim}: undecided, {numbers}; the difference is within two standard errors.**"
    return f"**{claim}: not reproduced, {numbers}.**"


def table(header: Sequence[str], lines: Sequence[tuple[str, Sequence[Number | None]]]) -> str:
    """Writes a Markdown table of numbers, a name before each line."""
    return markdown(header, [(name, *map(text, numbers)) for name, numbers in lines])


def conditions(rows: Sequence[Row]) -> str:
    """Lists seeds, steps, machine, torch and commits of some rows in a sentence."""

    def listed(name: str) -> str:
        return ", ".join(sorted({str(getattr(row, name)) for row in rows}))

    several = len({row.seed for row in rows}) > 1
    return (
        f"Seeds {listed('seed')}; {listed('steps')} steps; {listed('machine')}; torch {listed('torch')}; trained at "
        f"commit {listed('trained')}, measured at {listed('commit')}; ± is the standard "
        f"{'deviation over seeds' if several else 'error over people'}."
    )
