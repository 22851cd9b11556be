"""Computes ambient occlusion of the face, and which triangles of the head it hides from the camera."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fmlfast.data.synthetic.motion import PITCH_LIMIT, YAW_LIMIT, rotation_from_angles
from fmlfast.data.synthetic.random_light import sphere_directions
from fmlfast.renderer import rasterize, vertex_normals, vertex_visibility
from fmlfast.template.face_template import FaceTemplate

_DIRECTIONS, _PIXELS, _DISTANCE = 96, 128, 5000.0  # cameras far enough to be nearly parallel


def ambient_occlusion(
    template: FaceTemplate,
    others: NDArray[np.floating],
    other_triangles: NDArray[np.integer],
) -> Tensor:
    """Computes the cosine-weighted share of the sky that each vertex of the neutral template sees, [V] in 0..1.

    others [N, 3], other_triangles [T, 3]: more geometry that casts shadow, mm, in the template's frame. Every direction
    is one distant camera; a vertex sees the sky there if it passes the camera's z-buffer test.
    """
    points, triangles = _joined(template, others, other_triangles)
    back = torch.from_numpy(-sphere_directions(_DIRECTIONS)).float()  # [F, 3] the cameras' viewing directions
    helper = torch.where(back[:, 1:2].abs() < 0.9, torch.tensor([[0.0, 1.0, 0.0]]), torch.tensor([[1.0, 0.0, 0.0]]))
    right = torch.nn.functional.normalize(torch.linalg.cross(helper, back), dim=1)
    turn = torch.stack([right, torch.linalg.cross(back, right), back], dim=1)  # [F, 3, 3]
    middle = template.vertices.mean(dim=0)
    seen_from = (points - middle) @ turn.mT + torch.tensor([0.0, 0.0, _DISTANCE])
    reach = float((template.vertices - middle).norm(dim=1).max())
    focal = 0.48 * _PIXELS * _DISTANCE / reach
    K = torch.tensor([[focal, 0.0, _PIXELS / 2], [0.0, focal, _PIXELS / 2], [0.0, 0.0, 1.0]])
    Ks = K.expand(_DIRECTIONS, 3, 3).contiguous()
    depth = rasterize(seen_from, triangles, Ks, _PIXELS, _PIXELS).depth
    normals = vertex_normals(seen_from, triangles)
    visible = vertex_visibility(seen_from, normals, Ks, depth)[:, : len(template.vertices)]
    facing = (-normals[:, : len(template.vertices), 2]).clamp(min=0.0)
    return (visible * facing).sum(dim=0) / facing.sum(dim=0).clamp(min=1e-6)


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
