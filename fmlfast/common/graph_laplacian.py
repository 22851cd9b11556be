"""Solves linear systems with the Laplacian of a graph, such as the edges of a mesh, by conjugate gradients."""

import torch
from torch import Tensor

from fmlfast.kernels.common.gather import sum_rows


class GraphLaplacian:
    """Laplacian L of an undirected graph on V vertices: (L x)_i is the sum of x_i - x_j over the neighbours j."""

    def __init__(
        self,
        edges: Tensor,  # [N, 2] int64, each pair once
        count: int,  # V
    ) -> None:
        ends = torch.cat([edges, edges.flip(1)])
        ends = ends[ends[:, 0].argsort(stable=True)]
        degree = torch.bincount(ends[:, 0], minlength=count)
        self.degree = degree[:, None]
        self.neighbors = ends[:, 1].contiguous()
        self.start = torch.nn.functional.pad(degree.cumsum(0), (1, 0))

    def solve(
        self,
        diagonal: Tensor,  # [V, C] or [V, 1], above 0
        weight: float,
        right: Tensor,  # [V, C]
        values: Tensor,  # [V, C] to start from
        iterations: int,
    ) -> Tensor:  # [V, C]
        """Solves (diagonal + weight * L) x = right, each column by itself, with Jacobi's preconditioner."""
        scale, least = diagonal + weight * self.degree.to(right), torch.finfo(right.dtype).tiny

        def times(x: Tensor) -> Tensor:
            return scale * x - weight * sum_rows(x, self.neighbors, self.start)

        rest = right - times(values)
        step = direction = rest / scale
        energy = (rest * step).sum(0)
        for _ in range(iterations):
            image = times(direction)
            length = energy / (direction * image).sum(0).clamp(min=least)
            values, rest = values + length * direction, rest - length * image
            step = rest / scale
            energy, before = (rest * step).sum(0), energy
            direction = step + energy / before.clamp(min=least) * direction
        return values
