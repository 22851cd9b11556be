"""Measures a model on clips without 3D truth: consistency of identities, and errors on frames that were not fitted.

python -m benchmarks.paper.real_clips RUN DATA: writes RUN/real_clips.json
"""

import json
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from torch import Tensor
from tyro.conf import Positional

from fmlfast.cli.tables import error_tables
from fmlfast.common.atomic import atomic_path
from fmlfast.data.frames import Frames
from fmlfast.data.shards import ClipRef, list_clips, read_clip
from fmlfast.evaluation.methods import Estimate, estimate
from fmlfast.evaluation.protocol import measure
from fmlfast.evaluation.table import MEAN_FACE, ErrorTable, rounded
from fmlfast.ibug68 import LANDMARKS_66
from fmlfast.losses import LossWeights, objective
from fmlfast.metrics import similarity_align
from fmlfast.model.codes import Codes
from fmlfast.model.config import load_template
from fmlfast.model.fml import FML
from fmlfast.model.landmark_pose import fit_pose
from fmlfast.reconstruction.personal_reflectance import fit_detail
from fmlfast.reconstruction.refinement import refine
from fmlfast.rotation import rotation_from_axis_angle
from fmlfast.template.face_template import FaceTemplate

FIT_STEPS = 200  # of pose and expression to landmarks; twice as many lower the error by less than 1%
STAGES = ("network", "refined")

Part = tuple[int, int, int]  # number of the clip, first frame, frame after the last
Faces = dict[Part, tuple[Tensor, ...]]  # identity [K], longer if refined, reflectance [Kr], its detail [U, 3]


