"""Texture lookups in plain torch: which texels a pixel needs, with which weights, and their sums."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .common.custom_op import pull_back
from .common.gather import add_rows, gather_rows, sum_rows
from .texture_cube_torch import across_edges, cube_derivatives, cube_face

LEAST, LARGEST = 1e-30, 1e30
"""Squared sides in texels that still count: log2 has a finite slope in between."""


def texture_torch(
    texels: Tensor,  # [F or 1, H, W, C], of a cube map [F or 1, 6, S, S, C]
    mips: Tensor | None,  # [F or 1, M, C], all levels above 0
    uv: Tensor,  # [F, h, w, 2], of a cube map [F, h, w, 3]
    uv_da: Tensor | None,  # [F, h, w, 4], of a cube map [F, h, w, 6]
    mip_level_bias: Tensor | None,  # [F, h, w]
    filter_mode: str,  # not "auto"
    boundary_mode: str,
    highest: int,
) -> Tensor:  # [F, h, w, C]
    """Looks up a texture in plain torch; see `texture`."""
    table = _table(texels, mips)
    rows, weights = _find(uv, uv_da, mip_level_bias, texels, table, filter_mode, boundary_mode, highest)
    return sum_rows(table.flatten(0, 1), rows, weights=weights).view(*uv.shape[:3], texels.shape[-1])


def texture_torch_backward(
    wanted: list[bool],
    grad_out: Tensor,  # [F, h, w, C]
    texels: Tensor,  # [F or 1, H, W, C], of a cube map [F or 1, 6, S, S, C]
    mips: Tensor | None,  # [F or 1, M, C], all levels above 0
    uv: Tensor,  # [F, h, w, 2], of a cube map [F, h, w, 3]
    uv_da: Tensor | None,  # [F, h, w, 4], of a cube map [F, h, w, 6]
    mip_level_bias: Tensor | None,  # [F, h, w]
    filter_mode: str,  # not "auto"
    boundary_mode: str,
    highest: int,
) -> list[Tensor]:  # as the five tensors
    """Differentiates by texels, mips and what chooses them."""
    table = _table(texels, mips)
    how = texels, table, filter_mode, boundary_mode, highest

    def weigh(uv: Tensor, uv_da: Tensor | None, mip_level_bias: Tensor | None) -> tuple[Tensor, Tensor]:
        rows, weights = _find(uv, uv_da, mip_level_bias, *how)
        return weights, rows

    weights, pull, rows = pull_back(weigh, [uv, uv_da, mip_level_bias], wanted[2:])
    gradient, out = grad_out.reshape(-1, texels.shape[-1]), []
    if wanted[0] or wanted[1]:
        shares = (weights.nan_to_num()[:, :, None] * gradient[:, None]).flatten(0, 1)
        to_table = add_rows(torch.zeros_like(table).flatten(0, 1), rows.flatten(), shares).view(table.shape)
        count = texels.shape[1:-1].numel()
        if wanted[0]:
            out.append(to_table[:, :count].reshape(texels.shape).clone())
        if wanted[1]:
            out.append(to_table[:, count:].clone(memory_format=torch.contiguous_format))
    if any(wanted[2:]):
        to_weights = torch.bmm(gather_rows(table.flatten(0, 1), rows), gradient[:, :, None])[:, :, 0]
        out += pull(to_weights)
    return out


def _table(texels: Tensor, mips: Tensor | None) -> Tensor:  # [F or 1, H * W + M, C]
    """Puts all levels into one table."""
    level = texels.flatten(1, -2)
    return level if mips is None else torch.cat([level, mips], 1)


def _find(
    uv: Tensor,
    uv_da: Tensor | None,
    mip_level_bias: Tensor | None,
    texels: Tensor,
    table: Tensor,  # [F or 1, H * W + M, C]
    filter_mode: str,
    boundary_mode: str,
    highest: int,
) -> tuple[Tensor, Tensor]:  # [P, K] int64, [P, K]
    """Finds the texels around each pixel, by their rows in the table of all frames, and their weights."""
    places = uv.flatten(0, 2).unbind(1)
    sides = None if uv_da is None else uv_da.flatten(0, 2).unbind(1)
    face, faces = None, 1
    if boundary_mode == "cube":
        found, places, scale = cube_face(*places)
        sides = None if sides is None else cube_derivatives(found, places, scale, sides)
        face, faces = found.face, 6
    height, width = texels.shape[-3:-1]
    if not highest:
        rows, weights = _taps(face, places, height, width, boundary_mode, filter_mode != "nearest")
    else:
        counts = [faces * max(1, height >> level) * max(1, width >> level) for level in range(highest)]
        start, rows, weights = torch.tensor([0, *counts], device=uv.device).cumsum(0), [], []
        linear = filter_mode == "linear-mipmap-linear"
        for level, share in _levels(_mip_level(sides, mip_level_bias, height, width, highest), highest, linear):
            down, across = ((torch.full_like(level, side) >> level).clamp(min=1) for side in (height, width))
            row, weight = _taps(face, places, down, across, boundary_mode, True)
            before = start.index_select(0, level)
            rows += [r + before for r in row]
            weights += [w * share for w in weight]
    row = torch.stack(rows, 1)
    if len(texels) > 1:
        frames = len(uv)
        row = (row.view(frames, -1) + torch.arange(frames, device=uv.device)[:, None] * table.shape[1]).view(row.shape)
    return row, torch.stack(weights, 1)


def texture_mips_torch(
    texels: Tensor,  # [F, H, W, C], of a cube map [F, 6, S, S, C]
    levels: int,
) -> list[Tensor]:
    """Halves a texture in plain torch; see `texture_mips`."""
    out = []
    for _ in range(levels):
        *front, height, width, channels = texels.shape
        down, across = min(2, height), min(2, width)
        blocks = texels.view(*front, height // down, down, width // across, across * channels).sum(-3)
        texels = blocks.unflatten(-1, (across, channels)).sum(-2) / (down * across)
        out.append(texels)
    return out


def _mip_level(
    sides: tuple[Tensor, ...] | None,  # du/dX, du/dY, dv/dX, dv/dY: [P] each
    bias: Tensor | None,  # [F, h, w]
    height: int,
    width: int,
    highest: int,
) -> Tensor:  # [P] in [0, highest]
    """Computes the level at which the longer side of a pixel is a texel long, plus the bias."""
    level: Tensor | float = 0.0
    if sides is not None:
        ux, uy, vx, vy = sides
        squared = torch.maximum((ux * width) ** 2 + (vx * height) ** 2, (uy * width) ** 2 + (vy * height) ** 2)
        level = 0.5 * squared.clamp(LEAST, LARGEST).log2()
    if bias is not None:
        level = level + bias.flatten()
    return torch.as_tensor(level).clamp(0, highest)


def _levels(
    level: Tensor,  # [P] in [0, highest]
    highest: int,
    linear: bool,
) -> list[tuple[Tensor, Tensor]]:  # [P] int64, [P]
    """Splits a level into the two around it, or the nearest one alone, and their shares."""
    known = level.detach().nan_to_num()
    if not linear:
        return [((known + 0.5).ceil().long() - 1, 1 + 0 * level.detach())]  # not a number where the level is none
    lower = known.floor().long()
    above = level - lower
    return [(lower, 1 - above), ((lower + 1).clamp(max=highest), above)]


def _taps(
    face: Tensor | None,  # [P]
    places: Sequence[Tensor],  # u and v, [P] each
    height: Tensor | int,  # [P] where pixels have levels of their own
    width: Tensor | int,
    boundary_mode: str,
    linear: bool,
) -> tuple[list[Tensor], list[Tensor]]:  # four or one of [P] int64, and of [P]
    """Finds the texels around each pixel, by their rows in the level's table, and their weights."""
    across = _along(places[0], width, boundary_mode, linear)
    down = _along(places[1], height, boundary_mode, linear)
    weights = [a * b for _, a in down for _, b in across]
    if face is None:
        return [row * width + column for row, _ in down for column, _ in across], weights
    row, column = (torch.stack(x, 1) for x in zip(*((j, i) for j, _ in down for i, _ in across), strict=True))
    size = width[:, None].expand_as(row) if isinstance(width, Tensor) else torch.full_like(row, width)
    row, weight = across_edges(face[:, None].expand_as(row), row, column, size, torch.stack(weights, 1))
    return list(row.unbind(1)), list(weight.unbind(1))


