"""Fits pose and expression of every frame to the landmarks of a known person, by Gauss-Newton from the encoder's."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fmlfast.common.tensors import TensorBatch, exact
from fmlfast.data.frames import Frames
from fmlfast.ibug68 import LANDMARKS_66, NUM_JAW
from fmlfast.model.codes import Codes
from fmlfast.model.fml import FML
from fmlfast.model.landmark_fit import INNER, JAW, OUTLIER, LandmarkObservations, slide_jaw
from fmlfast.model.landmark_pose import step_pose, to_rays
from fmlfast.rotation import skew

SPREAD = 0.1  # standard deviation of the encoder's expressions
STEPS = 3
STILL = 1e-4  # damping of the pose


@dataclass
class FrameFit(TensorBatch):
    """Poses and expressions of T frames, each by itself, and how much the frame tells of them."""

    rotation: Tensor  # [T, 3, 3]
    translation: Tensor  # [T, 3] mm
    expression: Tensor  # [T, E]
    information: Tensor  # [T, 6 + E, 6 + E] inverse covariance of axis-angle from the left, mm, expressions


class PersonPoints:
    """Points of a person's surface that landmarks are compared with."""

    def __init__(self, model: FML, neutral: Tensor) -> None:
        """Takes the points of `neutral` [V, 3] mm, the person on the model's mesh."""
        template, self.noise = model.template, model.noise
        self.dense = len(self.noise.picked) > 0
        if self.dense:
            triangles = template.surface_triangles[self.noise.picked]
            weights = template.surface_barycentrics[self.noise.picked]
        else:
            inner = list(LANDMARKS_66[NUM_JAW:])
            triangles = torch.cat([template.jaw_triangles.flatten(), template.landmark_triangles[inner]])
            weights = torch.cat([template.jaw_barycentrics.flatten(0, 1), template.landmark_barycentrics[inner]])
        self.candidates = template.jaw_triangles.shape[1]
        corners = template.triangles.long()[triangles]  # [P, 3]
        self.places = torch.einsum("pk,pkc->pc", weights, neutral[corners])  # [P, 3]
        self.expressions = torch.einsum("pk,epkc->pce", weights, template.expressions[:, corners])  # [P, 3, E]

    def compare(self, seen: LandmarkObservations) -> tuple[Tensor, Tensor]:
        """Returns rays [T, N, 2] to compare with, and weights [T, N]: rays^-2, but mm^-2 without surface points."""
        focal = 0.5 * (seen.Ks[:, 0, 0] + seen.Ks[:, 1, 1])[:, None]
        if self.dense:
            weights = self.noise.weights(seen.precision) * focal.square()
            return to_rays(seen.surface[:, self.noise.picked], seen.Ks), weights
        spread = seen.confidence.new_full((len(LANDMARKS_66),), INNER)
        spread[:NUM_JAW] = JAW
        return to_rays(seen.landmarks, seen.Ks), seen.confidence / spread.square()  # mm^-2; times the depth squared

    def chosen(self, rays: Tensor) -> Tensor:
        """Selects the points [T, N] that the landmarks lie on, jaw points on the silhouette; rays [T, P, 2]."""
        if self.dense:
            return torch.arange(rays.shape[1], device=rays.device).expand(len(rays), -1)
        return slide_jaw(rays, self.candidates)


@dataclass(frozen=True)
class View:
    """A camera beside others: X_camera = R X + t, with X in the frame that motion is told in, before a camera."""

    rotation: Tensor  # [3, 3]
    translation: Tensor  # [3] mm

    @classmethod
    def alone(cls) -> "View":
        """Returns the only camera, in whose own frame motion is told."""
        return cls(torch.eye(3), torch.zeros(3))


