"""Shades the vertices of a scene: occluded ambient light, a lamp with soft shadows, highlights on skin and eyes."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import grid_sample, normalize

from fmlfast.data.synthetic.random_light import LUMINANCE, Light
from fmlfast.renderer import rasterize, shade_sh

_REACH = 145.0  # mm around the head that the shadow map covers
_FAR = 4000.0  # mm to its camera
_BIAS = 2.5  # mm along the normal that a point moves before it is looked up, against shadows of its own surface
_TAPS = 4
_BLOOD_SHADE = (1.1, 1.35, 1.45)  # light between skin and skin is red: powers of the occlusion


@dataclass(frozen=True)
class Gloss:
    """How the face's vertices reflect like a mirror."""

    strength: Tensor  # [V] reflectance at normal incidence
    exponent: Tensor  # [V] of the Blinn-Phong lobe


def cast_shadow(
    light: Light,
    casters: Tensor,  # [M, C, 3]
    triangles: Tensor,  # [T, 3]
    points: Tensor,  # [M, P, 3]
    normals: Tensor,  # [M, P, 3]
    center: Tensor,  # [M, 3]
    side: int,
) -> Tensor:  # [M, P]
    """Computes the share of the lamp's light that reaches points, by a shadow map; all in camera space, mm.

    The map is `side` pixels wide, spans the head around `center`, and is read at several places around each point
    (percentage-closer filtering, Reeves et al. 1987), farther apart for wider lamps.
    """
    back = torch.from_numpy(-light.toward).float()
    helper = torch.tensor([0.0, 1.0, 0.0] if abs(float(back[1])) < 0.9 else [1.0, 0.0, 0.0])
    right = normalize(torch.linalg.cross(helper, back), dim=0)
    turn = torch.stack([right, torch.linalg.cross(back, right), back])  # [3, 3]

    def turned(x: Tensor) -> Tensor:
        return ((x - center[:, None]).reshape(-1, 3) @ turn.T).view(x.shape)

    seen = turned(casters) + torch.tensor([0.0, 0.0, _FAR])
    focal = 0.5 * side * _FAR / _REACH
    K = torch.tensor([[focal, 0.0, side / 2], [0.0, focal, side / 2], [0.0, 0.0, 1.0]])
    depth = rasterize(
        seen, triangles, K.expand(len(seen), 3, 3).contiguous(), side, side, cull_backfaces=True
    ).depth  # [M, S, S]
    places = turned(torch.add(points, normals, alpha=_BIAS))  # [M, P, 3]
    nearest = depth.clamp(max=2.0 * _FAR)[:, None] - _FAR
    lit = torch.zeros(places.shape[:2])
    radius, ramp = 1.0 + 12.0 * light.width, 1.5 + 5.0 * light.width  # mm
    for tap in range(_TAPS):
        angle, out = 2.4 * tap, radius * (tap / (_TAPS - 1)) ** 0.5
        shift = torch.tensor([out * np.cos(angle), out * np.sin(angle)]).float()
        at = (places[..., :2] + shift)[:, None] / _REACH
        before = grid_sample(nearest, at, padding_mode="border", align_corners=False)[:, 0, 0]
        lit += ((before - places[..., 2]) / ramp + 1.0).clamp(0.0, 1.0)
    return lit / _TAPS


def lambert(
    light: Light,
    normals: Tensor,  # [M, N, 3]
    occlusion: Tensor,  # [N]
    shadow: Tensor,  # [M, N]
) -> tuple[Tensor, Tensor]:
    """Computes the ambient light and the lamp's that surfaces get, [M, N, 3] and [M, N] (of the lamp's colour)."""
    open_sky = occlusion[:, None] ** torch.tensor(_BLOOD_SHADE)  # [N, 3]
    ambient = torch.from_numpy(light.ambient.astype(np.float32)).expand(len(normals), 9, 3)
    around = shade_sh(open_sky[None], normals, ambient)
    cosine = normals @ torch.from_numpy(light.toward).float()
    rising = (cosine + light.width).clamp(0.0, 2.0 * light.width) ** 2 / (4.0 * light.width)
    return around, torch.where(cosine > light.width, cosine, rising) * shadow


def highlights(
    light: Light,
    gloss: Gloss,
    points: Tensor,  # [M, V, 3]
    normals: Tensor,  # [M, V, 3]
    around: Tensor,  # [M, V, 3]
    lamp: Tensor,  # [M, V]
) -> Tensor:  # [M, V]
    """Computes the luminance of mirrored light: the lamp's Blinn-Phong lobe, and the surroundings at grazing angles.

    around, lamp: from `lambert`. Fresnel by Schlick's formula. It does not depend on albedo.
    """
    toward = torch.from_numpy(light.toward).float()
    far = points.square().sum(dim=-1).sqrt()
    to_camera = -(normals * points).sum(dim=-1) / far  # cosines with the normal
    to_lamp = normals @ toward
    between = (2.0 - 2.0 * (points @ toward) / far).clamp(min=1e-6).sqrt()  # length of both unit directions' sum
    cosine = ((to_lamp + to_camera) / between).clamp(min=1e-4)  # of the half vector with the normal
    fresnel = gloss.strength * (1.0 + 20.0 * (1.0 - 0.5 * between).clamp(min=0.0) ** 5)
    lobe = (gloss.exponent + 8.0) / 8.0 * torch.exp(gloss.exponent * torch.log(cosine))
    grazing = (1.0 - to_camera.clamp(0.0, 1.0)) ** 5
    colors = torch.from_numpy(LUMINANCE).float()
    power = float(light.key @ LUMINANCE)
    return fresnel * lobe * lamp * power + gloss.strength * (0.3 + 8.0 * grazing) * (around @ colors)
