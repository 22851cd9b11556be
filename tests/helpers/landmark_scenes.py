"""Faces of known shape and their exact landmarks."""

import torch
from torch import Tensor

from fmlfast.camera import project
from fmlfast.data.synthetic.motion import rotation_from_angles
from fmlfast.ibug68 import LANDMARKS_66
from fmlfast.kernels.deform import deform
from fmlfast.model.gp_basis import smooth_fields
from fmlfast.template.face_template import FaceTemplate

TEMPLATE = FaceTemplate.default(0)
FIELDS = smooth_fields(TEMPLATE.nodes, 60)
USED = list(LANDMARKS_66)
FACE = TEMPLATE.regions["face"]


def geometry(smooth: Tensor, expression: Tensor) -> Tensor:
    """[B, N], [B * M, E] -> [B * M, V, 3]."""
    moved = (smooth @ FIELDS).view(len(smooth), -1, 3)
    t, delta = TEMPLATE, expression.view(len(smooth), -1, expression.shape[1])
    return deform(t.vertices, moved, t.skin_indices, t.skin_weights, t.expressions, delta).flatten(0, 1)


def seen(vertices: Tensor, turn: float = 0.0) -> tuple[Tensor, Tensor]:
    """Exact landmarks [F, 66, 2] and cameras of faces at 600 mm, turned to several sides."""
    count = len(vertices)
    angles = torch.zeros(count, 3)
    angles[:, 0] = torch.linspace(-35, 35, count) + turn
    rotation = torch.from_numpy(rotation_from_angles(angles.numpy())).float()
    Ks = torch.tensor([[300.0, 0, 64], [0, 300, 64], [0, 0, 1]]).expand(count, 3, 3)
    camera = vertices @ rotation.mT + torch.tensor([5.0, -3.0, 600.0])
    return project(TEMPLATE.slide_landmarks(camera, Ks), Ks)[:, USED], Ks
