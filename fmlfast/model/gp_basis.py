"""Computes smooth, nearly symmetric displacement fields on the graph: a Gaussian process prior, not learned."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from fmlfast.template.face_template import FaceTemplate

_LENGTHS = (12.0, 36.0)  # mm, length scales of the kernel: of a nostril, and of a cheek
_SPREAD = (2.5, 2.5, 2.5025)  # mm, scale along each axis; equal ones would leave modes of two axes undetermined
_SYMMETRY = 0.98  # correlation of a displacement with its mirror image's


def smooth_fields(
    nodes: Tensor,  # [G, 3] mm, model frame: x points to the subject's left
    count: int,
) -> Tensor:  # [min(count, 3G), 3G] float32, mm
    """Computes the strongest modes of a Gaussian process of displacements, each scaled to its standard deviation.

    Strongest first. Standard normal coefficients give samples of the process: along every axis a sum of
    squared-exponential kernels of two length scales, correlated with the mirror image across the face's middle plane.
    Node-major, one axis a mode. Source: Luethi et al., Gaussian Process Morphable Models, PAMI 40(8), 2018.
    """
    points = nodes.double()
    mirrored = points * points.new_tensor([-1.0, 1.0, 1.0])

    def kernel(others: Tensor) -> Tensor:  # [G, G]
        squared = torch.cdist(points, others).square()
        return torch.stack([torch.exp(-0.5 * squared / length**2) for length in _LENGTHS]).sum(0)

    near, across = kernel(points), kernel(mirrored)
    spreads, fields = [], []
    for axis in range(3):
        sign = -1.0 if axis == 0 else 1.0  # a mirror turns the first axis around
        values, vectors = torch.linalg.eigh(near + sign * _SYMMETRY * across)
        values = values.clamp(min=0.0) * (_SPREAD[axis] ** 2 / (1 + _SYMMETRY))
        modes = torch.zeros(len(points), len(points), 3, dtype=torch.float64)
        modes[:, :, axis] = _signed(vectors.T) * values.sqrt()[:, None]
        spreads.append(values)
        fields.append(modes.flatten(1))
    strongest = torch.cat(spreads).argsort(descending=True, stable=True)[:count]
    return torch.cat(fields)[strongest].float()


def sort_modes_by_face_motion(
    fields: Tensor,  # [N, 3G] mm
    template: "FaceTemplate",
) -> Tensor:  # [N, 3G] mm
    """Rotates the modes so that the first ones move the face region most.

    Standard normal coefficients stay standard normal: the same faces are equally probable.
    """
    nodes, weights = template.skin_indices.flatten().long(), template.skin_weights * template.regions["face"][:, None]
    share = weights.new_zeros(len(template.nodes)).index_add(0, nodes, weights.flatten())
    moved = (fields.view(len(fields), -1, 3) * share.sqrt()[:, None]).flatten(1).double()
    rotation = torch.linalg.eigh(moved @ moved.T).eigenvectors.flip(1)
    return _signed(rotation.T @ fields.double()).float()


def _signed(
    modes: Tensor,  # [N, D]
) -> Tensor:  # [N, D]
    """Gives eigenvectors the sign that does not depend on the CPU: of a positive sum of cubes."""
    return modes * torch.where(modes.pow(3).sum(1, keepdim=True) < 0, -1.0, 1.0)
