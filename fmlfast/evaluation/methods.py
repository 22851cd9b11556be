"""Reconstructs clips by the methods under evaluation: mean face, one frame, all frames, all frames refined."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from fmlfast.data.frames import Frames
from fmlfast.evaluation.table import MEAN_FACE
from fmlfast.ibug68 import LANDMARKS_66
from fmlfast.model.codes import Codes
from fmlfast.model.fml import FML
from fmlfast.model.landmark_pose import fit_pose
from fmlfast.model.lighting import light_from_image
from fmlfast.reconstruction.personal_reflectance import fit_detail
from fmlfast.reconstruction.refinement import refine
from fmlfast.renderer import vertex_normals
from fmlfast.template.face_template import FaceTemplate


@dataclass(frozen=True)
class Estimate:
    """A reconstruction of F frames: geometry on the evaluation mesh, appearance on the model's own mesh."""

    neutral: Tensor  # [F,V,3], or [B,V,3] where the frames of a clip share it; mm, model frame
    posed: Tensor  # [F,V,3] mm, model frame, with expression
    rotation: Tensor  # [F,3,3] model to camera
    translation: Tensor  # [F,3] mm
    surface: Tensor  # [F,U,3] mm, camera frame, the model's mesh
    reflectance: Tensor  # [F,U,3] linear RGB
    sh: Tensor  # [F,9,3]
    expression: Tensor  # [F,E]


def default_methods(
    model: FML, frames: Frames, template: FaceTemplate, longest: int, refine_steps: int
) -> Iterator[tuple[str, Estimate]]:
    """Yields (row, estimate) of each method for one batch of clips, over the valid frames.

    Rows: `mean_face`, `frames_1`, `frames_LONGEST`, and `frames_LONGEST_refined` unless `refine_steps` is 0.
    """
    frames = frames.to(model.face.reflectance_mean.device)
    yield MEAN_FACE, mean_face(model, frames, template)
    alone = frames.each_alone().select(frames.mask.flatten())
    yield "frames_1", estimate(model, model.encode(alone), alone.mask, template)
    codes = model.encode(frames)
    if longest > 1:
        yield f"frames_{longest}", estimate(model, codes, frames.mask, template)
    if refine_steps > 0:
        refined = fit_detail(model, frames, refine(model, frames, codes, steps=refine_steps))
        yield f"frames_{longest}_refined", estimate(model, refined, frames.mask, template)


def estimate(
    model: FML,
    codes: Codes,
    mask: Tensor,  # [B, M]
    template: FaceTemplate,
) -> Estimate:
    """Decodes the codes of B subjects at the F frames where `mask` is True.

    Geometry is on `template`, any subdivision level of the model's own template.
    """
    subject = torch.arange(len(mask), device=mask.device)[:, None].expand_as(mask)[mask]
    return Estimate(
        neutral=model.neutral(codes, template),
        posed=model.geometry(codes, template)[mask],
        rotation=codes.rotation[mask],
        translation=codes.translation[mask],
        surface=model.camera_vertices(codes)[mask],
        reflectance=model.reflectance(codes)[subject],
        sh=codes.sh[mask],
        expression=codes.expression[mask],
    )


def mean_face(model: FML, frames: Frames, template: FaceTemplate) -> Estimate:
    """Fits the mean face's pose to the landmarks (PnP) and light to the image (least squares)."""
    mask, own, device = frames.mask, model.template, frames.images.device
    used = list(LANDMARKS_66)
    points = own.landmarks(own.vertices)[used].to(device)
    rotation, translation = fit_pose(frames.landmarks[mask][:, used], frames.Ks[mask], points)
    mean, count = template.vertices.to(device), len(rotation)
    surface = own.vertices.to(device) @ rotation.mT + translation[:, None]
    reflectance = model.face.base_reflectance.repeat(count, 1, 1)
    normals = vertex_normals(surface, own.triangles.to(device), model.backend)
    Ks = frames.Ks[mask]
    visible = model.vertex_weights(surface, normals, Ks, frames.images.shape[-1])
    sh = light_from_image(
        frames.linear[mask], surface, Ks, model.face.occluded(reflectance), normals, visible, model.light_weights
    )
    neutral, posed = mean.repeat(len(mask), 1, 1), mean.repeat(count, 1, 1)
    still = neutral.new_zeros(count, len(own.expressions))
    return Estimate(neutral, posed, rotation, translation, surface, reflectance, sh, still)
