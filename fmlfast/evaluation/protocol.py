"""Measures errors on held-out people with ground truth: geometry, normals, landmarks, colours, head pose."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fmlfast import metrics
from fmlfast.camera import project
from fmlfast.color import LUMINANCE, linear_to_srgb
from fmlfast.common.progress import ProgressBar
from fmlfast.data.frames import Frames
from fmlfast.data.meta import check_landmarks
from fmlfast.data.shards import Clip, Truth, list_clips, read_clip, read_meta, read_truth
from fmlfast.evaluation.expressions import ExpressionTable
from fmlfast.evaluation.methods import Estimate, default_methods
from fmlfast.evaluation.table import ErrorTable, rounded
from fmlfast.evaluation.tone_groups import tone_groups
from fmlfast.model.fml import FML
from fmlfast.model.lighting import ambient_factor
from fmlfast.renderer import interpolate, rasterize, shade_vertices, vertex_normals
from fmlfast.template.face_template import FaceTemplate

SIMULATED = "simulated: the clips were made without the face detector, which the video extra installs"

Methods = Callable[[FML, Frames, FaceTemplate, int, int], Iterable[tuple[str, Estimate]]]
"""Maps (model, frames, evaluation mesh, frames of the longest clip, refinement steps) to (row, estimate) pairs."""


@dataclass(frozen=True)
class Evaluation:
    """Result of `measure`: the evaluation table, and the errors per vertex and per frame that it sums up."""

    table: dict[str, Any]  # the content of evaluation.json
    template: FaceTemplate
    vertex_errors: dict[str, Tensor]  # row -> [V] mean distance at each vertex of `template`, mm
    frames: dict[str, dict[str, Tensor]]  # row -> metric -> [F] float64, clip after clip
    people: list[str]  # [F] the subject of each frame


@dataclass(frozen=True)
class TrueFaces:
    """Ground truth of synthetic clips: F frames in B clips."""

    neutral: Tensor  # [B,V,3] mm
    clip: Tensor  # [F] the index of each frame's clip
    expression: Tensor  # [F,E]
    posed: Tensor  # [F,V,3] mm, with expression
    normals: Tensor  # [F,V,3]
    rotation: Tensor  # [F,3,3] model to camera
    translation: Tensor  # [F,3] mm
    reflectance: Tensor  # [B,V0,3] linear RGB, of the template's base mesh


@dataclass(frozen=True)
class _Target:
    """Reference data of F frames: images, landmarks and, for synthetic clips, ground truth."""

    image: Tensor  # [F,S,S,3] sRGB
    Ks: Tensor  # [F,3,3] px
    landmarks: Tensor  # [F,68,2] px: exact where there is ground truth, else the detector's
    confidence: Tensor | None  # [F,68] of the detector; None for exact points
    truth: TrueFaces | None  # None for real clips


def evaluation_template(template: FaceTemplate) -> FaceTemplate:
    """Returns the mesh that errors are measured on, so that runs compare.

    It is level 1 of the default template, whatever level was trained, and a user's template at the level trained.
    """
    standard = FaceTemplate.default(1)
    return standard if standard.fingerprint == template.fingerprint else template


def evaluate(
    model: FML,
    folder: str | Path,
    split: str = "test",
    *,
    refine_steps: int = 50,
    batch: int = 25,
    clips: int | None = None,
) -> dict[str, Any]:
    """Evaluates a model on a split of prepared clips; returns the table of errors as JSON types.

    Rows: `mean_face` (the template's mean, its pose fitted to the landmarks and its light to the image), `frames_1`
    (every frame alone), `frames_M` (all M frames of a clip jointly, M that of the longest clip) and,
    unless `refine_steps` is 0, `frames_M_refined`; all on the same frames. Each holds, as means over people of their
    frames' means:

    - vertex_mm: distance of the geometry with expression, after similarity alignment over the face region (primary);
    - neutral_mm: the same for the neutral geometry;
    - normal_deg: angle between vertex normals of the geometry with expression, after the same alignment;
    - landmark_nme: 66 points with the sliding jaw line, in % of the outer-eye distance;
    - photometric: mean absolute sRGB difference, 0..255, over the pixels where the face was rendered;
    - rotation_deg: head rotation error, up to the alignment's rotation;
    - tone_log: error of the logarithm of the face's mean reflectance;
    - pattern: error of the reflectance after the best gain of each channel.

    `tone_groups` holds the means of the thirds of people with the darkest, middle and lightest skin.
    `spread` holds the standard errors over people, `ratios` each row over the mean face, `floor` the least neutral_mm
    that the graph allows, alone and with the model's orthogonal complement, `expressions` the errors of the
    coefficients by name (`ExpressionTable`). Folders without ground truth give landmark_nme (against the detector's
    points) and photometric only. `batch` clips are evaluated at once, `clips` limits how many. Raises
    ValueError for folders without clips and clips of another template.

    Landmarks and surface points are the face detector's, as users get them; `landmarks` says so. Synthetic clips made
    without the `video` extra have simulated ones only. Where they have both, rows `simulated_frames_M` and
    `simulated_frames_M_refined` tell what the simulated ones (68 points with independent noise) give.
    """
    return measure(model, folder, split, refine_steps=refine_steps, batch=batch, clips=clips, simulated=True).table


@torch.no_grad()
def measure(
    model: FML,
    folder: str | Path,
    split: str = "test",
    *,
    refine_steps: int = 50,
    batch: int = 25,
    clips: int | None = None,
    frames: int | None = None,
    methods: Methods = default_methods,
    simulated: bool = False,
) -> Evaluation:
    """Evaluates a model as `evaluate` does; returns errors per vertex and per frame beside the table.

    `frames` limits each clip to its first so many frames. `methods` gives the rows, `mean_face` among them, for a batch
    of clips; they are compared with the clips as stored, whatever the methods do to them. `simulated` adds rows with
    simulated landmarks where the clips have both.
    """
    check_landmarks(folder)
    refs = list_clips(folder, split)[:clips]
    if not refs:
        raise ValueError(f"{folder}: no clips to evaluate in split {split!r}")
    if frames is not None and frames < 1:
        raise ValueError(f"frames must be at least 1, got {frames}")
    own = model.template.to("cpu")  # where truth and errors are, wherever the model is
    truth = _read_truth(Path(folder), split, own)
    template = evaluation_template(own)
    face = template.regions["face"]
    longest = max(len(ref.images[:frames]) for ref in refs)
    totals, named = ErrorTable(len(template.vertices)), ExpressionTable(own.expression_names)
    complement = own.complement_basis(model.config.complement_rank)
    floors = {"graph": [], "complement": []}
    tones: list[Tensor] = []
    asked = all(clip.detection is not None for clip in map(read_clip, refs))
    training = model.training
    model.eval()
    progress = ProgressBar(desc=f"evaluate {split}", total=len(refs), unit="clip")
    try:
        for start in range(0, len(refs), batch):
            part = [read_clip(ref).part(0, longest) for ref in refs[start : start + batch]]
            stacked = Frames.from_clips(part, model.config.image_size, longest)
            people = [clip.subject for clip in part for _ in range(clip.frames)]
            target = _target(stacked, part, truth, template)
            for row, estimate in methods(model, stacked, template, longest, refine_steps):
                progress.set_postfix_str(row)
                totals.add(row, people, *_errors(estimate, target, template, own))
                if target.truth is not None:
                    named.add(row, estimate.expression.cpu(), target.truth.expression)
            if simulated and asked and truth is not None:
                plain = Frames.from_clips([replace(c, detection=None) for c in part], model.config.image_size, longest)
                for row, estimate in methods(model, plain, template, longest, refine_steps):
                    if row.startswith(f"frames_{longest}"):
                        totals.add(f"simulated_{row}", people, *_errors(estimate, target, template, own))
            if target.truth is not None:
                tones.append(_skin_luminance(target.truth, template))
                floors["graph"].append(metrics.skinning_floor(template, target.truth.neutral, face))
                floors["complement"].append(metrics.skinning_floor(template, target.truth.neutral, face, complement))
            progress.update(len(part))
    finally:
        progress.close()
        model.train(training)
    table = totals.table()
    if truth is not None:
        floor = {name: float(torch.cat(values).mean()) for name, values in floors.items()}
        table["floor"] = {**floor, "complement_rank": complement.shape[1]}
        table["tone_groups"] = tone_groups(totals.frame_errors(), torch.cat(tones))
        table["expressions"] = named.table()
    table["landmarks"] = "detector" if asked or truth is None else SIMULATED
    table |= {"split": split, "level": template.level, "clips": len(refs), "people": totals.people}
    table |= {"frames": totals.frames, "refine_steps": refine_steps, "landmark_points": 66, "landmark_jaw": True}
    return Evaluation(rounded(table), template, totals.vertex_errors(), totals.frame_errors(), totals.frame_people())


# ------------------------------------------------------------------------------------------------------- the clips


def has_truth(folder: str | Path, split: str) -> bool:
    """Checks whether a split of prepared clips has ground truth, as synthetic ones do."""
    return any(Path(folder).glob(f"{split}-truth-*.tar"))


def _read_truth(folder: Path, split: str, template: FaceTemplate) -> Truth | None:
    """Reads the ground truth of a split; None for real clips."""
    if not has_truth(folder, split):
        return None
    made_from = read_meta(folder).get("template")
    if made_from != template.fingerprint:
        raise ValueError(
            f"{folder} was made from template {made_from}, the model has {template.fingerprint}; name other clips with "
            "--data, or a run that was trained on this template"
        )
    return read_truth(folder, split)


def _target(frames: Frames, clips: list[Clip], truth: Truth | None, template: FaceTemplate) -> _Target:
    mask = frames.mask
    image = frames.images[mask].permute(0, 2, 3, 1)
    if truth is None:
        return _Target(image, frames.Ks[mask], frames.landmarks[mask], frames.confidence[mask].clamp(min=1e-3), None)
    scale = torch.cat([torch.full((clip.frames,), image.shape[1] / clip.images.shape[1]) for clip in clips])
    landmarks = _of_frames(truth, clips, "landmarks", 68, 2) * scale[:, None, None]
    return _Target(image, frames.Ks[mask], landmarks, None, true_faces(truth, clips, template))


def true_faces(truth: Truth, clips: list[Clip], template: FaceTemplate) -> TrueFaces:
    """Computes the true geometry and pose of clips, frame after frame, on any level of the template."""
    coarse = template.subdivision[0].shape[1] if template.subdivision else len(template.vertices)
    base = torch.stack([_true(truth, clip, "vertices", (3,), coarse) for clip in clips])
    owner = torch.arange(len(clips)).repeat_interleave(torch.tensor([clip.frames for clip in clips]))
    neutral = template.subdivide(base)
    expression = _of_frames(truth, clips, "expression", len(template.expressions))
    moved = (expression @ template.expressions.flatten(1)).view(len(owner), -1, 3)
    posed = neutral[owner] + moved
    normals = vertex_normals(posed, template.triangles)
    pose = _of_frames(truth, clips, "rotation", 3, 3), _of_frames(truth, clips, "translation", 3)
    skin = torch.stack([_true(truth, clip, "reflectance", (3,), coarse) for clip in clips])
    return TrueFaces(neutral, owner, expression, posed, normals, *pose, skin)


def _skin_luminance(truth: TrueFaces, template: FaceTemplate) -> Tensor:
    """Computes the luminance of each frame's true mean face colour, [F]."""
    face = template.regions["face"][: truth.reflectance.shape[1]]
    mean = torch.einsum("v,bvc->bc", face / face.sum(), truth.reflectance)
    return (mean @ mean.new_tensor(LUMINANCE))[truth.clip]


def _of_frames(truth: Truth, clips: list[Clip], name: str, *tail: int) -> Tensor:
    """Concatenates one ground truth array [*tail] per frame, clip after clip."""
    return torch.cat([_true(truth, clip, name, tail, clip.frames)[: clip.frames] for clip in clips])


def _true(truth: Truth, clip: Clip, name: str, tail: tuple[int, ...], least: int) -> Tensor:
    return torch.from_numpy(truth.array(clip.key, name, tail, least)).float()


# ------------------------------------------------------------------------------------------------------ the errors


def _errors(
    estimate: Estimate, target: _Target, template: FaceTemplate, own: FaceTemplate
) -> tuple[dict[str, Tensor], Tensor | None]:
    """Computes every metric per frame, [F], and with ground truth the distances per vertex summed over frames, [V]."""
    errors = {
        "landmark_nme": metrics.landmark_nme(
            _landmarks(estimate, target.Ks, template), target.landmarks, target.confidence
        ),
        "photometric": _photometric(estimate, target, own),
    }
    truth = target.truth
    if truth is None:
        return errors, None
    inside = template.regions["face"] > 0
    face = template.regions["face"][inside]
    posed, neutral = estimate.posed.cpu(), estimate.neutral.cpu()[:, inside]
    distances, alignment = metrics.vertex_distances(posed[:, inside], truth.posed[:, inside], face)
    errors["vertex_mm"] = metrics.weighted_mean(distances, face)
    if len(neutral) == len(truth.neutral):
        errors["neutral_mm"] = metrics.vertex_error(neutral, truth.neutral[:, inside], face)[truth.clip]
    else:
        errors["neutral_mm"] = metrics.vertex_error(neutral, truth.neutral[truth.clip][:, inside], face)
    skin, wanted = estimate.reflectance.cpu(), truth.reflectance[truth.clip]
    base = wanted.shape[1]  # base vertices come first at every level
    errors["tone_log"] = metrics.tone_error(skin[:, :base], wanted, template.regions["face"][:base])
    errors["pattern"] = metrics.pattern_error(skin[:, :base], wanted, template.regions["face"][:base])
    normals = vertex_normals(posed, template.triangles)[:, inside]
    errors["normal_deg"] = metrics.normal_error(normals, truth.normals[:, inside], alignment.rotation, face)
    errors["rotation_deg"] = metrics.rotation_error(estimate.rotation.cpu(), truth.rotation, alignment.rotation)
    return errors, torch.zeros(inside.shape, dtype=torch.float64).masked_scatter(inside, distances.sum(0))


def _landmarks(estimate: Estimate, Ks: Tensor, template: FaceTemplate) -> Tensor:
    """Projects the landmarks, [F,68,2] px, with the jaw line on the silhouette, where detectors place it."""
    camera = (estimate.posed @ estimate.rotation.mT + estimate.translation[:, None]).cpu()
    return project(template.slide_landmarks(camera, Ks), Ks)


def _photometric(estimate: Estimate, target: _Target, own: FaceTemplate) -> Tensor:
    device, size = estimate.surface.device, target.image.shape[1]
    triangles = own.triangles.to(device)
    occluded = estimate.reflectance * ambient_factor(own).to(device)[:, None]
    colors, _ = shade_vertices(estimate.surface, triangles, occluded, estimate.sh)
    fragments = rasterize(estimate.surface, triangles, target.Ks.to(device), size, size)
    image = linear_to_srgb(interpolate(colors, triangles, fragments)).cpu()
    inside = own.regions["face"].to(device)[triangles.long()].amin(1) > 0.5  # [T]
    triangle = fragments.triangle_id.long()
    mask = (triangle >= 0) & inside[triangle.clamp(min=0)]
    return metrics.photometric_error(image, target.image, mask.cpu())
