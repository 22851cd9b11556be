"""Ambient occlusion: how much of the sky each point of a face sees past the rest of the face."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fmlfast.data.lighting import sphere_directions
from fmlfast.renderer import rasterize, vertex_normals, vertex_visibility
from fmlfast.template import FaceTemplate

_DIRECTIONS, _PIXELS, _DISTANCE = 96, 128, 5000.0  # cameras far enough to be nearly parallel


def ambient_occlusion(
    template: FaceTemplate,
    others: NDArray[np.floating],
    other_triangles: NDArray[np.integer],
) -> Tensor:
    """Cosine-weighted share of the sky seen by each vertex of the neutral template, [V] in 0..1.

    others [N, 3], other_triangles [T, 3]: more geometry that casts shadow, mm, in the template's frame. Every direction
    is one render from afar, and a vertex sees the sky where that camera sees the vertex.
    """
    points = torch.cat([template.vertices, torch.from_numpy(np.asarray(others, np.float32))])
    triangles = torch.cat([template.triangles, torch.from_numpy(other_triangles).int() + len(template.vertices)])
    back = torch.from_numpy(-sphere_directions(_DIRECTIONS)).float()  # [F, 3] the cameras' viewing directions
    helper = torch.where(back[:, 1:2].abs() < 0.9, torch.tensor([[0.0, 1.0, 0.0]]), torch.tensor([[1.0, 0.0, 0.0]]))
    right = torch.nn.functional.normalize(torch.linalg.cross(helper, back), dim=1)
    turn = torch.stack([right, torch.linalg.cross(back, right), back], dim=1)  # [F, 3, 3]
    middle = template.vertices.mean(dim=0)
    seen_from = torch.einsum("fij,vj->fvi", turn, points - middle) + torch.tensor([0.0, 0.0, _DISTANCE])
    reach = float((template.vertices - middle).norm(dim=1).max())
    focal = 0.48 * _PIXELS * _DISTANCE / reach
    K = torch.tensor([[focal, 0.0, _PIXELS / 2], [0.0, focal, _PIXELS / 2], [0.0, 0.0, 1.0]])
    Ks = K.expand(_DIRECTIONS, 3, 3).contiguous()
    depth = rasterize(seen_from, triangles, Ks, _PIXELS, _PIXELS).depth
    normals = vertex_normals(seen_from, triangles)
    visible = vertex_visibility(seen_from, normals, Ks, depth)[:, : len(template.vertices)]
    facing = (-normals[:, : len(template.vertices), 2]).clamp(min=0.0)
    return (visible * facing).sum(dim=0) / facing.sum(dim=0).clamp(min=1e-6)
