"""Fits smooth fields, expressions and poses to the landmarks of all frames of a subject by Gauss-Newton."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fmlfast.common.tensors import constant
from fmlfast.data.frames import Frames
from fmlfast.ibug68 import LANDMARKS_66, NUM_JAW
from fmlfast.model.detector_noise import DetectorNoise
from fmlfast.model.landmark_pose import step_pose, to_rays
from fmlfast.rotation import skew
from fmlfast.template.face_template import FaceTemplate
from fmlfast.template.jaw_line import select_contour

INNER, JAW = 2.0, 3.5  # mm, standard deviation of a detected point
_EXPRESSION = 0.15  # standard deviation of expression coefficients
OUTLIER = 3.0  # standard deviations, scale of the Cauchy weights
_STEPS = 2  # four give no lower error
_STILL = 1e-4  # damping of the pose, which a frame without landmarks keeps


@dataclass(frozen=True)
class InitialFit:
    """The landmark fit that the encoder's outputs are relative to: F = B*M frames of B subjects."""

    rotation: Tensor  # [F, 3, 3]
    translation: Tensor  # [F, 3] mm
    smooth: Tensor | None = None  # [B, N] coefficients of smooth fields
    expression: Tensor | None = None  # [F, E], at least 0


class Fitted(NamedTuple):
    """A landmark fit, with what it tells of itself."""

    found: InitialFit
    precision: Tensor  # [B, N, N] of the smooth fields' coefficients, a posteriori
    energy: Tensor  # [B] negative log posterior before the last step, up to a constant


class LandmarkObservations(NamedTuple):
    """Landmarks and surface points of F = B*M frames of B subjects, a subject's frames in a row."""

    landmarks: Tensor  # [F, 66, 2] px
    confidence: Tensor  # [F, 66], 0 for padding frames
    Ks: Tensor  # [F, 3, 3] px
    subjects: int
    surface: Tensor  # [F, 478, 2] px
    precision: Tensor  # [F, 478] px^-2, 0 for padding frames and where there are none
    scores: Tensor  # [F, 52]

    @classmethod
    def of(
        cls,
        frames: Frames,
        noise: Tensor | None = None,  # [B, M, 68, 2] px
        landmark_mask: Tensor | None = None,  # [B, M, 68] bool
    ) -> "LandmarkObservations":
        """Selects the landmarks of frames, adds `noise`, and sets masked ones to confidence 0."""
        used = constant(LANDMARKS_66, torch.int64, frames.landmarks.device)
        landmarks = (frames.landmarks if noise is None else frames.landmarks + noise)[:, :, used].flatten(0, 1)
        counts = frames.mask[..., None] if landmark_mask is None else landmark_mask[:, :, used] & frames.mask[..., None]
        confidence = (frames.confidence[:, :, used] * counts).flatten(0, 1)
        precision = (frames.precision * frames.mask[..., None]).flatten(0, 1)
        surface, scores = frames.surface.flatten(0, 1), frames.scores.flatten(0, 1)
        return cls(landmarks, confidence, frames.Ks.flatten(0, 1), len(frames.mask), surface, precision, scores)


