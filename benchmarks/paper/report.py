"""Writes docs/results.md from the stored rows."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness.markdown import wrapped
from benchmarks.paper import figures_store
from benchmarks.paper.rows import Row, read_rows
from benchmarks.paper.studies import STUDIES
from benchmarks.paper.study import Study, base_config
from benchmarks.paper.summary import NOT_MEASURED, conditions
from fmlfast.common.atomic import atomic_path

BUDGETS = {"cpu": "CPU budget", "gpu": "GPU budget"}
INTRODUCTION = """# Results

Written by `python -m benchmarks.paper report` from `benchmarks/results/paper/*.json`; do not edit it by
hand. `python -m benchmarks.paper all --budget cpu` measures what is missing. [training.md](training.md) says what
the numbers mean and why some claims fail.

Everything is measured on synthetic people whose true geometry is known and whom training never saw. `vertex_mm` is the
distance of the posed geometry (with expression) from the truth after similarity alignment over the face region,
`neutral_mm` the same without expression. A ratio is over the error of the mean face, which is the template posed by the
landmarks: 1 is worth nothing, 0 is perfect. A verdict is "reproduced" where the difference is more than two standard
errors: of the differences by seed, or over people where there is one seed.
"""


def write_report(results: Path, docs: Path) -> Path:
    """Writes results.md and its figures into `docs`; returns its path."""
    studies = [section(study, read_rows(study.name, results), docs) for study in STUDIES.values()]
    parts = [INTRODUCTION, claims(studies), figures_store.section(docs / "images"), *studies]
    with atomic_path(docs / "results.md") as path:
        path.write_text(wrapped("\n".join(part.strip() + "\n" for part in parts)))
    return docs / "results.md"


def claims(sections: Sequence[str]) -> str:
    """Lists all verdicts, by budget and in the order of the studies."""
    found: dict[str, list[str]] = {}
    for text in sections:
        budget = ""
        for line in text.splitlines():
            if line.startswith("### "):
                budget = line.removeprefix("### ")
            elif line.startswith("**"):
                found.setdefault(budget, []).append(f"- {line.strip('*')}")
    parts = [f"{budget}:\n\n" + "\n".join(found[budget]) for budget in BUDGETS.values() if budget in found]
    return "\n\n".join(["## Claims", *(parts or ["None measured yet."])])


def section(study: Study, rows: Sequence[Row], docs: Path) -> str:
    """Writes what a study found, budget by budget."""
    parts = [f"## {study.title}", study.about]
    for budget, words in BUDGETS.items():
        some = [row for row in rows if row.budget == budget]
        parts.append(f"### {words}")
        if not some:
            parts.append(f"{NOT_MEASURED.capitalize()}.")
            continue
        missing = [name for name in study.variants(base_config(budget)) if name not in {row.variant for row in some}]
        if missing:
            parts.append(f"{NOT_MEASURED.capitalize()} yet: {', '.join(missing)}.")
        parts += [study.section(some, docs), conditions(some)]
    return "\n\n".join(parts)
