"""Computes ambient occlusion of the face, and which triangles of the head it hides from the camera."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fmlfast.data.synthetic.motion import PITCH_LIMIT, YAW_LIMIT, rotation_from_angles
from fmlfast.renderer import rasterize
from fmlfast.template.ambient_occlusion import sky_share
from fmlfast.template.face_template import FaceTemplate


def ambient_occlusion(
    template: FaceTemplate,
    others: NDArray[np.floating],
    other_triangles: NDArray[np.integer],
) -> Tensor:
    """Computes the share of the sky, 0..1, that each vertex of the neutral template sees, [V].

    others [N, 3], other_triangles [T, 3]: more geometry that casts shadow, mm, in the template's frame.
    """
    return sky_share(*_joined(template, others, other_triangles), len(template.vertices))


def ever_visible(
    template: FaceTemplate, others: NDArray[np.floating], other_triangles: NDArray[np.integer]
) -> NDArray[np.bool_]:
    """Finds the other triangles [T] that a camera in front of the face can see, and their neighbours."""
    points, triangles = _joined(template, others, other_triangles)
    yaw, pitch = np.meshgrid(np.linspace(-1.1, 1.1, 7) * YAW_LIMIT, np.linspace(-1.2, 1.2, 3) * PITCH_LIMIT)
    angles = np.stack([yaw.ravel(), pitch.ravel(), np.zeros(yaw.size)], axis=-1)
    turn = torch.from_numpy(rotation_from_angles(angles)).float()  # [F, 3, 3]
    near = points @ turn.mT + torch.tensor([0.0, 0.0, 500.0])
    Ks = torch.tensor([[360.0, 0.0, 128.0], [0.0, 360.0, 128.0], [0.0, 0.0, 1.0]]).expand(len(turn), 3, 3).contiguous()
    seen = rasterize(near, triangles, Ks, 256, 256).triangle_id.unique().numpy()
    touched = np.zeros(len(others), bool)
    touched[other_triangles[seen[seen >= len(template.triangles)] - len(template.triangles)]] = True
    return np.asarray(touched[other_triangles].any(axis=1))


def _joined(
    template: FaceTemplate, others: NDArray[np.floating], other_triangles: NDArray[np.integer]
) -> tuple[Tensor, Tensor]:
    points = torch.cat([template.vertices, torch.from_numpy(np.asarray(others, np.float32))])
    return points, torch.cat([template.triangles, torch.from_numpy(other_triangles).int() + len(template.vertices)])
