"""Cube maps in plain torch: the face that a direction meets, where on it, and texels beyond its edges.

Faces and their axes are OpenGL's (4.6, table 8.19). A point is given by its face, s and t along the face's axes, and m,
its distance from the centre towards the face; all of these are directions' or, counted in half texels, texels'.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class _Axis(NamedTuple):
    """Which coordinate is the largest, and whether it is negative; z where neither x nor y is."""

    x: Tensor
    y: Tensor
    negative: Tensor

    @property
    def face(self) -> Tensor:
        """0 to 5: +x, -x, +y, -y, +z, -z."""
        return torch.where(self.x, 0, torch.where(self.y, 2, 4)) + self.negative

    def along(self, x: Tensor, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Turns x, y, z into s, t and m; also a direction's derivative, as this is linear."""
        flipped = torch.where(self.negative, -1, 1)
        s = torch.where(self.x, -flipped * z, torch.where(self.y, x, flipped * x))
        return s, torch.where(self.y, flipped * z, -y), flipped * torch.where(self.x, x, torch.where(self.y, y, z))


def cube_face(
    x: Tensor,  # [P]
    y: Tensor,  # [P]
    z: Tensor,  # [P]
) -> tuple[_Axis, tuple[Tensor, Tensor], Tensor]:  # and u and v on the face, and m: [P] each
    """Finds where directions meet the cube."""
    axis, s, t, m = _meet(x, y, z)
    return axis, ((s / m + 1) / 2, (t / m + 1) / 2), m


def cube_derivatives(
    axis: _Axis,
    places: Sequence[Tensor],  # u and v: [P] each
    m: Tensor,  # [P]
    sides: Sequence[Tensor],  # dx/dX, dx/dY, dy/dX, dy/dY, dz/dX, dz/dY: [P] each
) -> tuple[Tensor, ...]:  # du/dX, du/dY, dv/dX, dv/dY: [P] each
    """Turns derivatives of directions into those on the face, by the quotient rule."""
    (sx, tx, mx), (sy, ty, my) = axis.along(*sides[::2]), axis.along(*sides[1::2])
    u, v = (2 * place - 1 for place in places)
    return tuple((d - place * dm) / (2 * m) for place, d, dm in ((u, sx, mx), (u, sy, my), (v, tx, mx), (v, ty, my)))


def across_edges(
    face: Tensor,  # [P, K]
    row: Tensor,  # [P, K] int64, from -1 to S
    column: Tensor,  # [P, K] int64, from -1 to S
    size: Tensor,  # [P, K] int64, S
    weights: Tensor,  # [P, K]
) -> tuple[Tensor, Tensor]:  # [P, K] int64: (face * S + row) * S + column, [P, K] weights
    """Finds texels one beyond an edge on the face there; what is beyond two takes the mean of the others."""
    over_s, over_t = (column < 0) | (column >= size), (row < 0) | (row >= size)
    beyond = (over_s | over_t).nonzero(as_tuple=True)
    n, i, j = size[beyond], column[beyond], row[beyond]
    s, t = ((2 * k + 1 - n).maximum(-n).minimum(n) for k in (i, j))  # folded over the edge, n from the centre
    axis, s, t, _ = _meet(*_point(face[beyond], s, t, n - 1))
    corner = over_s & over_t
    lost = (weights * corner).sum(1, keepdim=True) / 3
    weights = torch.where(corner, 0, weights + lost)
    face = face.index_put(beyond, axis.face)
    column = column.index_put(beyond, ((s + n - 1) // 2).clamp(min=0))  # -1 at some corners
    row = row.index_put(beyond, ((t + n - 1) // 2).clamp(min=0))
    return (face * size + row) * size + column, weights


def _meet(x: Tensor, y: Tensor, z: Tensor) -> tuple[_Axis, Tensor, Tensor, Tensor]:  # [P] each; and s, t, m
    """Finds the face that directions meet: of coordinates of one size x comes before y before z."""
    on_x = (x.abs() >= y.abs()) & (x.abs() >= z.abs())
    on_y = ~on_x & (y.abs() >= z.abs())
    axis = _Axis(on_x, on_y, torch.where(on_x, x, torch.where(on_y, y, z)) < 0)
    return axis, *axis.along(x, y, z)


def _point(face: Tensor, s: Tensor, t: Tensor, m: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # [P] each
    """Turns s, t and m on a face back into x, y and z."""
    flipped, axis = 1 - 2 * (face % 2), face // 2
    x = torch.where(axis == 0, flipped * m, torch.where(axis == 1, s, flipped * s))
    y = torch.where(axis == 1, flipped * m, -t)
    z = torch.where(axis == 2, flipped * m, torch.where(axis == 0, -flipped * s, flipped * t))
    return x, y, z
