"""Finds the connected parts of a mesh."""

import numpy as np
import torch
from numpy.typing import NDArray

from fmlfast.kernels.common.topology import unique_edges


def connected_parts(
    triangles: NDArray[np.integer],  # [T, 3]
    count: int,
) -> NDArray[np.int64]:  # [V]
    """Labels the connected part of each of `count` vertices, by spreading the smallest vertex id."""
    edges = unique_edges(torch.from_numpy(triangles)).numpy()
    label = np.arange(count)
    while True:
        lowest = np.minimum(label[edges[:, 0]], label[edges[:, 1]])
        new = label.copy()
        np.minimum.at(new, edges.ravel(order="F"), np.tile(lowest, 2))
        new = new[new]  # jump to the label of the label: logarithmically few rounds
        if (new == label).all():
            return label
        label = new
