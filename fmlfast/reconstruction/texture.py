"""Bakes a base colour texture from all photos of a face, at their own resolution."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from fmlfast.color import linear_to_srgb
from fmlfast.common.tensors import exact
from fmlfast.reconstruction.texture_atlas import TextureAtlas
from fmlfast.reconstruction.texture_blend import solve_poisson
from fmlfast.reconstruction.texture_consensus import find_consensus, sample_places, upsample
from fmlfast.reconstruction.texture_samples import DARKEST, sample_photo
from fmlfast.template.face_template import FaceTemplate

SMALLEST, LARGEST = 64, 4096  # texels a side
SHARPENING = 3.0  # power of a sample's weight among photos: details come from the best, not from their blurred mean
MIRROR, MODEL = 0.25, 0.05  # weights of mirrored samples and of the model's beside the photos' of at most 1
SCREEN = 8.0  # mm up to which details are the photos' own; wider differences follow the consensus


@dataclass(frozen=True)
class Texture:
    """Base colour of a face, for the uv of its template: row (1 - v) * S, column u * S."""

    image: np.ndarray
    """[S, S, 3] uint8 sRGB, albedo; filled beyond the borders of the islands."""
    confidence: np.ndarray
    """[S, S] float32 0..1, the photos' share; the rest is from mirrored places and the model. 0 beside the islands."""


def check_size(size: int) -> None:
    """Raises ValueError for a texture's side that is no power of two from 64 to 4096 texels."""
    if not SMALLEST <= size <= LARGEST or size & (size - 1):
        raise ValueError(
            f"the texture's side must be a power of two from {SMALLEST} to {LARGEST} texels, got {size}; "
            "--texture 0 switches it off"
        )


@exact
@torch.no_grad()
def bake_texture(
    template: FaceTemplate,
    photos: Sequence[np.ndarray],  # N of [H, W, 3] uint8 sRGB
    vertices: Tensor,  # [N, V, 3]
    Ks: Tensor,  # [N, 3, 3]
    sh: Tensor,  # [N, 9, 3]
    reflectance: Tensor,  # [V, 3]
    size: int = 1024,
) -> Texture | None:
    """Bakes a texture from N photos of a person: what they show, without its light, and else the mirror or the model.

    Details come from the photos as gradients of log albedo, each weighted by view angle, visibility, sharpness and
    agreement with the other photos, its mirror image and the model; a screened Poisson equation joins them (Perez et
    al., Poisson image editing, 2003), with large-scale colours those of the consensus.

    Args:
        template: the mesh; its uv must give every surface point a texel of its own.
        photos: of any size.
        vertices: posed mesh in each photo's camera frame, mm.
        Ks: intrinsics of the photos, px.
        sh: light of each photo, spherical harmonics coefficients by channel.
        reflectance: the model's, linear, without hair or hands of these photos; it fills what no photo shows.
        size: S, texels a side, a power of two.

    Returns None where the template's uv are missing or overlap.

    Raises ValueError on no photos, numbers that disagree, or a size that is no power of two from 64 to 4096.
    """
    check_size(size)
    if not photos or not len(photos) == len(vertices) == len(Ks) == len(sh):
        raise ValueError(
            f"{len(photos)} photos, {len(vertices)} meshes, {len(Ks)} cameras and {len(sh)} lights; give one each, and "
            "at least one"
        )
    atlas = TextureAtlas.of(template, size)
    if atlas is None:
        return None
    mirror = atlas.mirror()
    model = atlas.grid(atlas.interpolate((reflectance.clamp(min=0) + DARKEST).log()))  # [3, S, S]
    ratios, weights = [], []
    for photo, points, K, light in zip(photos, vertices, Ks, sh, strict=True):
        seen = sample_photo(atlas, photo, points, K, light)
        ratios.append((seen.albedo - model) * (seen.weight > 0))
        weights.append(seen.weight)
    best = max(float(weight.max()) for weight in weights)
    weights = [weight / max(best, 1e-6) for weight in weights]  # a coarse photo is good where there is no better one
    agreed = find_consensus(atlas, ratios, weights, mirror)
    weights = [w * t for w, t in zip(weights, upsample(agreed.trust, size), strict=True)]
    ratios = [(r - g[:, None, None]) * (w > 0) for r, g, w in zip(ratios, agreed.gain, weights, strict=True)]
    own, share = _best(ratios, weights)
    sources, target = list(zip(ratios, weights, strict=True)), upsample(agreed.tone, size)
    target = torch.lerp(target, own, upsample(agreed.fine, size) * share / (share + MODEL)) - upsample(
        agreed.excess, size
    )
    if mirror is not None:
        both = sample_places(torch.cat([own, share[None]])[None], mirror)[0]
        sources.append((both[:3], MIRROR * both[3]))
    confidence = share / (share + MODEL)
    along, down = (_gradient(sources, target, axis) for axis in (2, 1))
    inside = torch.zeros(size * size, dtype=torch.bool).index_fill_(0, atlas.places, True).view(size, size)
    fine = solve_poisson(along, down, inside, (atlas.millimetres / SCREEN) ** 2)
    ratio = target + fine
    color = (model + ratio).exp() - DARKEST * ratio.exp()  # an offset that scales keeps colours above 0
    color = _fill(linear_to_srgb(color), inside)
    image = (color * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
    return Texture(image, (confidence * inside).numpy())


def _best(ratios: Sequence[Tensor], weights: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Averages samples by the power SHARPENING of their weights: [3, S, S], and the largest weight [S, S]."""
    total, count, most = torch.zeros_like(ratios[0]), torch.zeros_like(weights[0]), torch.zeros_like(weights[0])
    for ratio, weight in zip(ratios, weights, strict=True):
        total += weight**SHARPENING * ratio
        count += weight**SHARPENING
        most = torch.maximum(most, weight)
    return total / count.clamp(min=1e-12), most


def _gradient(sources: Sequence[tuple[Tensor, Tensor]], target: Tensor, axis: int) -> Tensor:
    """Averages the differences of neighbours in [3, S, S] along an axis, less those of `target`."""
    count = target.shape[axis] - 1
    base = target.diff(dim=axis)
    total, weight = torch.zeros_like(base), MODEL**SHARPENING
    for ratio, own in sources:
        pair = torch.minimum(own.narrow(axis - 1, 1, count), own.narrow(axis - 1, 0, count)) ** SHARPENING
        total += pair * (ratio.diff(dim=axis) - base)
        weight = weight + pair
    return total / weight


def _fill(image: Tensor, inside: Tensor) -> Tensor:
    """Fills [C, S, S] beside the islands with colours of the nearest texels, by averages of ever larger blocks."""
    weight = inside[None].float()
    image = image * weight
    if image.shape[-1] == 1:
        return image
    sums, counts = avg_pool2d(image, 2), avg_pool2d(weight, 2)
    coarse = _fill(sums / counts.clamp(min=1e-6), counts[0] > 0)
    wide = interpolate(coarse[None], scale_factor=2, mode="nearest")[0]
    return torch.where(inside, image, wide)
