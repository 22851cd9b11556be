"""Measures the error by how far the head is turned."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.paper.rows import Row
from benchmarks.paper.study import Case, Changes, Measured, Study
from benchmarks.paper.summary import number, table
from fmlfast.data.shards import list_clips, read_truth
from fmlfast.evaluation.protocol import measure
from fmlfast.model.fml import FML
from train import Config

BINS = ((0, 10), (10, 20), (20, 30), (30, 90))  # degrees
METRICS = ("vertex_mm", "normal_deg", "landmark_nme", "rotation_deg")
TESTS = {"mean_face": "mean face", "frames_1": "1 frame", "frames_4": "4 frames", "frames_4_refined": "4, refined"}


def yaw_degrees(rotation: Tensor) -> Tensor:
    """Returns the absolute yaw of rotations [F, 3, 3], model to camera, 0..180 degrees, [F]."""
    ahead = rotation[..., 2]  # where the face looks, camera frame: (0, 0, -1) from the front
    return torch.rad2deg(torch.atan2(ahead[..., 0], -ahead[..., 2])).abs()


def measure_model(model: FML, case: Case) -> Measured:
    """`<row>` by `<metric> <from>-<to>`: means over the frames of a bin, and how many there are."""
    found = measure(model, case.data, refine_steps=case.refine, clips=case.clips)
    truth = read_truth(case.data, "test")
    rotations = [truth[ref.key]["rotation"] for ref in list_clips(case.data, "test")[: case.clips]]
    yaw = yaw_degrees(torch.cat([torch.from_numpy(rotation).double() for rotation in rotations]))
    metrics, spread = {}, {}
    for row, named in found.frames.items():
        metrics[row], spread[row] = {}, {}
        for low, high in BINS:
            chosen = (yaw >= low) & (yaw < high)
            if int(chosen.sum()) < 2:
                continue
            metrics[row][f"frames {low}-{high}"] = float(chosen.sum())
            for name in METRICS:
                values = named[name][chosen]
                metrics[row][f"{name} {low}-{high}"] = float(values.mean())
                spread[row][f"{name} {low}-{high}"] = float(values.std() / len(values) ** 0.5)
    return Measured(metrics, spread)


def variants(base: Config) -> dict[str, Changes]:
    """The default run."""
    return {"default": {}}


def section(rows: Sequence[Row], docs: Path) -> str:
    """A table for each metric."""
    parts = []
    header = ["row", *(f"{low}–{high}°" for low, high in BINS)]
    counts = [rows[0].metrics["frames_1"].get(f"frames {low}-{high}", 0) for low, high in BINS]
    parts.append("Frames in each bin: " + ", ".join(f"{count:.0f}" for count in counts) + ".")
    for metric in METRICS:
        lines = [
            (words, [number(rows, "default", row, f"{metric} {low}-{high}") for low, high in BINS])
            for row, words in TESTS.items()
        ]
        parts += [f"{metric}:", table(header, lines)]
    return "\n\n".join(parts)


STUDY = Study(
    name="pose",
    title="Error by pose",
    about="Errors of single frames of the default run, by the absolute yaw of the head in that frame.",
    variants=variants,
    measure=measure_model,
    section=section,
)