@exact
@torch.no_grad()
def fit_frames(
    model: FML,
    seen: Sequence[Frames],  # [1, T] of each view, synchronous; masked where a view does not show the face
    views: Sequence[View],
    person: Codes,  # of the subject; its frames do not matter
    shape: Tensor | None,  # [1, N] smooth fields that the encoder's outputs are relative to
    points: PersonPoints,
) -> FrameFit:
    """Estimates pose and expression of a known person in each frame, from all views together.

    The encoder predicts them from image, points and scores; three steps of Gauss-Newton then bring the person's own
    surface to the points, the encoder's expressions being the prior.
    """
    dim, learned = model.config.identity_dim, model.config.reflectance_dim
    known = torch.cat([person.identity[:, :dim], person.reflectance[:, :learned]], 1)
    found = [model.codes(model.observe(frames, smooth=shape), known=known) for frames in seen]
    observed = [LandmarkObservations.of(frames) for frames in seen]
    views = [View(view.rotation.to(known.device), view.translation.to(known.device)) for view in views]
    shown = torch.stack([frames.mask[0] for frames in seen]).float()  # [W, T]
    first = shown.argmax(0)  # [T], the first view that shows the face
    rotation, translation = _common_pose(found, views, first)
    expected = (torch.stack([codes.expression[0] for codes in found]) * shown[..., None]).sum(0) / shown.sum(0)[:, None]
    expression, count = expected, expected.shape[1]
    trust = shown.sum(0)[:, None] / SPREAD**2  # [T, 1]
    prior = torch.cat([expected.new_full((len(expected), 6), STILL), trust.expand(-1, count)], 1)
    system = torch.diag_embed(prior)
    for _ in range(STEPS):
        surface = points.places + torch.einsum("te,pce->tpc", expression, points.expressions)
        turned = surface @ rotation.mT
        system, right = torch.diag_embed(prior), torch.nn.functional.pad((expected - expression) * trust, (6, 0))
        for view, marks in zip(views, observed, strict=True):
            jacobian, error = _view_equations(points, marks, view, turned, rotation, translation)
            system = system + jacobian.mT @ jacobian
            right = right + (jacobian.mT @ error[..., None])[..., 0]
        step = torch.cholesky_solve(right[..., None], torch.linalg.cholesky_ex(system)[0])[..., 0]
        rotation, translation = step_pose(rotation, translation, step[:, :6])
        expression = (expression + step[:, 6:]).clamp(min=0.0)
    return FrameFit(rotation, translation, expression, system)


def _view_equations(
    points: PersonPoints,
    marks: LandmarkObservations,
    view: View,
    turned: Tensor,  # [T, P, 3] mm, R X
    rotation: Tensor,  # [T, 3, 3]
    translation: Tensor,  # [T, 3] mm
) -> tuple[Tensor, Tensor]:  # [T, 2 N, 6 + E], [T, 2 N]
    """Linearises the weighted distances of one view's landmarks in pose and expressions."""
    rays, weight = points.compare(marks)
    camera = (turned + translation[:, None]) @ view.rotation.mT + view.translation
    pick = points.chosen(camera[..., :2] / camera[..., 2:])
    turned, camera = (x.gather(1, pick[..., None].expand(-1, -1, 3)) for x in (turned, camera))
    inverse = 1 / camera[..., 2:].clamp(min=1.0)
    projected = camera[..., :2] * inverse
    if not points.dense:
        weight = weight * camera[..., 2].square()
    error = rays - projected
    root = (weight / (1 + error.square().sum(-1) * weight / OUTLIER**2)).sqrt()[..., None]
    eye = torch.eye(2, dtype=rays.dtype, device=rays.device).expand(*projected.shape[:2], 2, 2)
    to_image = ((inverse * root)[..., None] * torch.cat([eye, -projected[..., None]], -1)) @ view.rotation
    by_expression = (to_image @ rotation[:, None]) @ points.expressions[pick]
    jacobian = torch.cat([to_image @ -skew(turned), to_image, by_expression], -1)
    return jacobian.flatten(1, 2), (error * root).flatten(1)


def _common_pose(found: Sequence[Codes], views: Sequence[View], chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Maps the pose that the chosen view [T] tells to the frame that all views share."""
    turns = torch.stack([view.rotation.mT @ codes.rotation[0] for codes, view in zip(found, views, strict=True)])
    places = [(codes.translation[0] - v.translation) @ v.rotation for codes, v in zip(found, views, strict=True)]
    frames = torch.arange(len(chosen), device=chosen.device)
    return turns[chosen, frames], torch.stack(places)[chosen, frames]
