"""Evaluation on held-out people: the mean face, one frame, all frames of a clip, and all frames with refinement."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fmlfast import metrics
from fmlfast._atomic import atomic_path
from fmlfast.alignment import LANDMARKS_66, fit_pose
from fmlfast.camera import project
from fmlfast.color import linear_to_srgb
from fmlfast.contour import JAW_POINTS, select_contour
from fmlfast.data.shards import Clip, Truth, list_clips, read_clip, read_meta, read_truth
from fmlfast.frames import Codes, Frames
from fmlfast.kernels.photometric import sample_bilinear
from fmlfast.objective import visible_weights
from fmlfast.pictures import error_map, save_image
from fmlfast.refine import refine
from fmlfast.renderer import interpolate, rasterize, sh_basis, shade_sh, vertex_normals
from fmlfast.system import FML
from fmlfast.tally import MEAN_FACE, Tally, rounded
from fmlfast.template import FaceTemplate


@dataclass(frozen=True)
class Evaluation:
    """The table (what evaluation.json holds), and per row the mean distance at every vertex of `template`, in mm."""

    table: dict[str, Any]
    template: FaceTemplate
    vertex_errors: dict[str, Tensor]  # row -> [V]


@dataclass(frozen=True)
class _Estimate:
    """A reconstruction of F frames: geometry on the evaluation mesh, appearance on the model's own mesh."""

    neutral: Tensor  # [F,V,3] mm, model frame
    posed: Tensor  # [F,V,3] mm, model frame, with expression
    rotation: Tensor  # [F,3,3] model to camera
    translation: Tensor  # [F,3] mm
    surface: Tensor  # [F,U,3] mm, camera frame, the model's mesh
    reflectance: Tensor  # [F,U,3] linear RGB
    sh: Tensor  # [F,9,3]


@dataclass(frozen=True)
class _Target:
    """What F frames are compared with; geometry is None for real clips."""

    image: Tensor  # [F,S,S,3] sRGB
    Ks: Tensor  # [F,3,3] px
    landmarks: Tensor  # [F,68,2] px: exact where there is ground truth, else the detector's
    confidence: Tensor | None  # [F,68] of the detector; None for exact points
    neutral: Tensor | None = None  # [F,V,3] mm
    posed: Tensor | None = None  # [F,V,3] mm
    rotation: Tensor | None = None  # [F,3,3]


def evaluation_template(template: FaceTemplate) -> FaceTemplate:
    """The mesh that errors are measured on: level 1 of the default template whatever level was trained, so that runs
    compare; a user's template at the level that was trained."""
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
    """The evaluation table of a model on a split of prepared clips.

    Rows: `mean_face` (the template's mean, its pose fitted to the landmarks and its light to the image), `frames_1`
    (every frame alone), `frames_M` (all M frames of a clip jointly, M that of the longest clip) and
    `frames_M_refined`; all on the same frames. Each holds, as means over people of their frames' means:

    - vertex_mm: distance of the geometry with expression, after similarity alignment over the face region (primary);
    - neutral_mm: the same for the neutral geometry;
    - normal_deg: angle between vertex normals of the geometry with expression, after the same alignment;
    - landmark_nme: 66 points with the sliding jaw line, in % of the outer-eye distance;
    - photometric: mean absolute sRGB difference, 0..255, over the pixels where the face was rendered;
    - rotation_deg: head rotation error, up to the alignment's rotation.

    `spread` holds the standard errors over people, `ratios` each row over the mean face, `floor` the least neutral_mm
    that the graph allows, alone and with the model's orthogonal complement. Folders without ground truth give
    landmark_nme (against the detector's points) and photometric only. `batch` clips are evaluated at once, `clips`
    limits how many. Raises ValueError for folders without clips and clips of another template.
    """
    return measure(model, folder, split, refine_steps=refine_steps, batch=batch, clips=clips).table


def measure(
    model: FML,
    folder: str | Path,
    split: str = "test",
    *,
    refine_steps: int = 50,
    batch: int = 25,
    clips: int | None = None,
) -> Evaluation:
    """As `evaluate`, with the errors at every vertex beside the table."""
    refs = list_clips(folder, split)[:clips]
    if not refs:
        raise ValueError(f"{folder}: no clips to evaluate in split {split!r}")
    truth = _read_truth(Path(folder), split, model.template)
    template = evaluation_template(model.template)
    face = template.regions["face"]
    longest = max(len(ref.images) for ref in refs)
    totals = Tally(len(template.vertices))
    complement = model.template.complement_basis(model.config.complement_rank)
    floors = {"graph": [], "complement": []}
    training = model.training
    model.eval()
    for start in range(0, len(refs), batch):
        part = [read_clip(ref) for ref in refs[start : start + batch]]
        frames = Frames.from_clips(part, model.config.image_size, longest)
        people = [clip.subject for clip in part for _ in range(clip.frames)]
        target = _target(frames, part, truth, template)
        for row, estimate in _estimates(model, frames, template, longest, refine_steps):
            totals.add(row, people, *_errors(estimate, target, template, model.template))
        if target.neutral is not None:
            floors["graph"].append(metrics.skinning_floor(template, target.neutral, face))
            floors["complement"].append(metrics.skinning_floor(template, target.neutral, face, complement))
    model.train(training)
    table = totals.table()
    if truth is not None:
        floor = {name: float(torch.cat(values).mean()) for name, values in floors.items()}
        table["floor"] = {**floor, "complement_rank": complement.shape[1]}
    table |= {"split": split, "level": template.level, "clips": len(refs), "people": totals.people}
    table |= {"frames": totals.frames, "refine_steps": refine_steps, "landmark_points": 66, "landmark_jaw": True}
    return Evaluation(rounded(table), template, totals.vertex_errors())


