"""Blends pairs of pixels over silhouette edges in plain torch, and its gradients; see `antialias`."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .common.gather import add_rows, gather_rows, places
from .common.outlines import FAR, NEAR
from .common.projection import camera_of, project


class _Pairs(NamedTuple):
    """The pairs of pixels that have a silhouette edge; p sees the surface that ends there."""

    p: Tensor  # [N] of the stack of images
    q: Tensor  # [N]
    down: Tensor  # [N] 1 where q is above or below p
    side: Tensor  # [N] 1 where q is above or to the left of p
    frame: Tensor  # [N]
    edge: Tensor  # [N, 2] vertices


def _pairs(triangles: Tensor, codes: Tensor) -> _Pairs:
    _, _, height, width = codes.shape
    size, codes = height * width, codes.view(-1)
    slot = places(codes >= 0)  # (2 frame + down) size + pixel
    code = codes.index_select(0, slot).long()
    side, corner = code & 1, code >> 1
    frame, down = slot // (2 * size), slot // size % 2
    first = frame * size + slot % size
    second = first + torch.where(down == 1, width, 1)
    p, q = torch.where(side == 0, first, second), torch.where(side == 0, second, first)
    edge = triangles[(corner // 3)[:, None], torch.stack([corner + 1, corner + 2], 1) % 3].long()
    return _Pairs(p, q, down, side, frame, edge)


def _ends(vertices: Tensor, Ks: Tensor, pairs: _Pairs, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Both ends of each silhouette edge: [N, 2, 3] in camera space, [2, N, 2] (along, across) the way from p to q."""
    corners = gather_rows(vertices.flatten(0, 1), pairs.frame[:, None] * vertices.shape[1] + pairs.edge)
    centers = pixel_center(pairs.p, height, width, vertices.dtype)
    at = screen_position(corners, Ks[pairs.frame, None])
    x, y = (end - center[:, None] for end, center in zip(at, centers, strict=True))
    return corners, torch.stack(turned(x, y, pairs.down[:, None], pairs.side[:, None]))


def blend(image: Tensor, vertices: Tensor, triangles: Tensor, Ks: Tensor, codes: Tensor) -> Tensor:
    """Blends the pairs that have a silhouette edge."""
    pairs, flat = _pairs(triangles, codes), image.flatten(0, 2)
    s = crossing(*_ends(vertices, Ks, pairs, *codes.shape[2:])[1].unbind(-1))
    change = (s - 0.5)[:, None] * (gather_rows(flat, pairs.p) - gather_rows(flat, pairs.q))
    return add_rows(flat, torch.where(s < 0.5, pairs.p, pairs.q), change).view(image.shape)


def blend_backward(
    wanted: list[bool],
    grad_out: Tensor,  # [F, H, W, C]
    image: Tensor,  # [F, H, W, C]
    vertices: Tensor,  # [F, V, 3]
    triangles: Tensor,  # [T, 3]
    Ks: Tensor,  # [F, 3, 3]
    codes: Tensor,  # [F, 2, H, W]
) -> list[Tensor]:  # as image, as vertices
    """Differentiates `blend`."""
    pairs, flat, gradient = _pairs(triangles, codes), image.flatten(0, 2), grad_out.flatten(0, 2)
    corners, ends = _ends(vertices, Ks, pairs, *codes.shape[2:])
    s, out = crossing(*ends.unbind(-1)), []
    upstream = gather_rows(gradient, torch.where(s < 0.5, pairs.p, pairs.q))
    if wanted[0]:
        share = (s - 0.5)[:, None] * upstream
        to_image = add_rows(gradient, torch.cat([pairs.p, pairs.q]), torch.cat([share, -share]))
        out.append(to_image.view(image.shape))
    if wanted[1]:
        to_s = (upstream * (gather_rows(flat, pairs.p) - gather_rows(flat, pairs.q))).sum(1)
        to_corners = _through_crossing(to_s, corners, ends, Ks, pairs)
        rows = (pairs.frame[:, None] * vertices.shape[1] + pairs.edge).flatten()
        zeros = torch.zeros_like(vertices).flatten(0, 1)
        out.append(add_rows(zeros, rows, to_corners.flatten(0, 1)).view(vertices.shape))
    return out


def _through_crossing(
    to_s: Tensor,  # [N]
    corners: Tensor,  # [N, 2, 3]
    ends: Tensor,  # [2, N, 2]
    Ks: Tensor,  # [F, 3, 3]
    pairs: _Pairs,
) -> Tensor:  # [N, 2, 3]
    """Carries the gradient of where edges cross back to their ends in camera space."""
    along, across = ends[..., 1] - ends[..., 0]
    share = -ends[1, :, 0] / across  # of the second end: s = (1 - share) low + share high
    to_along = to_s[:, None] * torch.stack([1 - share, share], 1)
    to_across = to_along * (-along / across)[:, None]
    down, to_along = pairs.down[:, None] == 1, to_along * (1 - 2 * pairs.side)[:, None]
    to_u, to_v = torch.where(down, to_across, to_along), torch.where(down, to_along, to_across)
    x, y, z = corners.unbind(-1)
    k00, k01, _, k10, k11, _ = camera_of(Ks[pairs.frame, None])
    to_x, to_y = (to_u * k00 + to_v * k10) / z, (to_u * k01 + to_v * k11) / z
    return torch.stack([to_x, to_y, -(to_x * x + to_y * y) / z], -1)


def screen_position(points: Tensor, Ks: Tensor) -> tuple[Tensor, Tensor]:
    """Projects points [..., 3] with K [..., 3, 3] to columns and rows [...], NaN where they cannot be used."""
    x, y, z = points.unbind(-1)
    seen = (z > NEAR) & (z < torch.inf)
    inverse = torch.where(seen, z, 1.0).reciprocal()
    u, v = project(camera_of(Ks), x, y, inverse)
    seen = seen & (u.detach().abs() < FAR) & (v.detach().abs() < FAR)
    return torch.where(seen, u, torch.nan), torch.where(seen, v, torch.nan)


def pixel_center(pixels: Tensor, height: int, width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Column and row of the centres of pixels [...] of a stack of images."""
    return (pixels % width).to(dtype) + 0.5, (pixels // width % height).to(dtype) + 0.5


def turned(x: Tensor, y: Tensor, down: Tensor, side: Tensor) -> tuple[Tensor, Tensor]:
    """Turns columns and rows [...] into coordinates [...] along the direction from p to q and across it."""
    return torch.where(down == 1, y, x) * (1 - 2 * side), torch.where(down == 1, x, y)


def crossing(low: Any, high: Any) -> Any:  # [2, N], [2, N] -> [N], tensors or pairs of arrays
    """Where an edge crosses the segment, its ends being (along, across) from p's centre."""
    along, across = high[0] - low[0], high[1] - low[1]
    return low[0] - low[1] / across * along