class LandmarkFit(nn.Module):
    """Fits shape, poses and expressions to the points of all frames of a subject by Gauss-Newton.

    Maximum a posteriori with Gaussian priors: unknowns are the coefficients of smooth fields (standard normal), and of
    each frame pose and expressions (mean `usual`). Frames with surface points use these and the blendshape scores, the
    others the 66 landmarks, whose jaw points slide to the silhouette of the current estimate. Points have Cauchy
    weights (IRLS). The unknowns of frames are eliminated (Schur complement), so a step solves one small system a frame
    and one a subject.
    """

    base: Tensor  # [P, 3] mm on the template: the candidates of the 17 jaw points, 49 inner points, surface points
    points: Tensor  # [P, 3] mm, the same on the mean face
    skinning: Tensor  # [P, G]
    fields: Tensor  # [P, 3, N]
    expressions: Tensor  # [P, 3, E]
    usual: Tensor  # [E] mean expression

    def __init__(self, template: FaceTemplate, count: int) -> None:
        """Prepares a fit of `template`'s landmarks with `count` smooth fields; `set_fields` sets these."""
        super().__init__()
        self.count = count
        inner = list(LANDMARKS_66[NUM_JAW:])
        self.noise = DetectorNoise(template)
        picked = self.noise.picked
        triangles = [template.jaw_triangles.flatten(), template.landmark_triangles[inner]]
        weights = [template.jaw_barycentrics.flatten(0, 1), template.landmark_barycentrics[inner]]
        on_surface = template.surface_triangles[picked], template.surface_barycentrics[picked]
        triangles, weights = torch.cat([*triangles, on_surface[0]]), torch.cat([*weights, on_surface[1]])
        corners = template.triangles.long()[triangles]  # [P, 3]

        def on_points(values: Tensor) -> Tensor:  # [P, 3, ...] -> [P, ...]
            return torch.einsum("pk,pk...->p...", weights, values)

        skinning = torch.zeros(*corners.shape, len(template.nodes))  # of these few vertices only
        skinning.scatter_add_(2, template.skin_indices.long()[corners], template.skin_weights[corners])
        points = on_points(template.vertices[corners])
        self.register_buffer("base", points, persistent=False)
        self.register_buffer("points", points.clone(), persistent=False)
        self.register_buffer("skinning", on_points(skinning), persistent=False)
        self.register_buffer("fields", torch.zeros(len(corners), 3, count), persistent=False)
        expressions = on_points(template.expressions.movedim(0, -1)[corners])
        self.register_buffer("expressions", expressions, persistent=False)
        self.register_buffer("usual", torch.zeros(len(template.expressions)))
        self.candidates = template.jaw_triangles.shape[1]

    def set_fields(
        self,
        smooth: Tensor,  # [., 3G] mm
        mean: Tensor,  # [3G] mm
    ) -> None:
        """Sets the smooth fields to the first `count` of these displacement fields on the graph, and the mean face."""
        moved = smooth[: self.count].view(-1, self.skinning.shape[1], 3)
        self.fields = torch.einsum("pg,ngc->pcn", self.skinning, moved)
        self.points = self.base + self.skinning @ mean.view(-1, 3)

    def forward(
        self,
        seen: LandmarkObservations,
        start: InitialFit,  # its pose only
        smooth: Tensor | None = None,  # [B, N]
    ) -> InitialFit:
        """Runs Gauss-Newton from the mean face's fitted pose; a shape that is known, `smooth`, is kept."""
        return self.fit(seen, start, smooth=smooth).found

    @torch.no_grad()
    def fit(
        self,
        seen: LandmarkObservations,
        start: InitialFit,  # its pose only
        steps: int = _STEPS,
        smooth: Tensor | None = None,  # [B, N]
    ) -> Fitted:
        """Runs `steps` of Gauss-Newton; a shape that is known, `smooth`, is kept."""
        subjects, noise, picked = seen.subjects, self.noise, self.noise.picked
        pixels = torch.cat([seen.landmarks, seen.surface[:, picked]], 1)
        rays, rotation, translation = to_rays(pixels, seen.Ks), start.rotation, start.translation
        frames, kinds = len(rays), self.expressions.shape[2]
        known = smooth is not None
        smooth = rays.new_zeros(subjects, self.fields.shape[2]) if smooth is None else smooth
        expression = self.usual.expand(frames, kinds)
        hessian = identity = torch.eye(smooth.shape[1], dtype=rays.dtype, device=rays.device)
        spread = constant((JAW,) * NUM_JAW + (INNER,) * (len(LANDMARKS_66) - NUM_JAW), rays.dtype, rays.device)
        dense = noise.known(seen.precision)  # [F, 1]
        sparse_weight = seen.confidence * ~dense / spread.square()  # [F, 66] mm^-2
        focal = 0.5 * (seen.Ks[:, 0, 0] + seen.Ks[:, 1, 1])
        dense_weight = noise.weights(seen.precision) * focal[:, None].square()  # [F, P] of rays
        observed, told = noise.expression_evidence(seen.scores, dense)  # [F, E] each
        still = rays.new_full((frames, 6), _STILL)
        precision = torch.cat([still, observed + _EXPRESSION**-2], 1)
        energy = rays.new_zeros(subjects)
        for _ in range(steps):
            own = smooth.repeat_interleave(frames // subjects, 0)
            moved = own @ self.fields.flatten(0, 1).T + expression @ self.expressions.flatten(0, 1).T
            shape = self.points.flatten() + moved
            turned = shape.view(frames, -1, 3) @ rotation.mT
            camera = turned + translation[:, None]
            chosen = slide_jaw(camera[..., :2] / camera[..., 2:], self.candidates)  # [F, 66 + P]
            turned, camera = (x.gather(1, chosen[..., None].expand(-1, -1, 3)) for x in (turned, camera))
            inverse, distance = 1 / camera[..., 2:].clamp(min=1.0), translation[:, 2:, None]
            projected = camera[..., :2] * inverse
            error = (rays - projected) * distance  # mm at the face
            weight = torch.cat([sparse_weight, dense_weight / distance[..., 0].square()], 1)
            robust = 1 + error.square().sum(-1) * weight / OUTLIER**2
            expected = expression - self.usual
            energy = OUTLIER**2 * robust.log().sum(1) + _EXPRESSION**-2 * expected.square().sum(1)
            energy = energy.view(subjects, -1).sum(1) + smooth.square().sum(1)
            weight = weight / robust
            root = weight.sqrt()[..., None]
            to_image = (distance * inverse * root)[..., None] * torch.cat(
                [
                    torch.eye(2, dtype=rays.dtype, device=rays.device).expand(frames, weight.shape[1], 2, 2),
                    -projected[..., None],
                ],
                -1,
            )  # [F, 66 + P, 2, 3]
            to_model = to_image @ rotation[:, None]
            by_shape = (to_model @ self.fields[chosen]).flatten(1, 2)  # [F, 2 (66 + P), N]
            by_frame = torch.cat([to_image @ -skew(turned), to_image, to_model @ self.expressions[chosen]], -1)
            by_frame, error = by_frame.flatten(1, 2), (error * root).flatten(1)[..., None]
            pull = told - observed * expression - _EXPRESSION**-2 * expected
            prior = torch.cat([torch.zeros_like(still), pull], 1)
            along_frame = by_frame.mT @ error + prior[..., None]
            cross = by_frame.mT @ by_shape  # [F, 6 + E, N]
            system = by_frame.mT @ by_frame + torch.diag_embed(precision)
            solved = _solve(system, torch.cat([cross, along_frame], -1))
            rows, held, error, given = (x.reshape(subjects, -1, x.shape[2]) for x in (by_shape, cross, error, solved))
            along_shape = rows.mT @ error - held.mT @ given[..., -1:]
            hessian = rows.mT @ rows - held.mT @ given[..., :-1] + identity
            step = torch.zeros_like(smooth) if known else _solve(hessian, along_shape - smooth[..., None])[..., 0]
            own = step.repeat_interleave(frames // subjects, 0)[..., None]
            change = (solved[..., -1:] - solved[..., :-1] @ own)[..., 0]
            smooth = smooth + step
            rotation, translation = step_pose(rotation, translation, change[:, :6])
            expression = (expression + change[:, 6:]).clamp(min=0.0)
        return Fitted(InitialFit(rotation, translation, smooth, expression), hessian, energy)


def slide_jaw(
    rays: Tensor,  # [F, 17 C + P, 2] the candidates of the jaw points, then other points, 49 or more
    candidates: int,  # C of each jaw point
) -> Tensor:  # [F, 17 + P] int64
    """Selects the points to compare with landmarks, jaw points on the silhouette around the 49 inner ones."""
    jaw = NUM_JAW * candidates
    inner = rays[:, jaw : jaw + len(LANDMARKS_66) - NUM_JAW]
    strips, center = rays[:, :jaw].unflatten(1, (NUM_JAW, -1)), inner.mean(1)
    first = torch.arange(NUM_JAW, device=rays.device) * candidates
    others = torch.arange(jaw, rays.shape[1], device=rays.device).expand(len(rays), -1)
    return torch.cat([select_contour(strips, center) + first, others], 1)


def _solve(matrices: Tensor, right: Tensor) -> Tensor:
    """Solves small symmetric positive definite systems by Cholesky; 0 for those made singular by invalid landmarks."""
    factor, failed = torch.linalg.cholesky_ex(matrices)
    if right.is_cuda:  # inverting batches may synchronise, which a CUDA graph cannot record
        half = torch.linalg.solve_triangular(factor, right, upper=False)
        solution = torch.linalg.solve_triangular(factor.mT, half, upper=True)
    else:  # four times as fast on the CPU
        solution = torch.cholesky_inverse(factor) @ right
    solved = (failed == 0) & solution.isfinite().all(2).all(1)
    return solution.where(solved[:, None, None], 0.0)
