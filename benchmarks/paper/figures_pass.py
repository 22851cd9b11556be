"""Evaluates a run once and keeps what figures need: every frame's errors, estimates and truth."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from fmlfast import metrics
from fmlfast.data.frames import Frames
from fmlfast.data.shards import list_clips, read_clip, read_truth
from fmlfast.evaluation.methods import Estimate, default_methods
from fmlfast.evaluation.protocol import Evaluation, TrueFaces, has_truth, measure, true_faces
from fmlfast.model.fml import FML
from fmlfast.template.face_template import FaceTemplate

ALONE = "frames_1"
_REFINED = "_refined"
_DRAWN = ("surface", "reflectance", "sh")


@dataclass(frozen=True)
class Appearance:
    """The refined reconstruction on the model's own mesh, in the camera frame."""

    surface: Tensor  # [F, U, 3] mm
    reflectance: Tensor  # [F, U, 3] linear RGB
    sh: Tensor  # [F, 9, 3]


@dataclass(frozen=True)
class Pass:
    """Everything about F frames of one split; geometry on the evaluation mesh."""

    evaluation: Evaluation
    images: Tensor  # [F, S, S, 3] sRGB
    Ks: Tensor  # [F, 3, 3] px
    posed: dict[str, Tensor]  # row -> [F, V, 3] mm, with expression
    neutral: dict[str, Tensor]  # row -> [F, V, 3] mm
    appearance: Appearance
    truth: TrueFaces

    @property
    def template(self) -> FaceTemplate:
        """The evaluation mesh."""
        return self.evaluation.template

    @property
    def rows(self) -> list[str]:
        """Mean face, one frame, M frames, refined; without M frames where clips have one frame only."""
        return list(self.evaluation.frames)

    @property
    def refined(self) -> str:
        """The last row."""
        return self.rows[-1]

    @property
    def joint(self) -> str:
        """The row of all frames of a clip, not refined."""
        return self.refined.removesuffix(_REFINED)

    @cached_property
    def frames_of(self) -> dict[str, list[int]]:
        """Person -> indices of the person's frames."""
        found: dict[str, list[int]] = {}
        for index, person in enumerate(self.evaluation.people):
            found.setdefault(person, []).append(index)
        return found

    def people_errors(self, row: str, metric: str = "vertex_mm") -> dict[str, float]:
        """Person -> mean of the metric over the person's frames."""
        values = self.evaluation.frames[row][metric]
        return {person: float(values[frames].mean()) for person, frames in self.frames_of.items()}

    def typical_frame(self, person: str, row: str) -> int:
        """The person's frame whose error is closest to the person's mean."""
        frames = self.frames_of[person]
        values = self.evaluation.frames[row]["vertex_mm"][frames]
        return frames[int((values - values.mean()).abs().argmin())]

    def distances(self, row: str, frames: Sequence[int]) -> Tensor:
        """Distance in mm of every vertex with expression, as vertex_mm averages it: [N, V], 0 outside the region."""
        index = list(frames)
        return self._aligned(self.posed[row][index], self.truth.posed[index])[1]

    def neutral_distances(self, row: str, frames: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Neutral faces laid onto the true ones, [N, V, 3] mm, and their distances as neutral_mm averages them."""
        index = list(frames)
        return self._aligned(self.neutral[row][index], self.truth.neutral[self.truth.clip[index]])

    def _aligned(self, shapes: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
        inside = self.template.regions["face"] > 0
        face = self.template.regions["face"][inside]
        alignment = metrics.similarity_align(shapes[:, inside], truth[:, inside], face)
        moved = alignment.apply(shapes)
        return moved, torch.linalg.vector_norm(moved - truth, dim=-1) * inside


def run_pass(model: FML, folder: Path, split: str, *, refine_steps: int, clips: int | None) -> Pass:
    """Measures a model and keeps what is drawn. Raises ValueError for clips without ground truth."""
    if not has_truth(folder, split):
        raise ValueError(
            f"{folder}: split {split!r} has no ground truth, so no errors can be drawn; use synthetic clips"
        )
    kept: dict[str, dict[str, list[Tensor]]] = {}  # row -> name -> batches
    inputs: list[Frames] = []

    def recorded(
        model: FML, frames: Frames, template: FaceTemplate, longest: int, steps: int
    ) -> Iterator[tuple[str, Estimate]]:
        inputs.append(frames)
        for row, estimate in default_methods(model, frames, template, longest, steps):
            names = ("neutral", "posed", *_DRAWN) if row.endswith(_REFINED) else ("neutral", "posed")
            for name in names:
                kept.setdefault(row, {}).setdefault(name, []).append(getattr(estimate, name).cpu())
            yield row, estimate

    result = measure(model, folder, split, refine_steps=refine_steps, clips=clips, methods=recorded)
    stored = [read_clip(ref) for ref in list_clips(folder, split)[:clips]]
    truth = true_faces(read_truth(folder, split), stored, result.template)
    found = {row: {name: torch.cat(parts) for name, parts in named.items()} for row, named in kept.items()}
    last = list(found)[-1]

    def each_frame(neutral: Tensor) -> Tensor:
        return neutral if len(neutral) == len(truth.clip) else neutral[truth.clip]

    return Pass(
        evaluation=result,
        images=torch.cat([frames.images[frames.mask] for frames in inputs]).permute(0, 2, 3, 1),
        Ks=torch.cat([frames.Ks[frames.mask] for frames in inputs]),
        posed={row: named["posed"] for row, named in found.items()},
        neutral={row: each_frame(named["neutral"]) for row, named in found.items()},
        appearance=Appearance(*(found[last][name] for name in _DRAWN)),
        truth=truth,
    )


def at_quantile(errors: dict[str, float], share: float) -> str:
    """Finds the person at a quantile of the errors, 0 for the least, 1 for the largest."""
    if not 0 <= share <= 1:
        raise ValueError(f"a quantile lies in 0..1, got {share}")
    ordered = sorted(errors, key=lambda person: (errors[person], person))
    return ordered[int(share * (len(ordered) - 1) + 0.5)]
