"""Computes vertex weights of the photometric loss from face regions and visibility (z-buffer or back-face test)."""

from typing import Literal

import torch
from torch import Tensor

from fmlfast.kernels.common.backend import Backend
from fmlfast.kernels.rasterize import rasterize
from fmlfast.kernels.visibility import vertex_visibility
from fmlfast.template.face_template import FaceTemplate


def photometric_region(template: FaceTemplate) -> Tensor:  # [V] in 0..1
    """Computes how much the photometric loss counts a vertex: face, eyes and teeth, without the scalp's hair."""
    regions = template.regions
    face = torch.maximum(regions["face"], regions["eyes"]) * (1 - regions["scalp"])
    return torch.maximum(face, 0.5 * regions["teeth"])  # what shows of them depends on small errors of the lips


def vertex_weights(
    template: FaceTemplate,  # on the device of the tensors
    camera: Tensor,  # [F, V, 3] mm
    normals: Tensor,  # [F, V, 3]
    Ks: Tensor,  # [F, 3, 3]
    size: int,  # px, side of the image
    visibility: Literal["zbuffer", "backface"],
    backend: Backend | None = None,
) -> Tensor:  # [F, V]
    """Computes the vertices' weights in the photometric loss: the region's weight where visible, 0 else."""
    weight = photometric_region(template)
    if visibility == "zbuffer":
        depth = rasterize(camera, template.triangles, Ks, size, size, backend=backend).depth
        return weight * vertex_visibility(camera, normals, Ks, depth, backend)
    points, axes = (values.transpose(1, 2).contiguous() for values in (camera, normals))  # [F, 3, V]: fast rows
    x, y, z = points.unbind(1)
    u, v = ((Ks[:, :2] @ points) / z[:, None]).unbind(1)
    inside = (u > 0) & (u < size) & (v > 0) & (v < size)
    facing = (axes * points).sum(1) < -0.2 * torch.sqrt(x * x + y * y + z * z)
    return weight * (facing & inside)
