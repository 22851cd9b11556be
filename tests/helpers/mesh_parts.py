"""Connected parts of a mesh."""

import torch
from torch import Tensor

from fmlfast.kernels.common.topology import unique_edges


def connected_parts(triangles: Tensor, count: int) -> Tensor:
    """Labels each vertex [V] with the smallest vertex id of its connected part; triangles [T, 3]."""
    edges = unique_edges(triangles).long()
    label = torch.arange(count)
    while True:
        low = torch.minimum(label[edges[:, 0]], label[edges[:, 1]])
        new = label.scatter_reduce(0, edges.flatten(), low.repeat_interleave(2), "amin")
        new = new[new]
        if torch.equal(new, label):
            return label
        label = new