def evaluate_run(
    run: str | Path, data: str | Path, split: str = "test", *, refine_steps: int = 50, clips: int | None = None
) -> dict[str, Any]:
    """Evaluates the model of a run folder on prepared clips and writes the results into it; returns the table."""
    run = Path(run)
    model = FML.load(run, "cuda" if torch.cuda.is_available() else "cpu")
    result = measure(model, data, split, refine_steps=refine_steps, clips=clips)
    write_evaluation(run, result)
    return result.table


def write_evaluation(run: str | Path, result: Evaluation) -> None:
    """Writes evaluation.json and, where there was ground truth, error_map.png into a run folder, each atomically."""
    run = Path(run)
    if result.vertex_errors:
        save_image(run / "error_map.png", error_map(result.template, result.vertex_errors))
    with atomic_path(run / "evaluation.json") as path:
        path.write_text(json.dumps(result.table, indent=2) + "\n")


# ------------------------------------------------------------------------------------------------------- the clips


def _read_truth(folder: Path, split: str, template: FaceTemplate) -> Truth | None:
    """Ground truth of a split, or None for real clips."""
    if not any(folder.glob(f"{split}-truth-*.tar")):
        return None
    made_from = read_meta(folder).get("template")
    if made_from != template.fingerprint:
        raise ValueError(f"{folder} was made from template {made_from}, the model has {template.fingerprint}")
    return read_truth(folder, split)


def _target(frames: Frames, clips: list[Clip], truth: Truth | None, template: FaceTemplate) -> _Target:
    mask = frames.mask
    image = frames.images[mask].permute(0, 2, 3, 1)
    if truth is None:
        return _Target(image, frames.Ks[mask], frames.landmarks[mask], frames.confidence[mask].clamp(min=1e-3))
    records = [truth[clip.key] for clip in clips]

    def stack(name: str) -> Tensor:
        return torch.cat([torch.from_numpy(record[name]).float() for record in records])

    scale = torch.cat([torch.full((clip.frames,), image.shape[1] / clip.images.shape[1]) for clip in clips])
    base = torch.stack([torch.from_numpy(record["vertices"]).float() for record in records])
    counts = torch.tensor([clip.frames for clip in clips])
    neutral = template.subdivide(base).repeat_interleave(counts, 0)
    posed = neutral + (stack("expression") @ template.expressions.flatten(1)).view_as(neutral)
    landmarks = stack("landmarks") * scale[:, None, None]
    return _Target(image, frames.Ks[mask], landmarks, None, neutral, posed, stack("rotation"))


# --------------------------------------------------------------------------------------------------- the estimates


def _estimates(
    model: FML, frames: Frames, template: FaceTemplate, longest: int, refine_steps: int
) -> Iterator[tuple[str, _Estimate]]:
    """The rows of the table for one batch of clips, each over its valid frames."""
    device = model.face.reflectance_mean.device
    frames = frames.to(device)
    with torch.no_grad():
        yield MEAN_FACE, _mean_face(model, frames, template)
        alone = frames.each_alone().select(frames.mask.flatten())
        yield "frames_1", _estimate(model, model.encode(alone), alone.mask, template)
        codes = model.encode(frames)
        if longest > 1:
            yield f"frames_{longest}", _estimate(model, codes, frames.mask, template)
    refined = refine(model, frames, codes, steps=refine_steps)
    with torch.no_grad():
        yield f"frames_{longest}_refined", _estimate(model, refined, frames.mask, template)


def _estimate(model: FML, codes: Codes, mask: Tensor, template: FaceTemplate) -> _Estimate:
    subject = torch.arange(len(mask), device=mask.device)[:, None].expand_as(mask)[mask]
    return _Estimate(
        neutral=model.neutral(codes, template)[subject],
        posed=model.geometry(codes, template)[mask],
        rotation=codes.rotation[mask],
        translation=codes.translation[mask],
        surface=model.camera_vertices(codes)[mask],
        reflectance=model.reflectance(codes)[subject],
        sh=codes.sh[mask],
    )


