"""Computes vertex weights of the photometric loss from face regions and visibility (z-buffer or back-face test)."""

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from fmlfast.kernels.common.backend import Backend
from fmlfast.kernels.normals import vertex_normals
from fmlfast.kernels.rasterize import rasterize
from fmlfast.kernels.visibility import vertex_visibility
from fmlfast.rotation import FRONTAL, rotation_from_axis_angle
from fmlfast.template.face_template import FaceTemplate
from fmlfast.template.regions import polyline_distance

_TURN, _AWAY, _REST_SIZE = 0.45, 600.0, 256  # radians, mm and px of the pictures of the neutral face


def photometric_region(template: FaceTemplate) -> Tensor:  # [V] in 0..1
    """Computes how much the photometric loss counts a vertex: face, eyes and teeth, without the scalp's hair."""
    regions = template.regions
    face = torch.maximum(regions["face"], regions["eyes"]) * (1 - regions["scalp"])
    return torch.maximum(face, 0.5 * regions["teeth"])  # what shows of them depends on small errors of the lips


def visible_at_rest(template: FaceTemplate) -> Tensor:  # [V] in {0, 1}
    """Finds the vertices that the neutral face shows from the front or a side: no teeth, the open part of the eyes."""
    turn = rotation_from_axis_angle(torch.tensor([[0.0, angle, 0.0] for angle in (-_TURN, 0.0, _TURN)]))
    rotation = torch.tensor(FRONTAL) @ turn
    camera = (template.vertices.cpu() @ rotation.mT + torch.tensor([0.0, 0.0, _AWAY])).contiguous()
    K = torch.tensor([[_REST_SIZE * 2.5, 0, _REST_SIZE / 2], [0, _REST_SIZE * 2.5, _REST_SIZE / 2], [0, 0, 1]])
    Ks, triangles = K.expand(len(camera), 3, 3).contiguous(), template.triangles.cpu()
    depth = rasterize(camera, triangles, Ks, _REST_SIZE, _REST_SIZE).depth
    return vertex_visibility(camera, vertex_normals(camera, triangles), Ks, depth).amax(0)


def shown_region(template: FaceTemplate, visibility: Literal["zbuffer", "backface"]) -> Tensor:  # [V] in 0..1
    """Computes the photometric region; for the back-face test without what lips and lids hide at rest."""
    region = photometric_region(template)
    return region * visible_at_rest(template) if visibility == "backface" else region


def rim_distance(template: FaceTemplate) -> Tensor:  # [V] mm
    """Computes how far skin is from the openings of eyes and mouth, where pixels mix it with eyeballs and teeth.

    What is no skin is infinitely far.
    """
    points, marks = template.vertices.cpu().numpy(), template.landmarks(template.vertices).cpu().numpy()
    openings = [*range(36, 42), 36], [*range(42, 48), 42], [*range(60, 68), 60]
    near = torch.from_numpy(np.min([polyline_distance(points, marks[line])[0] for line in openings], 0))
    return torch.where(template.regions["skin"] > 0.5, near.to(template.vertices.device), torch.inf)


def vertex_weights(
    region: Tensor,  # [V] in 0..1
    triangles: Tensor,  # [T, 3]
    camera: Tensor,  # [F, V, 3] mm
    normals: Tensor,  # [F, V, 3]
    Ks: Tensor,  # [F, 3, 3]
    size: int,  # px, side of the image
    visibility: Literal["zbuffer", "backface"],
    backend: Backend | None = None,
) -> Tensor:  # [F, V]
    """Computes the vertices' weights in the photometric loss: the region's (`shown_region`) where visible, 0 else."""
    if visibility == "zbuffer":
        depth = rasterize(camera, triangles, Ks, size, size, backend=backend).depth
        return region * vertex_visibility(camera, normals, Ks, depth, backend)
    points, axes = (values.transpose(1, 2).contiguous() for values in (camera, normals))  # [F, 3, V]: fast rows
    x, y, z = points.unbind(1)
    u, v = ((Ks[:, :2] @ points) / z[:, None]).unbind(1)
    inside = (u > 0) & (u < size) & (v > 0) & (v < size)
    facing = (axes * points).sum(1) < -0.2 * torch.sqrt(x * x + y * y + z * z)
    return region * (facing & inside)
