"""Measures the error of test-time refinement by its steps and by its time."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from benchmarks.paper.curves import Curve, draw
from benchmarks.paper.rows import Row
from benchmarks.paper.study import Case, Changes, Measured, Study
from benchmarks.paper.summary import number, ratio, table
from fmlfast.data.frames import Frames
from fmlfast.evaluation.methods import Estimate, estimate, mean_face
from fmlfast.evaluation.protocol import measure
from fmlfast.evaluation.table import MEAN_FACE
from fmlfast.model.codes import Codes
from fmlfast.model.fml import FML
from fmlfast.reconstruction.refinement import refine
from fmlfast.template.face_template import FaceTemplate
from train import Config

STEPS = (0, 5, 10, 20, 35, 50, 100, 200)
METRICS = ("vertex_mm", "neutral_mm", "landmark_nme", "photometric", "rotation_deg")
MOST = 50  # clips


@dataclass
class BySteps:
    """Methods of an evaluation: the mean face, and all frames of a clip after each number of steps."""

    seconds: dict[int, float] = field(default_factory=lambda: dict.fromkeys(STEPS, 0.0))
    """Spent by number of steps, the network's time not counted."""
    clips: int = 0

    def __call__(
        self, model: FML, frames: Frames, template: FaceTemplate, longest: int, refine_steps: int
    ) -> Iterator[tuple[str, Estimate]]:
        frames = frames.to(model.code_mean.device)
        self.clips += len(frames.mask)
        yield MEAN_FACE, mean_face(model, frames, template)
        codes = model.encode(frames)
        for steps in STEPS:
            found, seconds = timed(model, frames, codes, steps)
            self.seconds[steps] += seconds
            yield row_of(steps), estimate(model, found, frames.mask, template)


def timed(model: FML, frames: Frames, codes: Codes, steps: int) -> tuple[Codes, float]:
    """Refines codes; returns them, and the seconds until the last number was there."""
    on_gpu = frames.mask.is_cuda
    for _ in range(1 + on_gpu * (steps > 0)):  # kernels are compiled by the first call
        begin = time.perf_counter()
        found = refine(model, frames, codes, steps)
        if on_gpu:
            torch.cuda.synchronize()
    return found, time.perf_counter() - begin


def row_of(steps: int) -> str:
    """Names the row of a number of steps."""
    return f"steps {steps}"


def measure_model(model: FML, case: Case) -> Measured:
    """Measures errors and milliseconds a clip by the number of steps, in batches of the evaluation's size."""
    methods = BySteps()
    found = Measured.of(measure(model, case.data, clips=min(case.clips or MOST, MOST), methods=methods))
    for steps, seconds in methods.seconds.items():
        found.metrics[row_of(steps)]["ms"] = 1e3 * seconds / methods.clips
    return found


def variants(base: Config) -> dict[str, Changes]:
    """The default run."""
    return {"default": {}}


def section(rows: Sequence[Row], docs: Path) -> str:
    """A table of errors by steps, and the curves of error by steps and by time."""
    lines = []
    for steps in STEPS:
        cells = [number(rows, "default", row_of(steps), "ms")]
        cells += [ratio(rows, "default", row_of(steps), metric) for metric in METRICS]
        lines.append((str(steps), cells))
    parts = ["Errors over those of the mean face:", table(["steps", "ms a clip", *METRICS], lines)]
    for name, x in (("steps", "steps of refinement"), ("ms", "ms a clip")):
        curves = [Curve(metric, _points(rows, metric, name)) for metric in METRICS]
        picture = f"refinement-{name}-{rows[0].budget}"
        parts.append(draw(docs, picture, x, "error over the mean face's", curves))
    return "\n\n".join(parts)


def _points(rows: Sequence[Row], metric: str, axis: str) -> list[tuple[float, float]]:
    points = []
    for steps in STEPS:
        value, spent = (ratio(rows, "default", row_of(steps), metric), number(rows, "default", row_of(steps), "ms"))
        if value is not None and spent is not None:
            points.append((float(steps if axis == "steps" else round(spent.mean)), value.mean))
    return points


STUDY = Study(
    name="refinement",
    title="Refinement by steps and time",
    about=(
        f"The default run on the first {MOST} test people, four frames each: the network's answer, refined by more and "
        "more steps, each number of them a refinement of its own as rates fall to its end. Milliseconds are wall time "
        "a clip with 25 clips refined at once, without the network, on one thread where there is no GPU."
    ),
    variants=variants,
    measure=measure_model,
    section=section,
)
