"""Renders a face with per-vertex or textured albedo, shaded at every pixel."""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, grid_sample, normalize

from fmlfast.camera import project
from fmlfast.color import srgb_to_linear
from fmlfast.renderer import interpolate, rasterize, sh_basis, vertex_normals

DARKEST = 0.1  # irradiance in shadow over the mean of all directions, at least
SAMPLES = 3  # per pixel and axis
TILE = 512  # pixels; bounds the memory of a render at any size of photo
LAMP, LAMP_SHARE = (-0.45, -0.55, -0.70), 0.75  # direction towards a standard lamp, camera frame, and its share


@dataclass(frozen=True)
class VertexAlbedo:
    """Albedo at the vertices, linear."""

    attributes: Tensor  # [V, 3]

    def at_spacing(self, *_: Tensor) -> "VertexAlbedo":
        """Returns itself; vertex colours are as smooth as the mesh."""
        return self

    def lookup(self, values: Tensor) -> Tensor:  # [N, 3]
        """Returns interpolated colours, linear [N, 3]."""
        return values


@dataclass(frozen=True)
class TextureAlbedo:
    """Albedo in a texture, bilinear between the centres of texels."""

    attributes: Tensor  # [V, 2] uv
    image: Tensor  # [3, S, S] linear

    @classmethod
    def of(cls, uv: Tensor, image: np.ndarray) -> "TextureAlbedo":
        """Takes a uint8 sRGB texture [S, S, 3], row (1 - v) * S, column u * S."""
        return cls(uv, srgb_to_linear(torch.from_numpy(image).permute(2, 0, 1).float() / 255))

    def at_spacing(
        self,
        points: Tensor,  # [V, 2] where the vertices are in the picture, in samples
        triangles: Tensor,  # [T, 3]
    ) -> "TextureAlbedo":
        """Halves the texture until its texels are as large as the picture's samples, or nearly so (a mip level)."""
        corners = triangles.long()
        drawn, stored = doubled_areas(points[corners]), doubled_areas(self.attributes[corners] * self.image.shape[1])
        front = (drawn < 0) & (stored.abs() > 0)  # counter-clockwise from outside; the picture's y points down
        if not front.any():
            return self
        ratio = float((stored / drawn)[front].abs().median()) ** 0.5
        level = math.floor(math.log2(max(ratio, 1.0)))
        return TextureAlbedo(self.attributes, self.mip_levels[min(level, len(self.mip_levels) - 1)])

    @cached_property
    def mip_levels(self) -> list[Tensor]:
        """The image as it is and at half, quarter, ... size, [3, S, S] each."""
        levels = [self.image]
        while levels[-1].shape[1] > 1:
            levels.append(avg_pool2d(levels[-1], 2))
        return levels

    def lookup(self, values: Tensor) -> Tensor:  # [N, 2]
        """Samples the texture at uv, linear [N, 3]."""
        grid = torch.stack([2 * values[:, 0] - 1, 1 - 2 * values[:, 1]], 1)[None, None]
        return grid_sample(self.image[None], grid, align_corners=False, padding_mode="border")[0, :, 0].T


Albedo = VertexAlbedo | TextureAlbedo


def render_face(
    vertices: Tensor,  # [V, 3]
    triangles: Tensor,  # [T, 3]
    albedo: Albedo,
    sh: Tensor,  # [9, 3]
    ambient: Tensor,  # [V]
    opacity: Tensor,  # [V]
    K: Tensor,  # [3, 3]
    left: int,
    top: int,
    width: int,
    height: int,
) -> Tensor:  # [height, width, 4]
    """Renders linear colours times opacity, and opacity, in a window of an image, with 3 x 3 samples per pixel.

    Transparent parts still occlude the mesh behind them.

    Args:
        vertices: camera frame, mm.
        albedo: multiplied by the light at the interpolated normal, Lambert.
        sh: spherical harmonics coefficients by channel, as in `Codes.sh`.
        ambient: factor of the light at the vertices, of `ambient_factor`; 1 for none.
        opacity: 0..1 at the vertices.
        K: intrinsics of the whole image, pixels.
        left, top, width, height: the window, pixels.
    """
    normals = vertex_normals(vertices[None], triangles)[0]
    albedo = albedo.at_spacing(project(vertices[None], K[None])[0] * SAMPLES, triangles)
    fields = torch.cat([normals, ambient[:, None], opacity[:, None], albedo.attributes], 1)[None].contiguous()
    image = vertices.new_zeros(height, width, 4)
    for y in range(0, height, TILE):
        for x in range(0, width, TILE):
            rows, columns = min(TILE, height - y), min(TILE, width - x)
            moved = K.clone()
            moved[:2, 2] -= K.new_tensor([left + x, top + y])
            moved[:2] *= SAMPLES
            fragments = rasterize(vertices[None], triangles, moved[None], SAMPLES * rows, SAMPLES * columns)
            covered = (fragments.triangle_id.flatten() >= 0).nonzero()[:, 0]
            values = interpolate(fields, triangles, fragments).flatten(0, 2)[covered]
            shading = values[:, 3:4] * irradiance(sh_basis(normalize(values[:, :3], dim=1)), sh)
            colors = (albedo.lookup(values[:, 5:]) * shading).clamp(0, 1)
            layers = torch.cat([colors * values[:, 4:5], values[:, 4:5]], 1)
            samples = layers.new_zeros(len(fragments.triangle_id.flatten()), 4).index_copy_(0, covered, layers)
            samples = samples.view(rows, SAMPLES, columns, SAMPLES, 4)
            image[y : y + rows, x : x + columns] = samples.mean((1, 3))
    return image


def irradiance(
    basis: Tensor,  # [..., V, 9]
    sh: Tensor,  # [..., 9, 3]
) -> Tensor:  # [..., V, 3]
    """Evaluates light, which nine fitted coefficients may tell to be less than nothing where a face has its shadow."""
    return torch.maximum(basis @ sh, DARKEST * sh[..., :1, :])


def flat_light() -> Tensor:  # [9, 3]
    """Returns the light under which a surface shows its albedo."""
    light = torch.zeros(9, 3)
    light[0] = 1.0
    return light


def standard_light() -> Tensor:  # [9, 3]
    """Returns a white lamp from the upper left with ambient light, the same for every face."""
    light = LAMP_SHARE * lambert_lobe(torch.tensor(LAMP)) + (1 - LAMP_SHARE) * torch.eye(9)[0]
    return light[:, None].repeat(1, 3)


def lambert_lobe(
    direction: Tensor,  # [3]
) -> Tensor:  # [9]
    """Computes the coefficients of light from a lamp in `direction`, of any length, in the frame of the normals.

    The lobe max(0, n.l) is 1/4 + n.l / 2 + 5/32 (3 (n.l)^2 - 1) in three bands (Ramamoorthi and Hanrahan 2001).
    """
    x, y, z = normalize(direction, dim=0).tolist()
    quadratic = [2 * x * y, 2 * x * z, 2 * y * z, (x * x - y * y) / 2, (3 * z * z - 1) / 6]
    return torch.tensor([0.25, x / 2, y / 2, z / 2, *(15 / 32 * q for q in quadratic)])


def doubled_areas(
    corners: Tensor,  # [..., 3, 2]
) -> Tensor:  # [...]
    """Computes twice the areas of triangles in the plane; negative ones face the camera where y points down."""
    a, b, c = corners.unbind(-2)
    u, v = b - a, c - a
    return u[..., 0] * v[..., 1] - u[..., 1] * v[..., 0]
