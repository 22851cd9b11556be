"""Measures each loss term's worth by leaving it out, in training, in refinement, and in both."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from benchmarks.paper.rows import Row
from benchmarks.paper.study import Case, Changes, Measured, Study
from benchmarks.paper.summary import ratio, table, verdict
from fmlfast.data.frames import Frames
from fmlfast.evaluation.methods import Estimate, default_methods, estimate
from fmlfast.evaluation.protocol import measure
from fmlfast.model.fml import FML
from fmlfast.reconstruction.refinement import REFINEMENT, refine
from fmlfast.template.face_template import FaceTemplate
from train import Config

TERMS = {
    "photometric": "photometric",
    "landmarks": "landmarks",
    "jaw": "landmarks of the jaw line",
    "membrane": "membrane",
    "displacement": "displacement",
    "expression": "expression prior",
    "sparsity": "reflectance sparsity",
    "reflectance": "reflectance deviation",
}
ALL = "all terms"


def variants(base: Config) -> dict[str, Changes]:
    """Trains with all terms, and without each one."""
    without: dict[str, dict[str, float]] = {term: {f"loss.{term}": 0.0} for term in TERMS}
    without["landmarks"]["geometry_first"] = 0.0  # or nothing holds geometry while the image may not move it
    return {ALL: {}, **without}


def refined_without(
    terms: Sequence[str], model: FML, frames: Frames, template: FaceTemplate, longest: int, refine_steps: int
) -> Iterator[tuple[str, Estimate]]:
    """Yields the evaluation's rows, and all frames refined without each term: `without_<term>`."""
    yield from default_methods(model, frames, template, longest, refine_steps)
    frames = frames.to(model.face.reflectance_mean.device)
    codes = model.encode(frames)
    for term in terms:
        refined = refine(model, frames, codes, steps=refine_steps, weights=replace(REFINEMENT, **{term: 0.0}))
        yield f"without_{term}", estimate(model, refined, frames.mask, template)


def measure_model(model: FML, case: Case) -> Measured:
    """Evaluates a model refined by all terms, and without the one that training lacked (or each)."""
    methods = partial(refined_without, tuple(TERMS) if case.variant == ALL else (case.variant,))
    found = measure(model, case.data, refine_steps=case.refine, clips=case.clips, methods=methods)
    return Measured.of(found)


def section(rows: Sequence[Row], docs: Path) -> str:
    """Whether the photometric term, the heart of the paper, lowers the error; and the table of all terms."""

    def value(variant: str, row: str, metric: str = "vertex_mm"):
        return ratio(rows, variant, row, metric)

    parts = [
        verdict(
            "The photometric term lowers the network's error",
            value(ALL, "frames_4"),
            value("photometric", "frames_4"),
        ),
        verdict(
            "The photometric term lowers the error of refinement",
            value(ALL, "frames_4_refined"),
            value(ALL, "without_photometric"),
        ),
        verdict(
            "Training and refining with it beats landmarks alone in both",
            value(ALL, "frames_4_refined"),
            value("photometric", "without_photometric"),
        ),
    ]
    for metric in ("vertex_mm", "neutral_mm"):
        full = [value(ALL, row, metric) for row in ("frames_4", "frames_4_refined")]
        lines = [(ALL, [full[0], full[1], full[1], full[1]])]
        for term, words in TERMS.items():
            inside = [value(term, "frames_4", metric), value(term, "frames_4_refined", metric)]
            outside = [value(variant, f"without_{term}", metric) for variant in (ALL, term)]
            lines.append((words, [*inside, *outside]))
        header = ["left out", "in training, not refined", "in training, refined", "in refinement", "in both"]
        parts += [f"{metric} over the mean face, four frames:", table(header, lines)]
    return "\n\n".join(parts)


STUDY = Study(
    name="terms",
    title="Each loss term left out",
    about=(
        "A term's weight is set to zero in training, in refinement, or in both; the other weights stay as they are. "
        "The network sees the landmarks even where the landmark term is left out, and pose and shape start from them; "
        "the image then moves geometry from the first step on, as nothing else would hold it."
    ),
    variants=variants,
    measure=measure_model,
    section=section,
)
