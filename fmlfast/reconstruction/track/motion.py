"""Fits pose and expression of every frame to the landmarks of a known person, by Gauss-Newton from the encoder's."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fmlfast.common.tensors import TensorBatch, exact
from fmlfast.data.frames import Frames
from fmlfast.ibug68 import LANDMARKS_66, NUM_JAW
from fmlfast.model.codes import Codes
from fmlfast.model.fml import FML
from fmlfast.model.landmark_fit import LandmarkObservations
from fmlfast.model.landmark_pose import step_pose, to_rays
from fmlfast.rotation import skew
from fmlfast.template.jaw_line import select_contour

SPREAD = 0.1  # standard deviation of the encoder's expressions
INNER, JAW = 2.0, 3.5  # mm, of landmarks where the template knows no surface points
OUTLIER = 3.0  # standard deviations, scale of the Cauchy weights
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
        """Returns rays [T, N, 2] to compare with, and their weights [T, N] in rays^-2."""
        focal = 0.5 * (seen.Ks[:, 0, 0] + seen.Ks[:, 1, 1])[:, None]
        if self.dense:
            weights = self.noise.weights(seen.precision) * focal.square()
            return to_rays(seen.surface[:, self.noise.picked], seen.Ks), weights
        spread = seen.confidence.new_full((len(LANDMARKS_66),), INNER)
        spread[:NUM_JAW] = JAW
        return to_rays(seen.landmarks, seen.Ks), seen.confidence / spread.square()  # times the depth, squared, in `fit`

    def chosen(self, rays: Tensor) -> Tensor:
        """Selects the points [T, N] that the landmarks lie on, jaw points on the silhouette; rays [T, P, 2]."""
        if self.dense:
            return torch.arange(rays.shape[1], device=rays.device).expand(len(rays), -1)
        jaw = NUM_JAW * self.candidates
        strips, center = rays[:, :jaw].unflatten(1, (NUM_JAW, -1)), rays[:, jaw:].mean(1)
        first = torch.arange(NUM_JAW, device=rays.device) * self.candidates
        others = torch.arange(jaw, rays.shape[1], device=rays.device).expand(len(rays), -1)
        return torch.cat([select_contour(strips, center) + first, others], 1)


@exact
@torch.no_grad()
def fit_frames(
    model: FML,
    frames: Frames,  # [1, T]
    person: Codes,  # of the subject; its frames do not matter
    shape: Tensor | None,  # [1, N] smooth fields that the encoder's outputs are relative to
    points: PersonPoints,
) -> FrameFit:
    """Estimates pose and expression of each frame of a person who is known.

    The encoder predicts them from image, points and scores; three steps of Gauss-Newton then bring the person's own
    surface to the points, the encoder's expressions being the prior.
    """
    dim, learned = model.config.identity_dim, model.config.reflectance_dim
    known = torch.cat([person.identity[:, :dim], person.reflectance[:, :learned]], 1)
    found = model.codes(model.observe(frames, smooth=shape), known=known)
    seen = LandmarkObservations.of(frames)
    rotation, translation = found.rotation[0], found.translation[0]
    expected = expression = found.expression[0]  # [T, E]
    rays, ray_weight = points.compare(seen)
    count = expected.shape[1]
    prior = torch.cat([expected.new_full((6,), STILL), expected.new_full((count,), SPREAD**-2)])
    system = torch.diag_embed(prior).expand(len(rays), -1, -1)
    for _ in range(STEPS):
        shape_now = points.places + torch.einsum("te,pce->tpc", expression, points.expressions)
        turned = shape_now @ rotation.mT
        camera = turned + translation[:, None]
        pick = points.chosen(camera[..., :2] / camera[..., 2:])
        turned, camera = (x.gather(1, pick[..., None].expand(-1, -1, 3)) for x in (turned, camera))
        inverse = 1 / camera[..., 2:].clamp(min=1.0)
        projected = camera[..., :2] * inverse
        weight = ray_weight if points.dense else ray_weight * translation[:, 2:].square()
        error = rays - projected
        weight = weight / (1 + error.square().sum(-1) * weight / OUTLIER**2)
        root = weight.sqrt()[..., None]
        eye = torch.eye(2, dtype=rays.dtype, device=rays.device).expand(*projected.shape[:2], 2, 2)
        to_image = (inverse * root)[..., None] * torch.cat([eye, -projected[..., None]], -1)  # [T, N, 2, 3]
        by_expression = (to_image @ rotation[:, None]) @ points.expressions[pick]
        jacobian = torch.cat([to_image @ -skew(turned), to_image, by_expression], -1).flatten(1, 2)
        pull = torch.nn.functional.pad((expected - expression) / SPREAD**2, (6, 0))
        right = (jacobian.mT @ (error * root).flatten(1)[..., None])[..., 0] + pull
        system = jacobian.mT @ jacobian + torch.diag_embed(prior.expand(len(rays), -1))
        step = torch.cholesky_solve(right[..., None], torch.linalg.cholesky_ex(system)[0])[..., 0]
        rotation, translation = step_pose(rotation, translation, step[:, :6])
        expression = (expression + step[:, 6:]).clamp(min=0.0)
    return FrameFit(rotation, translation, expression, system)
