"""The paper's choices against ours, at a size and length that a CPU affords."""

from collections.abc import Sequence
from functools import reduce
from pathlib import Path

from benchmarks.paper.rows import Row
from benchmarks.paper.study import Case, Changes, Measured, Study
from benchmarks.paper.summary import number, ratio, table
from fmlfast.evaluation.protocol import measure
from fmlfast.model.fml import FML
from train import PRESETS, Config

STEPS = 300
CHOICES = (
    "model.inputs",
    "model.shape_init",
    "model.light_fit",
    "model.light_complement",
    "model.complement_rank",
    "model.smooth_basis",
    "model.visibility",
    "loss.photometric_kind",
    "loss.displacement",
    "loss.reflectance",
)
"""Settings in which the preset "paper" follows the paper."""
OURS, PAPER = "aligned", "paper"
TESTS = {"frames_1": "1 frame", "frames_4": "4 frames", "frames_4_refined": "4 frames, refined"}


def variants(base: Config) -> dict[str, Changes]:
    """A short run as it is, and with the choices of the preset "paper"."""
    choices = {name: reduce(getattr, name.split("."), PRESETS["paper"]) for name in CHOICES}
    return {OURS: {"steps": STEPS}, PAPER: {"steps": STEPS, **choices}}


def measure_model(model: FML, case: Case) -> Measured:
    """The evaluation's table."""
    return Measured.of(measure(model, case.data, refine_steps=case.refine, clips=case.clips))


def section(rows: Sequence[Row], docs: Path) -> str:
    """One table."""
    lines = [
        (
            f"{words}, {variant}",
            [
                number(rows, variant, row, "vertex_mm"),
                ratio(rows, variant, row, "vertex_mm"),
                number(rows, variant, row, "landmark_nme"),
                number(rows, variant, row, "photometric"),
            ],
        )
        for row, words in TESTS.items()
        for variant in (OURS, PAPER)
    ]
    return table(["", "vertex_mm", "over the mean face", "landmark_nme", "photometric"], lines)


STUDY = Study(
    name="presets",
    title="The paper's choices against ours at small size",
    about=(
        f"The preset of the budget for {STEPS} steps, as it is and with the choices of the preset `paper`: what the "
        "network sees and starts from, how light is found, what identity may use, which vertices the photometric term "
        "sees, its cost, and two weights. Size, schedule and refinement are the same for both. `landmark_nme` is in "
        "% of the outer-eye distance, `photometric` the mean absolute colour difference of 255."
    ),
    variants=variants,
    measure=measure_model,
    section=section,
)
