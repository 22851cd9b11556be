"""Measures how many dimensions identity and reflectance need."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.paper.generalisation import LEARNED, true_neutrals
from benchmarks.paper.rows import Row
from benchmarks.paper.spaces import best_fit, identity_space
from benchmarks.paper.study import Case, Changes, Measured, Study
from benchmarks.paper.summary import number, ratio, table
from fmlfast.evaluation.protocol import evaluation_template, measure
from fmlfast.model.fml import FML
from train import Config

SIZES = (16, 32, 64, 128, 256, 500)


def variants(base: Config) -> dict[str, Changes]:
    """Varies the size of identity, reflectance in step."""
    model = base.model
    found = {}
    for size in SIZES:
        found[str(size)] = {
            "model.identity_dim": size,
            "model.reflectance_dim": max(1, size * model.reflectance_dim // model.identity_dim),
        }
    return found


def measure_model(model: FML, case: Case) -> Measured:
    """Evaluates a model, and the least error that its identity space allows for held-out people."""
    template = evaluation_template(model.template.to("cpu"))
    errors = best_fit(
        identity_space(model), true_neutrals(case.data, "test", template, case.clips), template.regions["face"]
    )
    fit = Measured(
        {LEARNED: {"fit_mm": float(errors.mean())}}, {LEARNED: {"fit_mm": float(errors.std() / len(errors) ** 0.5)}}
    )
    return Measured.of(measure(model, case.data, refine_steps=case.refine, clips=case.clips)) | fit


def section(rows: Sequence[Row], docs: Path) -> str:
    """One table."""
    cells = [
        (row, metric) for metric in ("vertex_mm", "neutral_mm") for row in ("frames_1", "frames_4", "frames_4_refined")
    ]
    header = ["dimensions"]
    header += [
        f"{metric}, {words}" for metric in ("vertex_mm", "neutral_mm") for words in ("1 frame", "4 frames", "refined")
    ]
    header += ["best fit to the true neutral face, mm"]
    lines = []
    for size in map(str, SIZES):
        values = [ratio(rows, size, *cell) for cell in cells]
        lines.append((size, [*values, number(rows, size, LEARNED, "fit_mm")]))
    return "Over the mean face, and what the space could do:\n\n" + table(header, lines)


STUDY = Study(
    name="basis",
    title="Size of the basis",
    about=(
        "Identity's dimensions from 16 to 500, reflectance's in the default proportion. The default's basis lies in "
        "250 smooth fields of the graph, so more dimensions than that are redundant; the 80 fields that the start "
        "from landmarks uses stand beside it and count in the best fit."
    ),
    variants=variants,
    measure=measure_model,
    section=section,
)
