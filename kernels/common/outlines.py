"""Candidates of the silhouette search: the pairs of pixels near outline edges, so that `antialias` need not walk far.

A walk over the mesh ends at edges whose two triangles lie on the same side of them, or that have one triangle only.
They are few. Each is found from signs of areas, with a margin for rounding, and marks the pairs of pixels it may cross.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .cache import TensorCache
from .gather import places, repeated
from .topology import topology

MAX_STEPS = 64
"""Triangles that a walk may visit: half a pixel at the outline of a sphere 80 pixels large spans 16 of 0.8 pixels each,
and 32 of 0.2. Fewer steps miss silhouettes far from p's centre first, which shrinks the mask."""
NEAR = torch.finfo(torch.float32).tiny
"""A vertex that is not further away, in any unit, counts as behind the camera; 1 / NEAR is finite."""
FAR = float(1 << 20)
"""Pixels; a vertex further from the origin of the image is too far for float32 to resolve its pixel."""
TIE = 1e-4
"""Pixels; a silhouette so little beyond the centre of q still ends before it, as q does not see the triangle."""
FLAT = 1e-5
"""A triangle's area over that of its box: below, rounding may turn it over."""
SLACK = 0.01
"""Pixels; more than rounding moves a crossing in an image."""
ROUNDING = 1e-6
"""Of an edge's coordinates; more than rounding moves a crossing far outside of it."""
CHUNK = 1 << 17
"""Pixels on outlines held at once."""

_edges = TensorCache()


class _Edges(NamedTuple):
    """The edges of a mesh: once for each pair of triangles that share one, and once where there is no such pair."""

    corners: Tensor  # [3, T] int32, vertices of the triangles
    ends: Tensor  # [2, E] int32, vertices
    sides: Tensor  # [2, E] int32, triangles; the same one twice where there is no pair
    sense: Tensor  # [E] int8: 1 where both turn the same way round, -1 where they do not, 0 where there is no pair


def pairs_at_outlines(
    screen: Tensor,  # [2, F, V] columns and rows, NaN where a vertex cannot be seen
    triangles: Tensor,  # [T, 3]
    height: int,
    width: int,
) -> Tensor:  # [F, 2, H, W] bool
    """Marks pairs of a pixel and its right ([:, 0]) or lower ([:, 1]) neighbour, all where a walk may end and some."""
    _, frames, count = screen.shape
    edges = _edges.get(triangles, count, lambda: _edges_of(triangles.detach(), count))
    ends = [edges.ends[:, :0]]
    for frame, planes in enumerate(screen.unbind(1)):
        facing = _facing(planes, edges.corners)
        here, behind = (facing.index_select(0, side) for side in edges.sides)
        outline = places(here * behind * edges.sense <= 0)
        ends.append(edges.ends.index_select(1, outline) + frame * count)
    ends = torch.cat(ends, 1)
    x, y = (plane.reshape(-1).index_select(0, ends.view(-1)).view(2, -1) for plane in screen)

    # Steep edges cross pairs in a row, at the height of their centres; the others pairs in a column. Such a line of
    # pixels is crossed at one place, at most two pixels after the start of a pair.
    down = (x[1] - x[0]).abs() >= (y[1] - y[0]).abs()
    across, along = torch.where(down, x, y), torch.where(down, y, x)
    slope = ((along[1] - along[0]) / (across[1] - across[0])).nan_to_num_(0.0)  # of an edge that is a point
    slack = SLACK + ROUNDING * (across.abs() + along.abs()).sum(0)
    line = (torch.minimum(across[0], across[1]) - 0.5).ceil_().clamp_(min=0)
    end = torch.minimum((torch.maximum(across[0], across[1]) - 0.5).floor_(), torch.where(down, width, height) - 1)
    inside = places(line <= end)  # False for NaN
    picture = ends[0] // count * 2 + down
    values = line, end, across[0], along[0], slope, slack, down, picture
    line, end, across, along, slope, slack, down, picture = (a.index_select(0, inside) for a in values)
    marked = torch.zeros(frames, 2, height, width, dtype=torch.bool, device=screen.device)
    for edge, rank in repeated((end - line + 1).long(), CHUNK):
        turned, at = down.index_select(0, edge), line.index_select(0, edge) + rank
        crossing = (at + 0.5 - across.index_select(0, edge)) * slope.index_select(0, edge) + along.index_select(0, edge)
        reach = slack.index_select(0, edge)
        first = (crossing - 2 - reach).ceil_().clamp_(min=0)
        last = torch.minimum((crossing + reach).floor_(), torch.where(turned, height, width) - 1)
        pixel = first + torch.arange(max(0, int((last - first).max()) + 1), device=edge.device)[:, None]
        row, column = torch.where(turned, pixel, at), torch.where(turned, at, pixel)
        place = (picture.index_select(0, edge) * height + row.long()) * width + column.long()
        marked.view(-1)[place[pixel <= last]] = True
    return marked


def _facing(planes: Tensor, corners: Tensor) -> Tensor:  # [2, V], [3, T] -> [T] int8
    """Finds which way round triangles turn on the screen, 1 or -1, and 0 where that cannot be told."""
    (x0, x1, x2), (y0, y1, y2) = ([plane.index_select(0, corner) for corner in corners] for plane in planes)
    x1, x2, y1, y2 = x1 - x0, x2 - x0, y1 - y0, y2 - y0
    area = x1 * y2 - y1 * x2
    unsure = FLAT * (x1.abs() + x2.abs()) * (y1.abs() + y2.abs())
    return (area > unsure).to(torch.int8) - (area < -unsure).to(torch.int8)


def _edges_of(triangles: Tensor, vertices: int) -> _Edges:
    mesh = topology(triangles, vertices)
    corners, neighbors = mesh.triangles.view(-1), mesh.neighbors.view(-1).long()
    corner = torch.arange(len(neighbors), device=neighbors.device)
    corner = corner[neighbors < corner]  # one of the two opposite an edge
    behind = neighbors[corner]
    alone = behind < 0
    start, end, other = (corners[c - c % 3 + (c + k) % 3] for c, k in ((corner, 1), (corner, 2), (behind, 1)))
    sense = torch.where(alone, 0, torch.where(other == end, 1, -1)).to(torch.int8)
    sides = torch.stack([corner, torch.where(alone, corner, behind)]) // 3
    return _Edges(mesh.by_corner, torch.stack([start, end]), sides.int(), sense)
