"""Trains, measures and writes docs/results.md: python -m benchmarks.paper NAME|all|report [options].

NAME is a study; "report" writes docs/results.md from what is stored; "figures RUN" draws what a trained run makes of
unseen people (figures --help). A call that was cut short is continued by the
next; what is measured already is not measured again unless its settings changed.
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from benchmarks.paper import figures
from benchmarks.paper.report import write_report
from benchmarks.paper.rows import FOLDER
from benchmarks.paper.runner import plan_for, run_studies
from benchmarks.paper.studies import STUDIES


@dataclass(frozen=True)
class Options:
    """What to do, with how much."""

    name: Annotated[str, tyro.conf.Positional]
    """A study, "all" or "report"."""
    budget: Literal["cpu", "gpu"] = "cpu"
    """The presets "cpu" and "base" of train.py."""
    seeds: int = 3
    jobs: int = 2
    """Processes at a time; on a CPU each has one thread."""
    steps: int | None = None
    """Instead of the preset's."""
    people: int | None = None
    """Training people, where the clips are made here."""
    data: Path | None = None
    """Instead of the preset's; made where it does not exist."""
    refine: int = 50
    """Steps of refinement."""
    clips: int | None = None
    """At most so many test clips."""
    again: bool = False
    """Measure anew what was measured already; trained runs are kept."""
    runs: Path = Path("runs/experiments")
    results: Path = FOLDER
    docs: Path = Path("docs")


def main() -> None:
    try:
        if sys.argv[1:2] == ["figures"]:
            figures.main(sys.argv[2:])
        else:
            run(tyro.cli(Options, description=__doc__))
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        sys.exit(f"error: {error}")


def run(options: Options) -> None:
    """Trains, measures and writes docs/results.md."""
    names = {"all": list(STUDIES), "report": []}.get(options.name, [options.name])
    if unknown := [name for name in names if name not in STUDIES]:
        raise ValueError(f"no study {unknown[0]!r}: choose all, report, figures, {', '.join(STUDIES)}")
    plan = plan_for(options.budget, options.steps, options.people)
    if options.data:
        plan = replace(plan, base=replace(plan.base, data=options.data))
    given = ("seeds", "jobs", "refine", "clips", "again", "runs", "results")
    try:
        if names:
            run_studies([STUDIES[name] for name in names], replace(plan, **{k: getattr(options, k) for k in given}))
    finally:
        print(write_report(options.results, options.docs))


if __name__ == "__main__":
    main()
