"""Texture lookups one sample at a time in float64, written down from OpenGL's specification (4.6, section 8.14)."""

import math

import torch
from torch import Tensor

FACES = (
    lambda s, t: (1.0, -t, -s),
    lambda s, t: (-1.0, -t, s),
    lambda s, t: (s, 1.0, t),
    lambda s, t: (s, -1.0, -t),
    lambda s, t: (s, -t, 1.0),
    lambda s, t: (-s, -t, -1.0),
)
"""Table 8.19 solved for the direction: +x, -x, +y, -y, +z, -z at s and t in [-1, 1]."""


def lookup(
    levels: list[Tensor],  # of one frame: [H, W, C] or [6, S, S, C], ...
    uv: list[float],
    uv_da: list[float] | None,
    bias: float | None,
    filter_mode: str,
    boundary_mode: str,
) -> Tensor:  # [C]
    """Looks up one sample."""
    face = None
    if boundary_mode == "cube":
        direction = torch.tensor(uv, dtype=torch.float64)
        face = 2 * int(direction.abs().argmax())
        face += int(direction[face // 2] < 0)
        if uv_da is not None:  # central differences of the position on the face
            sides = torch.tensor(uv_da, dtype=torch.float64).view(3, 2) * 1e-6
            ends = [[on_face(face, direction + d * sides[:, k]) for d in (1, -1)] for k in (0, 1)]
            uv_da = [(ends[k][0][axis] - ends[k][1][axis]) / 2e-6 for axis in (0, 1) for k in (0, 1)]
        uv = on_face(face, direction)
    if "mipmap" not in filter_mode:
        return sample(levels[0], face, uv, boundary_mode, filter_mode == "linear")
    level = 0.0
    if uv_da is not None:
        height, width = levels[0].shape[-3:-1]
        ux, uy, vx, vy = (d * n for d, n in zip(uv_da, (width, width, height, height), strict=True))
        level = math.log2(max(math.hypot(ux, vx), math.hypot(uy, vy), 1e-15))
    level = min(max(level + (bias or 0.0), 0.0), len(levels) - 1.0)
    if filter_mode == "linear-mipmap-nearest":
        return sample(levels[math.ceil(level + 0.5) - 1], face, uv, boundary_mode, True)
    lower = math.floor(level)
    upper = min(lower + 1, len(levels) - 1)
    near, far = (sample(levels[k], face, uv, boundary_mode, True) for k in (lower, upper))
    return near + (level - lower) * (far - near)


def on_face(face: int, direction: Tensor) -> list[float]:
    """The position in [0, 1] where a ray meets the plane of a face: solved as a linear system."""
    origin = torch.tensor(FACES[face](0.0, 0.0), dtype=torch.float64)
    across = torch.tensor(FACES[face](1.0, 0.0), dtype=torch.float64) - origin
    down = torch.tensor(FACES[face](0.0, 1.0), dtype=torch.float64) - origin
    s, t, _ = torch.linalg.solve(torch.stack([across, down, -direction], 1), -origin).tolist()
    return [(s + 1) / 2, (t + 1) / 2]


def sample(level: Tensor, face: int | None, uv: list[float], boundary_mode: str, linear: bool) -> Tensor:
    """Filters one level."""
    height, width = level.shape[-3:-1]
    x, y = uv[0] * width, uv[1] * height
    if not linear:
        return texel(level, face, math.floor(y), math.floor(x), boundary_mode)
    i, j = math.floor(x - 0.5), math.floor(y - 0.5)
    a, b = x - 0.5 - i, y - 0.5 - j
    out = torch.zeros(level.shape[-1], dtype=torch.float64)
    for row, column, weight in ((j, i, (1 - b) * (1 - a)), (j, i + 1, (1 - b) * a), (j + 1, i, b * (1 - a)),
                                (j + 1, i + 1, b * a)):  # fmt: skip
        out += weight * texel(level, face, row, column, boundary_mode)
    return out


def texel(level: Tensor, face: int | None, row: int, column: int, boundary_mode: str) -> Tensor:
    """The texel at any row and column."""
    height, width = level.shape[-3:-1]
    if face is not None:
        return cube_texel(level, face, row, column)
    if boundary_mode == "zero" and not (0 <= row < height and 0 <= column < width):
        return torch.zeros(level.shape[-1], dtype=torch.float64)
    return level[wrapped(row, height, boundary_mode), wrapped(column, width, boundary_mode)]


def wrapped(index: int, size: int, boundary_mode: str) -> int:
    """Equations of section 8.14.2: REPEAT, CLAMP_TO_EDGE, MIRRORED_REPEAT."""
    if boundary_mode == "wrap":
        return index % size
    if boundary_mode == "mirror":
        folded = index % (2 * size) - size
        return (size - 1) - (folded if folded >= 0 else -(1 + folded))
    return min(max(index, 0), size - 1)


def cube_texel(level: Tensor, face: int, row: int, column: int) -> Tensor:
    """A texel on a face, or the nearest one of another face to where it would be; at a corner the mean of three."""
    size = level.shape[1]
    beyond = (not 0 <= row < size) + (not 0 <= column < size)
    if beyond == 0:
        return level[face, row, column]
    if beyond == 2:
        near = [min(max(k, 0), size - 1) for k in (row, column)]
        inside = cube_texel(level, face, near[0], near[1])
        return (inside + cube_texel(level, face, row, near[1]) + cube_texel(level, face, near[0], column)) / 3
    here = centre(face, row, column, size)
    others = [(f, j, i) for f in range(6) if f != face for j in range(size) for i in range(size)]
    distances = torch.stack([(centre(f, j, i, size) - here).norm() for f, j, i in others])
    return level[others[int(distances.argmin())]]


def centre(face: int, row: int, column: int, size: int) -> Tensor:
    """Where a texel's centre is on the cube from -1 to 1, or in the plane of its face beyond."""
    return torch.tensor(FACES[face]((2 * column + 1) / size - 1, (2 * row + 1) / size - 1), dtype=torch.float64)
