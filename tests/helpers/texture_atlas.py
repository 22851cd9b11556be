"""A template with an atlas: the head seen from the middle of the skull, and each eye as a disk of its own."""

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import normalize

from fmlfast.reconstruction.texture_atlas import TextureAtlas
from fmlfast.template.face_template import FaceTemplate

EYE = 0.06  # radius of an eye's disk


def with_atlas(template: FaceTemplate) -> FaceTemplate:
    """Returns the template, with uv azimuthal around the nose where its own give the face no atlas."""
    if TextureAtlas.of(template, 64):
        return template
    points, eyes = template.vertices, template.regions["eyes"] > 0.5
    uv = torch.zeros_like(template.uv)
    uv[~eyes] = 0.5 + 0.19 * _azimuthal(points[~eyes] - torch.tensor([0.0, 10.0, -70.0]))
    for side in (-1, 1):
        eye = eyes & (points[:, 0] * side > 0)
        middle = (points[eye].amax(0) + points[eye].amin(0)) / 2 - torch.tensor([0.0, 0.0, 10.0])
        disk = _azimuthal(points[eye] - middle)
        uv[eye] = torch.tensor([0.5 + 0.42 * side, 0.92]) + EYE * disk / disk.norm(dim=1).max()
    return replace(template, uv=uv)


def _azimuthal(directions: Tensor) -> Tensor:
    """Maps directions [N, 3] to [N, 2]: the angle from +z as the distance from the middle, in radians."""
    unit = normalize(directions, dim=1)
    return normalize(unit[:, :2], dim=1) * unit[:, 2:].clamp(-1, 1).acos()
