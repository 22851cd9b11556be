"""Samples a photo at the texels of an atlas: albedo without the fitted light, and the weight of each sample."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import avg_pool2d, grid_sample, max_pool2d, normalize

from fmlfast.camera import project
from fmlfast.color import srgb_to_linear
from fmlfast.model.lighting import ambient_factor
from fmlfast.reconstruction.texture_atlas import TextureAtlas
from fmlfast.renderer import rasterize, sh_basis, vertex_normals, vertex_visibility
from fmlfast.template.regions import smoothstep

DARKEST = 0.005  # added to linear colours before the logarithm: 8 bits tell less about darker ones
GRAZING = 0.15, 0.5  # cosine of the view angle from which samples count, and from which fully
JUMP = 12.0  # mm of depth between neighbouring pixels that make an outline
MARGIN = 4.0  # mm around outlines where the fit may be off
SHADE = 0.08, 0.35  # of the photo's median shading: darker places tell little about albedo
CLIPPED = 0.92, 0.99  # sRGB from which a channel may be saturated, and is


@dataclass(frozen=True)
class TexelSamples:
    """What one photo shows of the texels."""

    albedo: Tensor
    """[3, S, S] log(linear albedo + DARKEST); 0 where nothing is seen."""
    weight: Tensor
    """[S, S] 0..1, by visibility, view angle, sharpness, outlines, shading and saturation."""


def sample_photo(
    atlas: TextureAtlas,
    photo: np.ndarray,  # [H, W, 3] uint8 sRGB
    vertices: Tensor,  # [V, 3] mm, camera frame
    K: Tensor,  # [3, 3] px
    sh: Tensor,  # [9, 3]
) -> TexelSamples:
    """Samples albedo at every texel that the photo shows.

    A photo finer than the texture is averaged down to it first; the light is divided out in linear colours.
    """
    normals = vertex_normals(vertices[None], atlas.template.triangles)[0]
    texels = atlas.facing(vertices)
    ambient = ambient_factor(atlas.template)[:, None]
    fields = atlas.interpolate(torch.cat([vertices, normals, ambient], 1), texels)
    points, normals, ambient = fields[:, :3].contiguous(), normalize(fields[:, 3:6], dim=1), fields[:, 6:]
    image, K = _at_texel_size(photo, project(vertices[None], K[None])[0], K, _pixels(points, K) * atlas.millimetres)
    height, width = image.shape[1:]
    depth = rasterize(vertices[None], atlas.template.triangles, K[None], height, width).depth
    visible = vertex_visibility(points[None], normals[None].contiguous(), K[None], depth)[0].nonzero()[:, 0]
    points, normals, ambient, texels = points[visible], normals[visible], ambient[visible], texels[visible]

    pixel = project(points[None], K[None])[0]
    place = (2 * pixel / pixel.new_tensor([width, height]) - 1)[None, None]
    per_mm = _pixels(points, K)
    outlines = _outlines(depth[0], per_mm)
    clipped = smoothstep(image.amax(0, keepdim=True), *CLIPPED)
    layers = torch.cat([srgb_to_linear(image), clipped, outlines[None]])
    seen = grid_sample(layers[None], place, align_corners=False, padding_mode="border")[0, :, 0].T  # [N, 5]
    shading = ambient * (sh_basis(normals) @ sh)
    usual = shading.median(0).values.clamp(min=1e-3) if len(shading) else shading.new_ones(3)
    bright = (shading / usual).amin(1)
    cosine = -(normals * normalize(points, dim=1)).sum(1)
    sharpness = (per_mm * atlas.millimetres).clamp(max=1.0) ** 2
    weight = smoothstep(cosine, *GRAZING) * cosine.clamp(min=0) * sharpness
    weight = weight * smoothstep(bright, *SHADE) * (1 - seen[:, 3]) * (1 - seen[:, 4])
    albedo = seen[:, :3] / torch.maximum(shading, SHADE[0] * usual)
    inside = ((pixel > 1) & (pixel < pixel.new_tensor([width - 1, height - 1]))).all(1)
    values = torch.cat([(albedo + DARKEST).log(), (weight * inside)[:, None]], 1)
    grid = atlas.grid(values, texels)
    return TexelSamples(grid[:3], grid[3])


def _pixels(points: Tensor, K: Tensor) -> Tensor:
    """Computes how many pixels a millimetre has at points in the camera frame, [N]."""
    return (K[0, 0] * K[1, 1]).sqrt() / points[:, 2].clamp(min=1.0)


def _at_texel_size(
    photo: np.ndarray,
    projected: Tensor,  # [V, 2] px
    K: Tensor,
    pixels: Tensor,  # [N] per texel
) -> tuple[Tensor, Tensor]:
    """Crops the photo to the face and averages it to at most a pixel per texel: sRGB [3, h, w] in [0, 1], and its K."""
    height, width = photo.shape[:2]
    low = projected.amin(0).floor().clamp(min=0)
    high = torch.minimum(projected.amax(0).ceil(), projected.new_tensor([width, height]))
    left, top, right, bottom = (int(x) for x in (*low.tolist(), *high.tolist()))
    left, top = min(left, width - 2), min(top, height - 2)
    right, bottom = max(right, left + 2), max(bottom, top + 2)
    factor = max(1.0, float(pixels.median())) if len(pixels) else 1.0
    size = (max(2, round((right - left) / factor)), max(2, round((bottom - top) / factor)))
    picture = Image.fromarray(photo[top:bottom, left:right])
    if factor > 1.0:
        picture = picture.resize(size, Image.Resampling.BOX)
    scale = K.new_tensor([picture.width / (right - left), picture.height / (bottom - top)])
    moved = K.clone()
    moved[:2, 2] -= K.new_tensor([left, top])
    moved[:2] *= scale[:, None]
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255, moved


def _outlines(depth: Tensor, per_mm: Tensor) -> Tensor:
    """Computes nearness to outlines, where near and far parts meet in the picture, [H, W] 0..1."""
    far = 1e5
    depth = depth.clamp(max=far)[None]
    jump = max_pool2d(depth, 3, 1, 1) + max_pool2d(-depth, 3, 1, 1) > JUMP
    reach = max(1, math.ceil(MARGIN / 2 * float(per_mm.median()))) if len(per_mm) else 1
    edge = max_pool2d(jump.float(), 2 * reach + 1, 1, reach)
    return avg_pool2d(edge, 2 * reach + 1, 1, reach, count_include_pad=False)[0]
