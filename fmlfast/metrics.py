"""Computes errors of a reconstruction, by pure functions of tensors in float64.

Geometry is compared after a similarity alignment over the weighted region, so that the unobservable scale and the free
choice of the model's frame (its gauge) do not count.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from fmlfast.ibug68 import LANDMARKS_66, OUTER_EYES
from fmlfast.template.face_template import FaceTemplate


@dataclass(frozen=True)
class Similarity:
    """Similarities x -> scale * rotation @ x + translation: scale [N], rotation [N,3,3], translation [N,3]."""

    scale: Tensor
    rotation: Tensor
    translation: Tensor

    def apply(self, points: Tensor) -> Tensor:
        """Transforms points [N,V,3] to float64."""
        turned = points.double() @ self.rotation.mT
        return self.scale[:, None, None] * turned + self.translation[:, None]


def _weights(weights: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Normalises weights [V] or [N,V] to float64 of `shape`, each row summing to 1."""
    weights = weights.double()
    if weights.shape[-1:] != shape[-1:] or weights.ndim > len(shape):
        raise ValueError(f"weights have shape {tuple(weights.shape)}; they must broadcast to {shape}")
    if not bool((weights >= 0).all()):
        raise ValueError("weights must be numbers of at least 0")
    weights = weights.expand(shape)
    total = weights.sum(dim=-1, keepdim=True)
    if not bool((total > 0).all()):
        raise ValueError("weights are all zero: the region is empty")
    return weights / total


def _pair(source: Tensor, target: Tensor, last: int) -> tuple[Tensor, Tensor]:
    """Checks both and converts them to float64 [N,V,last]."""
    if source.shape != target.shape or source.ndim != 3 or source.shape[-1] != last:
        raise ValueError(f"need two [N,V,{last}] tensors, got {tuple(source.shape)} and {tuple(target.shape)}")
    source, target = source.double(), target.double()
    if not bool(torch.isfinite(source.sum() + target.sum())):
        raise ValueError("points must be finite")
    return source, target


def similarity_align(source: Tensor, target: Tensor, weights: Tensor, scaled: bool = True) -> Similarity:
    """Fits the weighted least-squares similarity from each source to its target (Umeyama).

    source, target [N,V,3] any unit; weights [V] or [N,V], at least 0. Reflections are excluded. A source without
    extent is moved only, and with `scaled` False none changes its size. Source: Umeyama, PAMI 13(4), 1991, eqs. 40-42.
    Raises ValueError for other shapes, non-finite points and empty regions.
    """
    source, target = _pair(source, target, 3)
    w = _weights(weights, source.shape[:2])  # [N,V]
    source_mean, target_mean = (torch.einsum("nv,nvc->nc", w, x) for x in (source, target))  # [N,3]
    s = source - source_mean[:, None]
    weighted = w[..., None] * s
    u, singular, vh = torch.linalg.svd((target - target_mean[:, None]).mT @ weighted)
    sign = torch.ones_like(singular)
    sign[:, 2] = torch.sign(torch.linalg.det(u @ vh))  # the closest rotation, never a mirror image
    rotation = u @ (sign[..., None] * vh)
    variance = (weighted * s).sum((1, 2))
    extent = variance > 1e-24 * (1 + source_mean.square().sum(-1))  # rounding of a single point is no extent
    ratio = (singular * sign).sum(-1) / variance.clamp(min=1e-300)
    scale = torch.where(extent, ratio, 1.0) if scaled else torch.ones_like(variance)
    translation = target_mean - scale[:, None] * (rotation @ source_mean[..., None])[..., 0]
    return Similarity(scale, rotation, translation)


def weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """Averages values [N,V] over the last axis with weights [V] or [N,V] -> [N] float64."""
    return (values.double() * _weights(weights, values.shape)).sum(-1)


