"""Expressions that are learned beside the template's, on and off."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.paper.complement import measure_model
from benchmarks.paper.rows import Row
from benchmarks.paper.study import Changes, Study
from benchmarks.paper.summary import number, ratio, table, verdict
from train import Config

OFF, ON = "off", "16 learned"


def variants(base: Config) -> dict[str, Changes]:
    """Without, as in the paper, and with."""
    return {OFF: {"model.residual_expressions": 0}, ON: {"model.residual_expressions": 16}}


def section(rows: Sequence[Row], docs: Path) -> str:
    """A verdict, errors, and what the learned expressions do to identity and to transfer."""

    def value(variant: str, row: str):
        return ratio(rows, variant, row, "vertex_mm")

    parts = [
        verdict("Learned expressions lower the error", value(ON, "frames_4"), value(OFF, "frames_4")),
        verdict(
            "Learned expressions lower the refined error", value(ON, "frames_4_refined"), value(OFF, "frames_4_refined")
        ),
    ]
    tests = [(row, metric) for metric in ("vertex_mm", "neutral_mm") for row in ("frames_4", "frames_4_refined")]
    header = ["expressions", "vertex_mm, 4 frames", "refined", "neutral_mm, 4 frames", "refined"]
    parts += ["Over the mean face:", table(header, [(v, [ratio(rows, v, *t) for t in tests]) for v in (OFF, ON)])]
    cells = [("frame", "neutral_ratio"), ("transfer", "own_mm"), ("transfer", "transfer_mm")]
    header = ["expressions", "variance of the neutral face within over across people", "own, mm", "transferred, mm"]
    parts += ["Drift and transfer:", table(header, [(v, [number(rows, v, *c) for c in cells]) for v in (OFF, ON)])]
    return "\n\n".join(parts)


STUDY = Study(
    name="residual",
    title="Learned expressions",
    about=(
        "Beyond the paper: a small basis of further expressions is learned on the graph, kept orthogonal to the "
        "learned identity basis (not to the smooth fields of the start). Drift and transfer are measured as for "
        "the orthogonal complement."
    ),
    variants=variants,
    measure=measure_model,
    section=section,
    long_clips=True,
)