def _along(
    place: Tensor,  # [P]
    size: Tensor | int,  # [P]
    boundary_mode: str,
    linear: bool,
) -> list[tuple[Tensor, Tensor]]:
    """Finds the one or two nearest texels along an axis, and their weights; on a cube they may lie beyond its edge."""
    if boundary_mode == "wrap":
        place = place - place.floor()
    elif boundary_mode == "mirror":
        place = 1 - (place - 2 * (place / 2).floor() - 1).abs()
    at = place * size - 0.5 if linear else place * size
    last = torch.as_tensor(size - 1, device=place.device).to(place)
    if boundary_mode in ("clamp", "mirror") or (boundary_mode == "cube" and not linear):
        at = at.clamp(min=0).minimum(last)
    elif boundary_mode == "zero":
        at = at.clamp(min=-2).minimum(last + 2)
    first = at.detach().floor()
    fraction = at - first if linear else (at - at).detach()  # NaN where the place is
    found = []
    for index, weight in ((first, 1 - fraction), (first + 1, fraction))[: 1 + linear]:
        index = index.nan_to_num().long()
        if boundary_mode == "wrap":
            index = torch.where(index < 0, index + size, torch.where(index >= size, index - size, index))
        elif boundary_mode == "zero":
            weight = weight * ((index >= 0) & (index < size))
        if boundary_mode != "cube":
            index = index.clamp(min=0).minimum(last.long())
        found.append((index, weight))
    return found
