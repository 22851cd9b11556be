"""Aligns a face by its 2D landmarks: a least-squares similarity to the frontal template, and the head pose (PnP)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fmlfast.common.tensors import constant
from fmlfast.ibug68 import MOUTH_START, NUM_JAW
from fmlfast.rotation import FRONTAL, fit_similarity, rotation_about_view, rotation_from_axis_angle, skew

CROP_HALF_WIDTH = 93.0  # mm of the frontal face from the crop's centre to its border
CROP_CENTER_Y = 4.0  # mm, the crop's centre above the model's origin


@dataclass
class Alignment:
    """Similarity of each frame, pixel = matrix @ c + offset, from crop coordinates c in [-1, 1]^2."""

    matrix: Tensor  # [F, 2, 2] px
    offset: Tensor  # [F, 2] px
    roll: Tensor  # [F] radians

    @property
    def scale(self) -> Tensor:  # [F]
        """Returns the pixels that half a crop's side spans."""
        return self.matrix[:, 0].square().sum(1).sqrt()

    def to_crop(
        self,
        pixels: Tensor,  # [F, N, 2]
    ) -> Tensor:  # [F, N, 2]
        """Maps image pixels to crop coordinates."""
        return (pixels - self.offset[:, None]) @ self.matrix / self.scale.square()[:, None, None]


def align_to_front(
    landmarks: Tensor,  # [F, 66, 2] px
    points: Tensor,  # [66, 3] mm, the template's landmarks
) -> Alignment:
    """Fits the least-squares similarity from the frontal template's inner 49 points to the detected ones."""
    source = torch.stack([points[NUM_JAW:, 0], CROP_CENTER_Y - points[NUM_JAW:, 1]], 1) / CROP_HALF_WIDTH
    matrix, offset = fit_similarity(source, landmarks[:, NUM_JAW:])
    return Alignment(matrix, offset, torch.atan2(matrix[:, 1, 0], matrix[:, 0, 0]))


def to_rays(
    pixels: Tensor,  # [F, N, 2]
    Ks: Tensor,  # [F, 3, 3]
) -> Tensor:  # [F, N, 2]
    """Maps pixels to normalised image coordinates x/z, y/z."""
    focal = torch.stack([Ks[:, 0, 0], Ks[:, 1, 1]], 1)[:, None]
    return (pixels - Ks[:, None, :2, 2]) / focal


def fit_pose(
    landmarks: Tensor,  # [F, 66, 2] px
    Ks: Tensor,  # [F, 3, 3] px
    points: Tensor,  # [66, 3] mm, the template's landmarks
    steps: int = 5,
) -> tuple[Tensor, Tensor]:  # [F, 3, 3], [F, 3] mm
    """Fits the head pose of the rigid template to 2D landmarks by robust Gauss-Newton (PnP).

    Starts from the similarity of the frontal template. The jaw slides and the mouth moves, so they weigh 0.15 and 0.4.
    Residuals have pseudo-Huber weights (IRLS) with a scale of 5 mm; steps are damped.
    """
    rays = to_rays(landmarks, Ks)
    alignment = align_to_front(rays, points)
    scale = alignment.scale / CROP_HALF_WIDTH  # rays per mm, the inverse of the depth
    rotation = rotation_about_view(alignment.roll) @ constant(FRONTAL, rays.dtype, rays.device)
    center = constant((0.0, CROP_CENTER_Y / CROP_HALF_WIDTH), rays.dtype, rays.device)
    start = alignment.matrix @ center + alignment.offset
    translation = torch.cat([start, torch.ones_like(start[:, :1])], 1) / scale[:, None]
    weights = torch.ones(len(points), dtype=rays.dtype, device=rays.device)
    weights[:NUM_JAW] = 0.15
    weights[MOUTH_START:] = 0.4
    for _ in range(steps):
        turned = points @ rotation.transpose(1, 2)
        camera = turned + translation[:, None]
        inverse_depth = 1 / camera[..., 2].clamp(min=1.0)
        projected = camera[..., :2] * inverse_depth[..., None]
        unit = scale[:, None, None] * 2.5  # residuals are counted in 2.5 mm at the face
        residual = (rays - projected) / unit
        jacobian = torch.zeros(*projected.shape, 3, dtype=rays.dtype, device=rays.device)
        jacobian[..., 0, 0] = jacobian[..., 1, 1] = inverse_depth
        jacobian[..., 2] = -projected * inverse_depth[..., None]
        jacobian = jacobian / unit[..., None]
        jacobian = torch.cat([jacobian @ -skew(turned), jacobian], -1)  # [F, 66, 2, 6]
        robust = weights / (1 + residual.square().sum(-1) / 4).sqrt()
        weighted = (jacobian * robust[..., None, None]).flatten(1, 2)
        hessian = weighted.transpose(1, 2) @ jacobian.flatten(1, 2)
        gradient = (weighted.transpose(1, 2) @ residual.flatten(1)[..., None])[..., 0]
        damping = hessian.diagonal(dim1=1, dim2=2) * 1e-3 + 1e-6
        damped = hessian + torch.diag_embed(damping)
        step = torch.linalg.solve_ex(damped, gradient, check_errors=not rays.is_cuda)[0]  # checks synchronise a GPU
        rotation, translation = step_pose(rotation, translation, step)
    return rotation, translation


def step_pose(
    rotation: Tensor,  # [F, 3, 3]
    translation: Tensor,  # [F, 3] mm
    step: Tensor,  # [F, 6] axis and angle, then mm
) -> tuple[Tensor, Tensor]:  # [F, 3, 3], [F, 3] mm
    """Applies a Gauss-Newton step to the pose, limited to 0.5 radians per axis and to halving the depth.

    Without the limits outlying landmarks would put the face behind the camera.
    """
    x, y, z = (translation + step[:, 3:]).unbind(1)
    z = torch.maximum(z, 0.5 * translation[:, 2])
    return rotation_from_axis_angle(step[:, :3].clamp(-0.5, 0.5)) @ rotation, torch.stack([x, y, z], 1)
