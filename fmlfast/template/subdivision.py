"""Computes Loop subdivision as a sparse matrix, which applies to the mean, every basis and every mask."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fmlfast.kernels.common.topology import mesh_edges


@dataclass(frozen=True)
class LoopStep:
    """One Loop subdivision: `matrix` sparse [V1, V0] float32 and `triangles` [4 * T0, 3] int64 of the finer mesh.

    Triangle t becomes the children 4 t, 4 t + 1, 4 t + 2 (at its corners 0, 1, 2) and 4 t + 3 (the middle one), so that
    triangles side by side in memory are so on the surface. Vertices 0..V0-1 are the old ones, moved; the others lie on
    the edges.
    """

    matrix: Tensor
    triangles: Tensor


def loop_step(num_vertices: int, triangles: Tensor) -> LoopStep:
    """Computes one step of Loop subdivision of a triangle mesh (Loop 1987, borders as in Hoppe 1994).

    A border vertex with exactly two border edges follows the cubic B-spline rule (1/8, 3/4, 1/8); one with more stays
    where it is, which keeps ragged borders free of spikes. A vertex in no triangle stays as well.

    Args:
        num_vertices: V0.
        triangles: [T0, 3] integer vertex ids.

    Raises:
        ValueError: if an id is out of range or an edge belongs to more than two triangles.
    """
    triangles = triangles.long()  # [T0, 3]
    if triangles.numel() and (int(triangles.min()) < 0 or int(triangles.max()) >= num_vertices):
        raise ValueError(f"triangles must index {num_vertices} vertices")
    opposite = torch.cat([triangles[:, 2], triangles[:, 0], triangles[:, 1]])  # [3 * T0]
    edges, count, edge_of_side = mesh_edges(triangles)  # [N, 2], [N], [3 * T0]
    if int(count.max()) > 2:
        raise ValueError("an edge belongs to more than two triangles; clean the mesh before subdividing it")
    border = count == 1  # [N]
    first, second = edges.unbind(1)
    new = num_vertices + torch.arange(len(edges))  # the vertex on each edge

    degree = torch.bincount(edges.flatten(), minlength=num_vertices)
    border_degree = torch.bincount(edges[border].flatten(), minlength=num_vertices)
    inner = (border_degree == 0) & (degree > 0)
    curve = border_degree == 2
    safe_degree = degree.clamp(min=1).double()
    beta = (0.625 - (0.375 + 0.25 * torch.cos(2.0 * torch.pi / safe_degree)) ** 2) / safe_degree
    keep = torch.ones(num_vertices, dtype=torch.float64)
    keep[inner] = (1.0 - degree * beta)[inner]
    keep[curve] = 0.75

    end_weight = torch.where(border, 0.5, 0.375).double()
    inner_side = ~border[edge_of_side]
    entries = [
        (torch.arange(num_vertices), torch.arange(num_vertices), keep),
        (new, first, end_weight),
        (new, second, end_weight),
        (new[edge_of_side[inner_side]], opposite[inner_side], torch.full((int(inner_side.sum()),), 0.125).double()),
    ]
    for here, there in ((first, second), (second, first)):
        ring, along = inner[here], border & curve[here]
        entries.append((here[ring], there[ring], beta[here[ring]]))
        entries.append((here[along], there[along], torch.full((int(along.sum()),), 0.125).double()))
    rows, columns, weights = (torch.cat(part) for part in zip(*entries, strict=True))
    size = (num_vertices + len(edges), num_vertices)
    matrix = torch.sparse_coo_tensor(torch.stack([rows, columns]), weights.float(), size, check_invariants=True)
    matrix = matrix.coalesce()

    middle = num_vertices + edge_of_side.reshape(3, -1)  # [3, T0], the new vertices after corners 0, 1, 2
    a, b, c = triangles.unbind(1)
    children = [(a, middle[0], middle[2]), (middle[0], b, middle[1]), (middle[2], middle[1], c), tuple(middle)]
    return LoopStep(matrix, torch.stack([torch.stack(child, 1) for child in children], 1).flatten(0, 1))


def subdivide_points(triangle: Tensor, barycentrics: Tensor) -> tuple[Tensor, Tensor]:
    """Converts surface points to the child triangles of one subdivision, at the same parametric position.

    Args:
        triangle: [...] int64 triangle of each point.
        barycentrics: [..., 3] float, summing to 1.

    Returns:
        The child triangle [...] and the barycentrics [..., 3] in it.
    """
    largest, corner = barycentrics.max(dim=-1)
    child = torch.where(largest >= 0.5, corner, torch.full_like(corner, 3))  # [...]
    at_corner = 2.0 * barycentrics
    at_corner = at_corner - torch.nn.functional.one_hot(corner, 3).to(barycentrics.dtype)
    # the middle child's corners lie on sides 01, 12, 20: the parent's coordinate vanishes at the opposite one
    in_middle = 1.0 - 2.0 * barycentrics[..., [2, 0, 1]]
    inside = torch.where((child == 3)[..., None], in_middle, at_corner)
    return 4 * triangle + child, inside
