"""Adjacency of triangle meshes: edges, and what gathering kernels read instead of adding atomically."""

from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from .cache import TensorCache

_topologies = TensorCache()


def grouped(
    keys: Tensor,  # [N] int32 or int64, in [0, count)
    count: int,
) -> tuple[Tensor, Tensor]:  # [count + 1] int32, [N] int64
    """Groups places by key: those of key k are order[start[k]] ... order[start[k + 1] - 1], ascending."""
    start = torch.nn.functional.pad(torch.bincount(keys, minlength=count).cumsum(0), (1, 0)).int()
    return start, torch.sort(keys, stable=True).indices


class Edges(NamedTuple):
    """The undirected edges of a mesh, in ascending order of their vertices."""

    ends: Tensor  # [N, 2] int64, vertices, the smaller first
    triangles: Tensor  # [N] int64, how many share the edge
    of_side: Tensor  # [3T] int64, edge of each side: all from corner 0 to 1, then all from 1 to 2, then all from 2 to 0


def mesh_edges(
    triangles: Tensor,  # [T, 3] int32 or int64, T >= 1
) -> Edges:
    """Finds the edges of a mesh, each once, and which sides of triangles they are."""
    triangles = triangles.long()
    sides = torch.cat([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]]).sort(dim=1).values
    base = int(sides.max()) + 1
    # One number a side: far faster than unique rows.
    keys, of_side, count = torch.unique(sides[:, 0] * base + sides[:, 1], return_inverse=True, return_counts=True)
    return Edges(torch.stack([keys // base, keys % base], 1), count, of_side)


def unique_edges(
    triangles: Tensor,  # [T, 3] int32 or int64, T >= 1
) -> Tensor:  # [N, 2] int64
    """Finds the undirected edges of a mesh, each once, the smaller vertex first, in ascending order."""
    return mesh_edges(triangles).ends


def topology(triangles: Tensor, vertices: int) -> "Topology":
    """Returns the adjacency of a mesh, made once for a tensor of triangles and anew after it was changed in place.

    Args:
        triangles: [T, 3] int32 or int64, checked by `check_corners`.
        vertices: number of vertices, more than the highest index.
    """
    return _topologies.get(triangles, vertices, lambda: Topology(triangles.detach().clone(), vertices))


def _fan_order(
    group: Tensor,  # [N] int64, ascending, multiples of more than any end
    begin: Tensor,  # [N] int32
    end: Tensor,  # [N] int32
) -> Tensor:  # [N] int64
    """Sorts pairs within their groups so that each begins where the one before it ends, as far as possible."""
    here = torch.arange(len(group), device=group.device)
    ends, by_end = torch.sort(group + end, stable=True)
    begins, by_begin = torch.sort(group + begin, stable=True)
    place = torch.searchsorted(ends, begins).clamp(max=max(len(ends) - 1, 0))
    follows = (ends[place] == begins) & (begins != begins.roll(1))  # each has one follower at most
    before = here.scatter(0, by_begin, torch.where(follows, by_end[place], by_begin))
    rounds = len(group).bit_length()
    jump, least = before, here
    for _ in range(rounds):  # twice as far each time
        least, jump = torch.minimum(least, least[jump]), jump[jump]
    closed = before[jump] != jump  # has no head to end at: the pair of least number becomes one
    jump = before = torch.where(closed & (least == here), here, before)
    steps = (before != here).long()
    for _ in range(rounds):
        steps, jump = steps + steps[jump], jump[jump]
    return torch.argsort(jump * (len(group) + 1) + steps)


class Topology:
    """Adjacency of a triangle mesh; every part is made when first asked for, in an order that never changes."""

    def __init__(self, triangles: Tensor, vertices: int) -> None:
        self.triangles = triangles.int()  # [T, 3]
        self.vertices = vertices

    @cached_property
    def by_corner(self) -> Tensor:
        """[3, T] int32: the vertices of all first corners, then of all second, then of all third."""
        return self.triangles.T.contiguous()

    @cached_property
    def _corners(self) -> tuple[Tensor, Tensor]:
        return grouped(self.triangles.T.flatten(), self.vertices)

    @property
    def ring_start(self) -> Tensor:
        """[V + 1] int32: the corners at vertex v are ring_start[v] ... ring_start[v + 1] - 1 of `ring`."""
        return self._corners[0]

    @cached_property
    def corners(self) -> Tensor:
        """[3T] int32: the corners at each vertex after the other; corner k of triangle t is number k T + t."""
        return self._corners[1].int()

    @cached_property
    def ring_triangles(self) -> Tensor:
        """[3T] int32: the triangle of each of `corners`."""
        return self.corners % len(self.triangles)

    @cached_property
    def ring(self) -> Tensor:
        """[3T, 2] int32: the other two corners of each triangle at a vertex, in the triangle's order after it.

        Sorted by vertex, and around it as a fan: a pair begins where the one before it ends, where there is such a one.
        """
        others = torch.stack([self.triangles.roll(-1, 1).T.flatten(), self.triangles.roll(-2, 1).T.flatten()], 1)
        others = others[self._corners[1]]
        vertex = self.triangles.T.flatten()[self._corners[1]]
        return others[_fan_order(vertex.long() * self.vertices, *others.unbind(1))]

    @cached_property
    def neighbors(self) -> Tensor:
        """[T, 3] int32: the corner 3t + k opposite the edge that triangle and neighbour share, in the neighbour.

        Column k is for the edge opposite corner k. -1 at a border, and where more than two triangles share the edge.
        """
        t = self.triangles.long()
        edges = torch.stack([t[:, [1, 2]], t[:, [2, 0]], t[:, [0, 1]]], 1)  # row k: the edge opposite corner k
        edges = edges.view(-1, 2).sort(1).values
        key = edges[:, 0] * self.vertices + edges[:, 1]
        sorted_key, order = torch.sort(key, stable=True)
        pad = torch.nn.functional.pad
        same_next = pad(sorted_key[1:] == sorted_key[:-1], (0, 1))
        same_last = pad(same_next[:-1], (1, 0))
        run_next, run_last = pad(same_next[1:], (0, 1)), pad(same_last[:-1], (1, 0))
        first = same_next & ~same_last & ~run_next  # of exactly two equal keys
        second = same_last & ~same_next & ~run_last
        partner = torch.full_like(order, -1)
        partner[first] = order.roll(-1)[first]
        partner[second] = order.roll(1)[second]
        out = torch.empty_like(order)
        out[order] = partner
        return out.view(-1, 3).int()

    @cached_property
    def beyond(self) -> Tensor:
        """[3T, 5] int32: what is beyond the edge opposite corner 3t + k, for walks from triangle to triangle.

        The triangle, -1 where there is none; its vertex that is not on the edge; the corner after that, the one after
        it, and the vertex of the first of these two. All but the triangle are 0, or anything, where there is none.
        """
        behind = self.neighbors.view(-1)
        corner = behind.clamp(min=0)
        triangle = corner // 3
        after, later = (3 * triangle + (corner + step) % 3 for step in (1, 2))
        vertices = self.triangles.view(-1)
        columns = torch.where(behind < 0, -1, triangle), vertices[corner], after, later, vertices[after]
        return torch.stack(columns, 1)
