"""Converts axis-angle vectors to rotations, smooth below a half turn, and fits similarities of the plane."""

import torch
from torch import Tensor

FRONTAL = ((1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, -1.0))  # model frame -> camera frame of a face seen frontally


def skew(
    vectors: Tensor,  # [..., 3]
) -> Tensor:  # [..., 3, 3]
    """Builds cross-product matrices: skew(a) b = a x b."""
    x, y, z = vectors.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).unflatten(-1, (3, 3))


def rotation_from_axis_angle(
    vectors: Tensor,  # [..., 3] radians
) -> Tensor:  # [..., 3, 3]
    """Converts axis-angle vectors to rotation matrices by Rodrigues' formula, differentiable at zero."""
    angle = (vectors.square().sum(-1, keepdim=True) + 1e-12).sqrt()
    axis = skew(vectors / angle)
    angle = angle[..., None]
    eye = torch.eye(3, dtype=vectors.dtype, device=vectors.device)
    return eye + torch.sin(angle) * axis + (1 - torch.cos(angle)) * (axis @ axis)


def axis_angle_from_rotation(
    rotations: Tensor,  # [..., 3, 3]
) -> Tensor:  # [..., 3] radians
    """Converts rotations by less than a half turn to axis-angle vectors; inverts `rotation_from_axis_angle`."""
    twice = torch.stack(
        [
            rotations[..., 2, 1] - rotations[..., 1, 2],
            rotations[..., 0, 2] - rotations[..., 2, 0],
            rotations[..., 1, 0] - rotations[..., 0, 1],
        ],
        -1,
    )  # 2 sin(angle) axis
    sine = 0.5 * twice.norm(dim=-1, keepdim=True)
    cosine = 0.5 * (rotations.diagonal(dim1=-2, dim2=-1).sum(-1, keepdim=True) - 1)
    angle = torch.atan2(sine, cosine)
    return 0.5 * twice * torch.where(sine > 1e-6, angle / sine.clamp(min=1e-6), torch.ones_like(angle))


def rotation_about_view(
    angle: Tensor,  # [...] radians
) -> Tensor:  # [..., 3, 3]
    """Builds in-plane rotations about the camera's z axis (roll)."""
    cos, sin, zero = torch.cos(angle), torch.sin(angle), torch.zeros_like(angle)
    one = torch.ones_like(angle)
    return torch.stack([cos, -sin, zero, sin, cos, zero, zero, zero, one], -1).unflatten(-1, (3, 3))


def fit_similarity(
    source: Tensor,  # [P, 2]
    target: Tensor,  # [F, P, 2]
) -> tuple[Tensor, Tensor]:  # [F, 2, 2], [F, 2]
    """Fits the least-squares similarity target = matrix @ source + offset, in the unit of `target`."""
    source_mean, target_mean = source.mean(0), target.mean(1)
    x, y = source - source_mean, target - target_mean[:, None]
    norm = x.square().sum()
    a = (y * x).sum((1, 2)) / norm
    b = (x[:, 0] * y[..., 1] - x[:, 1] * y[..., 0]).sum(1) / norm
    matrix = torch.stack([torch.stack([a, -b], 1), torch.stack([b, a], 1)], 1)
    return matrix, target_mean - matrix @ source_mean