@torch.no_grad()
def measure_real(
    model: FML,
    folder: str | Path,
    split: str = "test",
    *,
    refine_steps: int = 50,
    batch: int = 25,
    clips: int | None = None,
) -> dict[str, Any]:
    """Evaluates a model on clips without 3D truth; returns the table of errors as JSON types.

    It holds what `evaluate` gives (landmark and photometric errors of the mean face, single frames, whole clips and
    whole clips refined), and:

    - consistency: whether two samples of one person give the same face. A sample is a clip where the person has
      several, and half of a clip's frames where it is the only one; `people_by_clips` and `people_by_halves` count the
      people compared in either way. For `network` and `refined`, of the identity codes (`identity`) and of the neutral
      geometry aligned to the template by a similarity over the face region (`neutral_mm`): see `consistency`.
    - prediction: identity and reflectance from the first half of a clip's frames, tested on the others, `frames` in
      all. There pose and expression are fitted to the landmarks and light to the image, for every row alike, so that
      rows differ in identity and reflectance only: `mean_face` has none, `network` and `refined` the clip's own,
      `network_swapped` and `refined_swapped` another person's. `own_wins` is the share of frames in which a stage's
      own face is better than the other person's: 0.5 is chance level. Landmarks are fitted, so their error measures how
      well the shape can fit the face; the photometric error measures prediction.

    `consistency` is None for fewer than two people, `prediction` where every clip has one frame; swapped rows are left
    out with one person. `batch` clips are evaluated at once, `clips` limits how many. Raises ValueError for folders
    without clips.
    """
    options = {"refine_steps": refine_steps, "batch": batch, "clips": clips}
    table = measure(model, folder, split, **options).table
    refs = list_clips(folder, split)[:clips]
    people = [read_clip(ref).subject for ref in refs]
    clips_of = Counter(people)
    halves: list[tuple[Part, Part] | None] = []
    looks: list[Part] = []
    for number, (ref, person) in enumerate(zip(refs, people, strict=True)):
        last = len(ref.images)
        half = ((number, 0, last // 2), (number, last // 2, last)) if last > 1 else None
        halves.append(half)
        looks += [(number, 0, last)] if clips_of[person] > 1 else half or ()
    training = model.training
    model.eval()
    try:
        faces = _faces(model, refs, sorted({*looks, *(half[0] for half in halves if half)}), refine_steps, batch)
        several = {person for person, number in clips_of.items() if number > 1}
        seen = {people[part[0]] for part in looks}
        table["consistency"] = None
        if len(seen) > 1:
            found = {
                stage: _consistency(
                    model, torch.stack([faces[stage][p][0] for p in looks]), [people[p[0]] for p in looks]
                )
                for stage in STAGES
            }
            counts = {"people_by_clips": len(several), "people_by_halves": len(seen - several)}
            table["consistency"] = rounded({**counts, **found})
        table["prediction"] = None
        if any(halves):
            predict = _Prediction(faces, people, [half and half[0] for half in halves])
            errors = measure(model, folder, split, methods=predict, **options)
            table["prediction"] = rounded(_held_out(errors.frames, errors.people, refs))
    finally:
        model.train(training)
    return table


def consistency(distances: Tensor, people: list[str]) -> dict[str, float | None]:
    """Compares distances between samples of one person with those of different people (intraclass correlation).

    distances [N, N] are squared distances between N samples, `people` [N] the person of each. `within` is the root of
    the mean of those between two samples of one person, averaged over people; `across` the same for two people,
    averaged over pairs of people. `ratio` = within^2 / across^2 is 1 minus the intraclass correlation, the share of the
    samples' variance that is not between people: 0 when all samples of a person are equal, 1 when samples are
    independent of the person. `ratio_error` is its standard error by the jackknife over people. Values are None where
    undefined: no person with two samples, all samples equal, fewer than two people for a ratio or three for its error.
    """
    names = list(dict.fromkeys(people))
    owner = torch.tensor([[person == name for name in names] for person in people], dtype=torch.float64)
    looks = owner.sum(0)
    pairs = looks[:, None] * looks - torch.diag(looks)  # of two different looks
    mean = (owner.T @ distances.double() @ owner) / pairs.clamp(min=1)
    twice, own = (looks > 1).double(), mean.diagonal()
    others = mean.sum(1) - own
    count = len(names)
    within = own.sum() / twice.sum()  # nan for 0 / 0
    across = others.sum() / (count * (count - 1))
    # The same without each of the people.
    within_less = (own.sum() - own) / (twice.sum() - twice)
    across_less = (others.sum() - 2 * others) / ((count - 1) * (count - 2))
    ratios = within_less / across_less
    error = ((ratios - ratios.mean()).square().sum() * (count - 1) / count).sqrt()
    found = {"within": within.sqrt(), "across": across.sqrt(), "ratio": within / across, "ratio_error": error}
    return {name: float(value) if math.isfinite(value) else None for name, value in found.items()}


# ------------------------------------------------------------------------------------------------------- the faces


def _faces(model: FML, refs: list[ClipRef], parts: list[Part], refine_steps: int, batch: int) -> dict[str, Faces]:
    """Estimates identity, reflectance and its detail from each part alone, by stage, on the CPU."""
    faces: dict[str, Faces] = {stage: {} for stage in STAGES}
    for start in range(0, len(parts), batch):
        some = parts[start : start + batch]
        clips = [read_clip(refs[number]).part(first, last) for number, first, last in some]
        frames = Frames.from_clips(clips, model.config.image_size).to(model.code_mean.device)
        codes = model.encode(frames)
        refined = fit_detail(model, frames, refine(model, frames, codes, steps=refine_steps))
        own = replace(refined, detail=model.template.on_level(refined.detail))  # of whatever level a batch has
        for stage, answer in zip(STAGES, (codes, own), strict=True):
            parts_of = (answer.identity.cpu(), answer.reflectance.cpu(), answer.detail.cpu())
            faces[stage] |= zip(some, zip(*parts_of, strict=True), strict=True)
    return faces


def _consistency(model: FML, identity: Tensor, people: list[str]) -> dict[str, dict[str, float | None]]:
    """Computes `consistency` of identity codes [N, K] (longer if refined), and of their neutral geometry."""
    mesh = load_template(replace(model.config, level=0)) if model.template.level > 0 else model.template.to("cpu")
    face = mesh.regions["face"].double()
    mean = mesh.vertices[face > 0]
    weights = face[face > 0] / face.sum()
    displacements = model.face.displacements(identity.to(model.code_mean.device))
    shapes = model.face.neutral(displacements, mesh).cpu()[:, face > 0]
    shapes = similarity_align(shapes, mean.expand_as(shapes), weights).apply(shapes) - mean
    return {
        "identity": consistency(_squared_distances(identity.double()), people),
        "neutral_mm": consistency(_squared_distances((shapes * weights.sqrt()[:, None]).flatten(1)), people),
    }


def _squared_distances(rows: Tensor) -> Tensor:
    """Computes the squared distances [N, N] between rows [N, D]."""
    return torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist").square()


# ----------------------------------------------------------------------------------------------------- the prediction


class _Prediction:
    """Methods for `fmlfast.evaluation.protocol.measure`, which calls them on batches of clips in order."""

    def __init__(self, faces: dict[str, Faces], people: list[str], fitted: list[Part | None]) -> None:
        self._faces, self._people, self._fitted, self._start = faces, people, fitted, 0

    def __call__(
        self, model: FML, frames: Frames, template: FaceTemplate, longest: int, refine_steps: int
    ) -> Iterator[tuple[str, Estimate]]:
        clips = range(self._start, self._start + len(frames.mask))
        self._start = clips.stop
        frames = frames.to(model.code_mean.device)
        yield MEAN_FACE, self._estimate(model, frames, template, STAGES[0], [None] * len(clips))
        others = [self._other(clip) for clip in clips]
        for stage in STAGES:
            yield stage, self._estimate(model, frames, template, stage, [self._fitted[clip] for clip in clips])
            if len(set(self._people[part[0]] for part in self._fitted if part)) > 1:
                yield f"{stage}_swapped", self._estimate(model, frames, template, stage, others)

    def _other(self, clip: int) -> Part | None:
        """Returns the next clip of another person, cyclically."""
        following = (*self._fitted[clip + 1 :], *self._fitted[:clip])
        return next((part for part in following if part and self._people[part[0]] != self._people[clip]), None)

    def _estimate(
        self, model: FML, frames: Frames, template: FaceTemplate, stage: str, parts: list[Part | None]
    ) -> Estimate:
        """Fits pose, expression and light of `frames` with the faces of `parts`; None is the mean face."""
        faces = self._faces[stage]
        mean = tuple(torch.zeros_like(codes) for codes in next(iter(faces.values())))
        chosen = [faces[part] if part else mean for part in parts]
        fixed = (torch.stack(codes).to(frames.images.device) for codes in zip(*chosen, strict=True))
        codes = fit_frames(model, frames, *fixed)
        return estimate(model, codes, frames.mask, template)


def fit_frames(
    model: FML,
    frames: Frames,
    identity: Tensor,  # [B, K], longer if refined
    reflectance: Tensor,  # [B, Kr]
    detail: Tensor,  # [B, U, 3]
) -> Codes:
    """Fits pose and expression of every frame to its landmarks and light to its pixels; the face is fixed.

    Pose starts from PnP with the template's landmarks (`fit_pose`); Adam then minimises the landmark and expression
    terms of the training loss over pose and expression. Light is the least-squares solution.
    """
    frames, (subjects, count) = frames.unlabelled(), frames.mask.shape
    landmarks, Ks = frames.landmarks.flatten(0, 1), frames.Ks.flatten(0, 1)
    rotation, translation = fit_pose(landmarks[:, list(LANDMARKS_66)], Ks, model.landmark_points)
    rotation, translation = rotation.view(subjects, count, 3, 3), translation.view(subjects, count, 3)
    turn, shift = (torch.zeros_like(translation, requires_grad=True) for _ in range(2))
    expression = translation.new_zeros(subjects, count, model.num_expressions, requires_grad=True)
    dark = translation.new_zeros(subjects, count, 9, 3)
    free = [turn, shift, expression]
    rates = (0.01, 0.01, 0.03)  # radians, shares of the depth, blendshape coefficients
    optimizer = torch.optim.Adam(
        [{"params": [v], "lr": r} for v, r in zip(free, rates, strict=True)], betas=(0.9, 0.99)
    )
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, FIT_STEPS)

    def current() -> Codes:
        moved = translation + shift * translation[..., 2:]
        turned = rotation_from_axis_angle(turn) @ rotation
        return Codes(identity, reflectance, dark[:, 0, 0], detail, turned, moved, dark, expression)

    for _ in range(FIT_STEPS):
        with torch.enable_grad():
            terms = objective(model, frames, current(), LossWeights(), photometric_ramp=0.0)
            gradients = torch.autograd.grad((terms["landmarks"] + terms["expression"]).sum(), free)
        for value, gradient in zip(free, gradients, strict=True):
            value.grad = gradient
        optimizer.step()
        schedule.step()
        expression.clamp_(min=0.0)
    return model.fit_light(frames, current().map(torch.detach))


def _held_out(frames: dict[str, dict[str, Tensor]], people: list[str], refs: list[ClipRef]) -> dict[str, Any]:
    """Computes the table over the held-out frames from the errors of all frames."""
    unseen = torch.cat([torch.arange(len(ref.images)) >= max(len(ref.images) // 2, 1) for ref in refs])
    shown = [person for person, kept in zip(people, unseen.tolist(), strict=True) if kept]
    error_table = ErrorTable(0)
    for row, errors in frames.items():
        error_table.add(row, shown, {name: values[unseen] for name, values in errors.items()}, None)
    found = error_table.frame_errors()
    wins = {
        stage: {name: float((found[stage][name] < other[name]).double().mean()) for name in other}
        for stage in STAGES
        if (other := found.get(f"{stage}_swapped")) is not None
    }
    return {**error_table.table(), "own_wins": wins, "frames": error_table.frames, "people": error_table.people}


def main(
    run: Annotated[Path, Positional],
    data: Annotated[Path, Positional],
    /,
    split: str = "test",
    refine_steps: int = 50,
    clips: int | None = None,
) -> None:
    """Measures the model of a run folder on prepared clips and writes real_clips.json into it.

    Args:
        run: Run folder of a trained model.
        data: Folder of prepared clips.
        split: Which split of the clips to use.
        refine_steps: Steps of refinement in the last row.
        clips: At most so many clips.
    """
    model = FML.load(run, "cuda" if torch.cuda.is_available() else "cpu")
    table = measure_real(model, data, split, refine_steps=refine_steps, clips=clips)
    with atomic_path(run / "real_clips.json") as path:
        path.write_text(json.dumps(table, indent=2) + "\n")
    print(error_tables(table))


if __name__ == "__main__":
    tyro.cli(main)
