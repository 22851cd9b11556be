"""Measures how much worse answers get where landmarks, images or the focal length are wrong."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from benchmarks.paper.disturbances import DISTURBANCES, Disturb
from benchmarks.paper.rows import Row
from benchmarks.paper.study import Case, Changes, Measured, Study
from benchmarks.paper.summary import ratio, table
from fmlfast.data.frames import Frames
from fmlfast.evaluation.methods import Estimate, default_methods
from fmlfast.evaluation.protocol import measure
from fmlfast.model.fml import FML
from fmlfast.template.face_template import FaceTemplate
from train import Config

MOST = 50  # clips; paired comparisons need no more
CLEAN = "nothing changed"
TESTS = ("frames_1", "frames_4", "frames_4_refined")


def disturbed(
    disturb: Disturb, model: FML, frames: Frames, template: FaceTemplate, longest: int, refine_steps: int
) -> Iterator[tuple[str, Estimate]]:
    """Yields the evaluation's rows from disturbed frames."""
    return default_methods(model, disturb(frames), template, longest, refine_steps)


def measure_model(model: FML, case: Case) -> Measured:
    """Evaluates under each disturbance, `<row>: <disturbance>`; what they are compared with stays clean."""
    clips = min(case.clips or MOST, MOST)
    found = Measured({})
    for name, disturb in {CLEAN: None, **DISTURBANCES}.items():
        methods = default_methods if disturb is None else partial(disturbed, disturb)
        result = measure(model, case.data, refine_steps=case.refine, clips=clips, methods=methods)
        found |= Measured.of(result).named({row: f"{row}: {name}" for row in result.frames})
    return found


def variants(base: Config) -> dict[str, Changes]:
    """The default run."""
    return {"default": {}}


def section(rows: Sequence[Row], docs: Path) -> str:
    """One table, over the mean face of clean clips."""
    parts = []
    for metric in ("vertex_mm", "rotation_deg"):
        lines = []
        for name in (CLEAN, *DISTURBANCES):
            cells = [ratio(rows, "default", f"{test}: {name}", metric, f"mean_face: {CLEAN}") for test in TESTS]
            lines.append((name, cells))
        header = ["disturbance", "1 frame", "4 frames", "4 frames, refined"]
        parts += [f"{metric} over that of the mean face in undisturbed clips:", table(header, lines)]
    return "\n\n".join(parts)


STUDY = Study(
    name="robustness",
    title="Disturbed input",
    about=(
        f"The default run on the first {MOST} test people, with input that was changed after the fact: landmarks, "
        "images (in linear RGB; a side light is a ramp across the face) or intrinsics. Covered pixels are grey and "
        "the landmarks under them stay."
    ),
    variants=variants,
    measure=measure_model,
    section=section,
)
