"""Divides the face's skin among the face detector's points, so that colours compare on any template."""

import torch
from torch import Tensor

from fmlfast.data.mediapipe478 import NUM_POINTS
from fmlfast.template.face_template import FaceTemplate

_SKIN = NUM_POINTS - 10  # the rest are the irises


def surface_cells(template: FaceTemplate) -> Tensor:  # [478, V0]
    """Computes the matrix that averages a field on the base mesh over the skin nearest to each surface point.

    Averages are weighted by area, within the face region. Rows of points without skin, such as the irises, are 0.
    """
    count = template.subdivision[0].shape[1] if template.subdivision else len(template.vertices)
    weight = template.vertex_areas * template.regions["face"] * ~template.mouth_and_lashes
    cells = torch.zeros(NUM_POINTS, count, device=weight.device)
    if len(template.surface_triangles) < NUM_POINTS:
        return cells
    places = template.surface_points(template.vertices, torch.arange(_SKIN, device=weight.device))
    nearest = torch.cdist(template.vertices[:count], places).argmin(1)
    cells[nearest, torch.arange(count, device=weight.device)] = weight[:count]
    return cells / cells.sum(1, keepdim=True).clamp(min=1e-6)
