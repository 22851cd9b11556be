"""Fits spherical harmonics light to an image by robust least squares, given geometry and reflectance."""

import torch
from torch import Tensor

from fmlfast.camera import project
from fmlfast.common.tensors import constant
from fmlfast.kernels.photometric import sample_bilinear
from fmlfast.kernels.shading import sh_basis

_ENOUGH = 700  # vertices; more do not improve the estimate of 27 numbers
_OUTLIER = 0.15  # colour difference, scale of the robust weights: hair, hands, highlights
_ROUNDS = 3
_DAMPING = (5e-5, 1e-3, 1e-3, 1e-3, 2e-3, 2e-3, 2e-3, 2e-3, 2e-3)  # a face shows less than half of the sphere


@torch.no_grad()
def fit_light(
    sampled: Tensor,  # [F, V, 3] linear RGB of the image
    reflectance: Tensor,  # [F, V, 3] linear RGB
    normals: Tensor,  # [F, V, 3] unit, camera frame
    weights: Tensor,  # [F, V], 0 where hidden
) -> Tensor:  # [F, 9, 3]
    """Solves c = r * (H(n) gamma) for the light gamma by robust least squares (IRLS).

    c: sampled colour, r: reflectance, H: spherical harmonics, n: normal. The solution is damped towards ambient light.
    Weights are Geman-McClure's; frames without visible vertices get no light.
    """
    basis = sh_basis(normals)  # [F, V, 9]
    products = (basis[..., None] * basis[..., None, :]).flatten(2)  # [F, V, 81]
    ambient = (sampled * weights[..., None]).sum(1) / (reflectance * weights[..., None]).sum(1).clamp(min=1e-6)
    light = start = torch.nn.functional.pad(ambient[..., None], (0, 8))  # [F, 3, 9]
    damping = constant(_DAMPING, light.dtype, light.device)
    for turn in range(_ROUNDS):
        outlier = _OUTLIER * (2 if turn == 0 else 1)  # ambient light is a rough start
        squared = (reflectance * (basis @ light.mT) - sampled).square().sum(-1)  # [F, V]
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
) -> Tensor:  # [F, 9, 3]
    """Samples the image at an even subset of vertices (at most 1400) and fits the light there."""
    pick = slice(None, None, max(1, camera.shape[1] // _ENOUGH))
    camera, normals, visible = (x[:, pick].contiguous() for x in (camera, normals, visible))
    own = reflectance[:, pick].repeat_interleave(len(camera) // len(reflectance), 0)
    return fit_light(sample_bilinear(linear, project(camera, Ks)), own, normals, visible)