def _mean_face(model: FML, frames: Frames, template: FaceTemplate) -> _Estimate:
    """The template without identity and expression, its pose fitted to the landmarks and its light to the image."""
    mask, own, device = frames.mask, model.template, frames.images.device
    used = list(LANDMARKS_66)
    points = own.landmarks(own.vertices)[used].to(device)
    rotation, translation = fit_pose(frames.landmarks[mask][:, used], frames.Ks[mask], points)
    count = len(rotation)
    shape = template.vertices.to(device).expand(count, -1, -1)
    surface = own.vertices.to(device) @ rotation.mT + translation[:, None]
    reflectance = model.face.reflectance_mean.view(1, -1, 3).expand(count, -1, -1)
    normals = vertex_normals(surface, own.triangles.to(device))
    Ks = frames.Ks[mask]
    visible = visible_weights(model, surface, normals, Ks, frames.images.shape[-1])
    sh = fit_light(sample_bilinear(frames.linear[mask], project(surface, Ks)), reflectance, normals, visible)
    return _Estimate(shape, shape, rotation, translation, surface, reflectance, sh)


def fit_light(sampled: Tensor, reflectance: Tensor, normals: Tensor, weights: Tensor) -> Tensor:
    """Light that explains image colours best: least squares of c = r * (H(n) gamma) over the vertices -> [F,9,3].

    sampled, reflectance [F,V,3] linear RGB; normals [F,V,3] unit, camera frame; weights [F,V], 0 where hidden.
    """
    basis = sh_basis(normals)[..., None, :] * reflectance[..., None]  # [F,V,3,9]
    weighted = basis * weights[..., None, None]
    system = torch.einsum("fvci,fvcj->fcij", weighted, basis)
    right = torch.einsum("fvci,fvc->fci", weighted, sampled)
    damping = 1e-3 * system.diagonal(dim1=2, dim2=3).mean(2).clamp(
        min=1e-6
    )  # a face shows less than half of the sphere
    system = system + damping[..., None, None] * torch.eye(9, device=system.device)
    return torch.linalg.solve(system, right).transpose(1, 2)


# ------------------------------------------------------------------------------------------------------ the errors


def _errors(
    estimate: _Estimate, target: _Target, template: FaceTemplate, own: FaceTemplate
) -> tuple[dict[str, Tensor], Tensor | None]:
    """Every metric per frame [F], and the distances per vertex [F,V] where there is ground truth."""
    errors = {
        "landmark_nme": metrics.landmark_nme(
            _landmarks(estimate, target.Ks, template), target.landmarks, target.confidence
        ),
        "photometric": _photometric(estimate, target, own),
    }
    if target.posed is None or target.neutral is None or target.rotation is None:
        return errors, None
    face, triangles = template.regions["face"], template.triangles
    posed = estimate.posed.cpu()
    distances, alignment = metrics.vertex_distances(posed, target.posed, face)
    errors["vertex_mm"] = metrics.weighted_mean(distances, face)
    errors["neutral_mm"] = metrics.vertex_error(estimate.neutral.cpu(), target.neutral, face)
    normals = vertex_normals(posed, triangles), vertex_normals(target.posed, triangles)
    errors["normal_deg"] = metrics.normal_error(*normals, alignment.rotation, face)
    errors["rotation_deg"] = metrics.rotation_error(estimate.rotation.cpu(), target.rotation, alignment.rotation)
    return errors, distances


def _landmarks(estimate: _Estimate, Ks: Tensor, template: FaceTemplate) -> Tensor:
    """Projected landmarks [F,68,2], the jaw line on the silhouette, as detectors place it."""
    camera = (estimate.posed @ estimate.rotation.mT + estimate.translation[:, None]).cpu()
    inner = project(template.landmarks(camera)[:, JAW_POINTS:], Ks)
    corners = camera[:, template.triangles.long()[template.jaw_triangles]]  # [F,17,C,3,3]
    strips = (corners * template.jaw_barycentrics[..., None]).sum(3)
    uv = project(strips.flatten(1, 2), Ks).unflatten(1, strips.shape[1:3])
    choice = select_contour(uv, inner.mean(1))[:, :, None, None].expand(-1, -1, 1, 2)
    return torch.cat([uv.gather(2, choice)[:, :, 0], inner], 1)


def _photometric(estimate: _Estimate, target: _Target, own: FaceTemplate) -> Tensor:
    device, size = estimate.surface.device, target.image.shape[1]
    triangles = own.triangles.to(device)
    colors = shade_sh(estimate.reflectance, vertex_normals(estimate.surface, triangles), estimate.sh)
    fragments = rasterize(estimate.surface, triangles, target.Ks.to(device), size, size)
    image = linear_to_srgb(interpolate(colors, triangles, fragments)).cpu()
    inside = own.regions["face"].to(device)[triangles.long()].amin(1) > 0.5  # [T]
    triangle = fragments.triangle_id.long()
    mask = (triangle >= 0) & inside[triangle.clamp(min=0)]
    return metrics.photometric_error(image, target.image, mask.cpu())