def vertex_distances(source: Tensor, target: Tensor, weights: Tensor) -> tuple[Tensor, Similarity]:
    """Computes the distance of every vertex after similarity alignment over the weighted region.

    source, target [N,V,3]; weights [V] or [N,V]. Returns distances [N,V] in the target's unit, and the alignment.
    """
    alignment = similarity_align(source, target, weights)
    return torch.linalg.vector_norm(alignment.apply(source) - target.double(), dim=-1), alignment


def vertex_error(source: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Computes the mean distance over the weighted region after similarity alignment: [N], in the target's unit (mm).

    source, target [N,V,3]; weights [V] or [N,V].
    """
    return weighted_mean(vertex_distances(source, target, weights)[0], weights)


def normal_error(source: Tensor, target: Tensor, rotation: Tensor, weights: Tensor) -> Tensor:
    """Computes the mean angle in degrees between unit normals: [N].

    source, target [N,V,3] normals; rotation [N,3,3] of the source's alignment, applied to its normals first; weights
    [V] or [N,V].
    """
    source, target = _pair(source, target, 3)
    source = source @ rotation.double().mT
    sine = torch.linalg.vector_norm(torch.linalg.cross(source, target), dim=-1)
    angle = torch.atan2(sine, (source * target).sum(-1))  # exact near 0, where acos is not
    return torch.rad2deg(weighted_mean(angle, weights))


def landmark_nme(predicted: Tensor, target: Tensor, confidence: Tensor | None = None) -> Tensor:
    """Computes the mean landmark distance in % of the target's outer-eye distance (points 36 and 45): [N].

    predicted, target [N,68,2] pixels in iBUG order; the mean runs over 66 points, the jaw line 0..16 included and the
    inner mouth corners 60 and 64 left out. confidence [N,68] weights the mean (all ones where None).
    """
    if predicted.shape[1:] != (68, 2):
        raise ValueError(f"landmarks must be [N,68,2], got {tuple(predicted.shape)}")
    predicted, target = _pair(predicted, target, 2)
    used = list(LANDMARKS_66)
    distance = torch.linalg.vector_norm(predicted - target, dim=-1)[:, used]
    eyes = torch.linalg.vector_norm(target[:, OUTER_EYES[0]] - target[:, OUTER_EYES[1]], dim=-1)
    if not bool((eyes > 0).all()):
        raise ValueError("the outer eye corners of a target coincide")
    weights = torch.ones_like(distance) if confidence is None else confidence[:, used]
    return 100.0 * weighted_mean(distance, weights) / eyes


def photometric_error(image: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Computes the mean absolute sRGB difference over masked pixels and channels, in grey levels 0..255: [N].

    image, target [N,H,W,3] sRGB in [0,1]; mask [N,H,W] bool, the pixels where the face was rendered. A frame without
    any has error 255, since its face was rendered outside the image.
    """
    if image.shape != target.shape or image.ndim != 4 or mask.shape != image.shape[:3]:
        raise ValueError(f"shapes do not agree: {tuple(image.shape)}, {tuple(target.shape)}, {tuple(mask.shape)}")
    difference = (image - target).abs().mean(-1, dtype=torch.float64) * mask
    pixels = mask.sum((1, 2))
    return torch.where(pixels > 0, 255.0 * difference.sum((1, 2)) / pixels.clamp(min=1), 255.0)


def tone_error(reflectance: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Computes the error of the logarithm of the region's mean colour, root mean square over channels: [N].

    reflectance, target [N,V,3] linear RGB; weights [V] or [N,V].
    """
    reflectance, target = _pair(reflectance, target, 3)
    w = _weights(weights, target.shape[:2])
    mean, wanted = (torch.einsum("nv,nvc->nc", w, x).clamp(min=1e-6) for x in (reflectance, target))
    return (mean / wanted).log().square().mean(-1).sqrt()


def pattern_error(reflectance: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Computes the error of reflectance after the best gain of each channel, root mean square over the region: [N].

    reflectance, target [N,V,3] linear RGB; weights [V] or [N,V]. The gain leaves skin tone and light out.
    """
    reflectance, target = _pair(reflectance, target, 3)
    w = _weights(weights, target.shape[:2])[..., None]
    gain = (w * reflectance * target).sum(1) / (w * reflectance.square()).sum(1).clamp(min=1e-12)
    return (w * (gain[:, None] * reflectance - target).square()).sum(1).mean(-1).sqrt()


def rotation_error(predicted: Tensor, target: Tensor, gauge: Tensor) -> Tensor:
    """Computes the angle in degrees between head rotations: [N].

    predicted, target [N,3,3] model to camera; gauge [N,3,3] is the rotation of the alignment of the predicted geometry
    to the true one: it cancels a rotation of the model's frame against the truth's.
    """
    chord = torch.linalg.matrix_norm(predicted.double() - target.double() @ gauge.double())
    return torch.rad2deg(2.0 * torch.asin((chord / 8.0**0.5).clamp(max=1.0)))


def cumulative_shares(errors: Tensor, limits: Tensor) -> Tensor:
    """Computes the cumulative error curve: the share of errors [N] up to each of limits [L] -> [L] float64."""
    if errors.numel() == 0 or bool(errors.isnan().any()):
        raise ValueError("a cumulative curve needs at least one error, and numbers only")
    ordered = errors.double().flatten().sort().values
    return torch.searchsorted(ordered, limits.double().contiguous(), right=True).double() / len(ordered)


def skinning_floor(
    template: FaceTemplate, shapes: Tensor, weights: Tensor, complement: Tensor | None = None, ridge: float = 1e-4
) -> Tensor:
    """Computes the least error in mm that the deformation graph can reach for each shape: [N].

    Node displacements t are fitted to shapes [N,V,3] (neutral, on the template's mesh, aligned to it first) through
    translation-only skinning: min_t sum_v w_v |v_bar + (S t)_v - x_v|^2 / sum w + ridge / G |t|^2. With an orthonormal
    `complement` Q [3G,r] the fit is held to Q^T t = 0, as the model's orthogonal complement holds its identity basis
    (FML, identity model). weights [V] is the region that is fitted and measured.
    """
    mean = template.vertices.double()
    vertices, nodes = len(mean), len(template.nodes)
    target = similarity_align(shapes, mean.expand_as(shapes), weights).apply(shapes)
    w = _weights(weights, (vertices,))
    columns, skin = template.skin_indices.long(), template.skin_weights.double()  # [V,K]
    rows = torch.arange(vertices)[:, None].expand_as(columns)
    skinning = torch.sparse_coo_tensor(
        torch.stack([rows, columns]).flatten(1), skin.flatten(), (vertices, nodes), check_invariants=True
    )
    pairs = columns[:, :, None] * nodes + columns[:, None, :]  # [V,K,K]
    products = w[:, None, None] * skin[:, :, None] * skin[:, None, :]
    gram = torch.zeros(nodes * nodes, dtype=torch.float64).index_add_(0, pairs.flatten(), products.flatten())
    gram = gram.view(nodes, nodes) + ridge / nodes * torch.eye(nodes, dtype=torch.float64)
    factor = torch.linalg.cholesky(gram)
    residual = (w[:, None, None] * (target - mean).transpose(0, 1)).flatten(1)  # [V,3N]
    moved = torch.cholesky_solve(skinning.mT @ residual, factor).view(nodes, -1, 3)  # [G,N,3]
    if complement is not None:
        q = complement.double()
        flat = moved.transpose(0, 1).reshape(-1, 3 * nodes)  # [N,3G]
        lifted = torch.cholesky_solve(q.reshape(nodes, -1), factor).reshape(q.shape)  # A^-1 Q, with A = gram x I_3
        multipliers = torch.linalg.solve(q.mT @ lifted, (flat @ q).mT)  # [r,N], of the constraint Q^T t = 0
        flat = flat - multipliers.mT @ lifted.mT
        moved = flat.view(-1, nodes, 3).transpose(0, 1)
    fitted = mean + (skinning @ moved.flatten(1)).view(vertices, -1, 3).transpose(0, 1)
    return vertex_error(fitted, shapes, weights)
