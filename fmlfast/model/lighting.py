"""Fits spherical harmonics light to an image by robust least squares, given geometry and reflectance."""

import torch
from torch import Tensor

from fmlfast.camera import project
from fmlfast.common.tensors import constant
from fmlfast.kernels.photometric import sample_bilinear
from fmlfast.kernels.shading import sh_basis
from fmlfast.template.face_template import FaceTemplate

_ENOUGH = 700  # vertices; more do not improve the estimate of 27 numbers
_START = 0.75  # quantile of the colour's ratio to the reflectance: what is dark is rather hair or glasses than light
_EVERY = 4  # of the vertices for the quantile, because sorting takes time
_OUTLIER = 0.25  # of a skin's mean colour, scale of the robust weights: hair, hands, highlights
_ROUNDS = 3
_DAMPING = (2.5e-4, 5e-3, 5e-3, 5e-3, 1e-2, 1e-2, 1e-2, 1e-2, 1e-2)  # a face shows less than half of the sphere
_UNSTEADY = ("eyes", "lids", "brows")  # glasses, gaze and hair make them bad witnesses of the light
_UNSTEADY_WEIGHT = 0.2
_AMONG_TEETH = 0.6  # share of the light lost in hollows that white teeth throw on
_AMBIENT = 0.5  # share of the light that comes from all sides; lamps have shadows, which this does not know


def light_weights(template: FaceTemplate) -> Tensor:  # [V]
    """Computes the weights of vertices in the light's fit: their surface area, of mean 1, less around the eyes."""
    area = template.vertex_areas
    unsteady = torch.stack([template.regions[name] for name in _UNSTEADY]).amax(0)
    return (area / area.mean()).clamp(max=4.0) * (1 - (1 - _UNSTEADY_WEIGHT) * unsteady)


def ambient_factor(template: FaceTemplate) -> Tensor:  # [V]
    """Computes the factor of the light at each vertex: less in hollows, by the ambient occlusion of the mean head."""
    hidden = (1 - template.ambient_occlusion) * (1 - _AMONG_TEETH * template.regions["teeth"])
    return 1 - _AMBIENT * hidden


@torch.no_grad()
def fit_light(
    sampled: Tensor,  # [F, V, 3] linear RGB of the image
    reflectance: Tensor,  # [F, V, 3] linear RGB
    normals: Tensor,  # [F, V, 3] unit, camera frame
    weights: Tensor,  # [F, V], 0 where hidden
) -> Tensor:  # [F, 9, 3]
    """Solves c = r * (H(n) gamma) for the light gamma by robust least squares (IRLS).

    c: sampled colour, r: reflectance, H: spherical harmonics, n: normal. Weights are Geman-McClure's, of residuals in
    units of the mean skin under the starting light, so that neither exposure nor skin tone counts. The start is
    ambient: a quantile of c / r. The solution is damped towards it. Frames without visible vertices get no light.
    """
    basis = sh_basis(normals)  # [F, V, 9]
    products = (basis[..., None] * basis[..., None, :]).flatten(2)  # [F, V, 81]
    total = weights.sum(1)[:, None].clamp(min=1e-6)  # [F, 1]
    skin = (reflectance * weights[..., None]).sum(1) / total  # [F, 3]
    few = slice(None, None, _EVERY)
    ratio = sampled[:, few] / reflectance[:, few].clamp(min=0.02)
    ambient = _weighted_quantile(ratio, weights[:, few], _START) * (total > 1e-6)
    unit = (skin * ambient).clamp(min=1e-3)[:, None]
    light = start = torch.nn.functional.pad(ambient[..., None], (0, 8))  # [F, 3, 9]
    damping = constant(_DAMPING, light.dtype, light.device)
    for turn in range(_ROUNDS):
        outlier = _OUTLIER * (2 if turn == 0 else 1)  # ambient light is a rough start
        squared = ((reflectance * (basis @ light.mT) - sampled) / unit).square().sum(-1)  # [F, V]
        share = weights / (1 + squared / outlier**2).square()
        pull = (share / share.sum(1, keepdim=True).clamp(min=1e-6))[..., None] * reflectance  # [F, V, 3]
        system = ((pull * reflectance).mT @ products).unflatten(2, (9, 9))  # [F, 3, 9, 9]
        damped = system[..., 0, :1] * damping + 1e-9
        right = (pull * sampled).mT @ basis + damped * start
        light = torch.linalg.solve_ex(system + torch.diag_embed(damped), right[..., None])[0][..., 0]
    return light.mT.contiguous()


@torch.no_grad()
def light_from_image(
    linear: Tensor,  # [F, 3, H, W] linear RGB
    camera: Tensor,  # [F, V, 3] mm, camera frame
    Ks: Tensor,  # [F, 3, 3] px
    reflectance: Tensor,  # [B, V, 3], F a multiple of B
    normals: Tensor,  # [F, V, 3]
    visible: Tensor,  # [F, V]
    share: Tensor,  # [V], see `light_weights`
) -> Tensor:  # [F, 9, 3]
    """Samples the image at an even subset of vertices (at most 1400) and fits the light there."""
    pick = slice(None, None, max(1, camera.shape[1] // _ENOUGH))
    camera, normals = (x[:, pick].contiguous() for x in (camera, normals))
    own = reflectance[:, pick].repeat_interleave(len(camera) // len(reflectance), 0)
    return fit_light(sample_bilinear(linear, project(camera, Ks)), own, normals, (visible * share)[:, pick])


def _weighted_quantile(
    values: Tensor,  # [F, V, C]
    weights: Tensor,  # [F, V]
    quantile: float,
) -> Tensor:  # [F, C]
    """Finds the value below which the share `quantile` of the weight lies."""
    ordered, order = values.sort(1)
    below = weights[..., None].expand_as(values).gather(1, order).cumsum(1)
    index = (below < quantile * below[:, -1:]).sum(1, keepdim=True).clamp(max=values.shape[1] - 1)
    return ordered.gather(1, index)[:, 0]
