"""Measures frames in training times frames at test: the paper's claims that four beat one."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.paper.rows import Row
from benchmarks.paper.study import LONG_CLIP, Case, Changes, Measured, Study, Table
from benchmarks.paper.summary import ratio, table, verdict
from fmlfast.evaluation.protocol import Evaluation, measure
from fmlfast.model.fml import FML
from train import Config

TEST = (1, 2, 4, 8)
TRAINING = {"1 frame": 1, "2 frames": 2, "4 frames": 4}
METRICS = ("vertex_mm", "neutral_mm")


def variants(base: Config) -> dict[str, Changes]:
    """Trains on the same number of frames a step, of more or fewer subjects."""
    return {name: {"frames": count, "batch": base.batch * base.frames // count} for name, count in TRAINING.items()}


def measure_model(model: FML, case: Case) -> Measured:
    """Measures errors on the first frame of long clips, from 1, 2, 4 and 8 frames; alone and refined."""
    metrics: Table = {}
    spread: Table = {}
    for count in TEST:
        found = measure(model, case.long_clips, refine_steps=case.refine, clips=case.clips, frames=count)
        rows = {"mean_face": "mean_face", f"frames_{count}": f"frames_{count}"}
        rows[f"frames_{count}_refined"] = f"frames_{count}_refined"
        for row in rows:
            errors = {name: first_frames(found, row, name) for name in METRICS}
            metrics[row] = {name: float(values.mean()) for name, values in errors.items()}
            spread[row] = {name: float(values.std() / len(values) ** 0.5) for name, values in errors.items()}
    return Measured(metrics, spread)


def first_frames(found: Evaluation, row: str, metric: str) -> Tensor:
    """Picks a metric at the first frame of each person, [N]."""
    first = {person: index for index, person in reversed(list(enumerate(found.people)))}
    return found.frames[row][metric][torch.tensor([first[person] for person in dict.fromkeys(found.people)])]


def section(rows: Sequence[Row], docs: Path) -> str:
    """Two verdicts, and a table for each metric."""
    parts = [
        verdict(
            "Training with four frames beats training with one",
            ratio(rows, "4 frames", "frames_4", "vertex_mm"),
            ratio(rows, "1 frame", "frames_4", "vertex_mm"),
        ),
        verdict(
            "Four frames at test beat one",
            ratio(rows, "4 frames", "frames_4", "vertex_mm"),
            ratio(rows, "4 frames", "frames_1", "vertex_mm"),
        ),
        verdict(
            "Eight frames at test beat four",
            ratio(rows, "4 frames", "frames_8", "vertex_mm"),
            ratio(rows, "4 frames", "frames_4", "vertex_mm"),
        ),
    ]
    header = ["trained with", *(f"{count} at test" for count in TEST), *(f"{count}, refined" for count in TEST)]
    tests = [f"frames_{count}{end}" for end in ("", "_refined") for count in TEST]
    for metric in METRICS:
        lines = [(name, [ratio(rows, name, test, metric) for test in tests]) for name in TRAINING]
        parts += [f"{metric} over the mean face:", table(header, lines)]
    return "\n\n".join(parts)


STUDY = Study(
    name="frames",
    title="Frames in training and at test",
    about=(
        "Training sees the same number of frames a step: 32 subjects with one frame, 16 with two, 8 with four "
        f"(twice as many on the GPU budget). At test each person shows {LONG_CLIP} frames, of which the model gets "
        f"the first 1, 2, 4 or all {LONG_CLIP}; errors are always those of the first frame, which every model sees, "
        "and of the neutral face."
    ),
    variants=variants,
    measure=measure_model,
    section=section,
    long_clips=True,
)
