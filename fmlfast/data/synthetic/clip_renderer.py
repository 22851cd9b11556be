"""Renders the frames of a scene: shading, rasterisation, detail of the skin, glasses, background, camera."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate as resize

from fmlfast.color import linear_to_srgb
from fmlfast.data.synthetic.background import light_backdrop, random_backdrop
from fmlfast.data.synthetic.camera_response import blur, camera_gains, sensor_noise
from fmlfast.data.synthetic.eyewear import Lenses, look_through
from fmlfast.data.synthetic.mesh_parts import Part
from fmlfast.data.synthetic.random_light import LUMINANCE, Light
from fmlfast.data.synthetic.shading import Gloss, cast_shadow, highlights, lambert
from fmlfast.data.synthetic.skin import Look
from fmlfast.data.synthetic.skin_detail import sample_map
from fmlfast.renderer import interpolate, rasterize, vertex_normals
from fmlfast.template.face_template import FaceTemplate

Array = NDArray[np.floating]

_OUTSIDE = -2.0  # coordinates in the map of detail of what is not the face
_THROUGH_LIPS = 0.45  # share of the lamp's light that reaches teeth in the shadow of lips
_DARK_MAP = 64  # px, side of a shadow map of small images


@dataclass(frozen=True)
class Scene:
    """What there is to see in a clip of M frames, in camera space, mm; N: vertices of all parts."""

    face: Tensor  # [M, V, 3]
    others: Tensor  # [M, N, 3]
    parts: list[Part]
    lenses: tuple[Lenses, Tensor] | None  # with their vertices [M, L, 3]
    look: Look
    light: Light
    drift: Array  # [M, 3] motion of the head, which moves the background, about -1..1


@dataclass(frozen=True)
class Exposure:
    """The frames of a clip, and how the camera made them."""

    images: NDArray[np.uint8]  # [M, S, S, 3] sRGB
    depth: Array  # [M, D, D] mm, at the supersampled resolution
    gains: NDArray[np.float32]  # [M, 3] of the light


class ClipRenderer:
    """Renders scenes around a template; data that depend on the template alone are computed once."""

    def __init__(
        self, template: FaceTemplate, size: int, supersample: float, places: Tensor, occlusion: Tensor
    ) -> None:
        """Keeps what all clips share.

        places [V, 2]: of the vertices in the map of detail. occlusion [V]: share of the sky that they see.
        """
        self._template, self._size, self._supersample = template, size, supersample
        self._base = FaceTemplate.default(0)
        region = template.regions
        inner = region["teeth"] + region["tongue"] + region["lashes"]
        self._places, self._occlusion = torch.where(inner[:, None] > 0.5, _OUTSIDE, places), occlusion
        hairs = (region["lashes"] > 0.5)[template.triangles.long()].all(dim=1)
        self._lash_backs = template.triangles[hairs].flip(1)
        x, y = template.vertices[:, 0], template.vertices[:, 1]
        marks = template.landmarks(template.vertices)
        nose = torch.exp(-(((template.vertices - marks[30]) / 16.0) ** 2).sum(dim=1))
        middle = torch.exp(-((x / 26.0) ** 2)) * torch.sigmoid((y - marks[30, 1]) / 8.0)  # forehead and nose
        self._oily = region["skin"] * (0.35 + 0.65 * torch.maximum(middle, nose)) * (1.0 - region["lids"] * 0.5)
        self._moist = region["lips"] + region["teeth"] + region["tongue"]
        self._eyes, self._teeth = region["eyes"], region["teeth"]

    def draw(self, rng: np.random.Generator, scene: Scene, Ks: Tensor) -> Exposure:
        """Renders the frames; Ks [M, 3, 3]: intrinsics of the crops, px."""
        size = self._size
        side = round(size * self._supersample)
        layers, depth = self._layers(rng, scene, Ks * torch.tensor([side / size, side / size, 1.0])[:, None], side)
        if side != size:
            layers = resize(layers, size=(size, size), mode="bilinear", antialias=True)
        drawn = layers.movedim(1, -1).numpy()  # color, coverage, skin of the face
        facing = scene.light.facing
        canvas = light_backdrop(rng, random_backdrop(rng, size + size // 2), facing)
        corners = np.clip(size // 4 * (1.0 + scene.drift[:, :2]), 0, size // 2).astype(int)
        views = np.stack([canvas[y : y + size, x : x + size] for x, y in corners])
        linear = drawn[..., :3] + (1.0 - drawn[..., 3:4]) * views
        gains = camera_gains(rng, linear, drawn[..., 4] > 0.9, facing)
        linear = linear * gains[:, None, None]
        if rng.random() < 0.5:
            linear = blur(linear, rng.uniform(0.35, 0.75) * size / 128)
        linear = sensor_noise(rng, linear, rng.uniform(0.05, 1.0) ** 2)
        encoded = linear_to_srgb(torch.from_numpy(linear)) * 255.0
        return Exposure(encoded.round().to(torch.uint8).numpy(), depth.numpy(), gains)

    def _layers(self, rng: np.random.Generator, scene: Scene, Ks: Tensor, side: int) -> tuple[Tensor, Tensor]:
        """Renders scene-linear colour, coverage and the face's share [M, 5, D, D], and depth [M, D, D]."""
        count = scene.face.shape[1]
        vertices = torch.cat([scene.face, scene.others], dim=1)
        starts = np.cumsum([count, *(len(part.vertices) for part in scene.parts)])
        meshes = [torch.from_numpy(p.triangles) + int(start) for p, start in zip(scene.parts, starts, strict=False)]
        triangles = torch.cat([self._template.triangles, *meshes])
        normals = vertex_normals(vertices, triangles)
        colors = self._shade(rng, scene, vertices, normals, meshes)
        triangles = torch.cat([triangles, self._lash_backs])
        facing = ~((normals * vertices).sum(dim=-1) > 0).all(dim=0)  # [V + N] towards the camera in some frame
        facing[self._lash_backs.long()] = True
        for part, start in zip(scene.parts, starts, strict=False):
            if part.sheet:
                facing[start : start + len(part.vertices)] = True
        seen = triangles[facing[triangles.long()].any(dim=1)]  # skips triangles that are back faces in all frames
        sheets = any(part.sheet for part in scene.parts)
        fragments = rasterize(vertices, seen, Ks, side, side, cull_backfaces=not sheets)
        shown = interpolate(colors, seen, fragments)
        covered = fragments.triangle_id[..., None] >= 0
        places = shown[..., 4:]
        detail = sample_map(torch.from_numpy(scene.look.detail).movedim(-1, 0)[None], places)
        face = (places[..., :1] > -1.5) & covered
        shine = torch.from_numpy(scene.light.facing / (scene.light.facing @ LUMINANCE)).float()
        image = shown[..., :3] * torch.where(face, detail, 1.0) + shown[..., 3:4] * shine
        if scene.lenses is not None:
            image = look_through(image, fragments.depth, *scene.lenses, scene.light, Ks)
        return torch.cat([image, covered.float(), face.float()], dim=-1).movedim(-1, 1), fragments.depth

    def _shade(
        self, rng: np.random.Generator, scene: Scene, vertices: Tensor, normals: Tensor, meshes: list[Tensor]
    ) -> Tensor:
        """Computes what vertices show [M, V + N, 6]: lit albedo, highlights, place in the map of detail."""
        count, light = scene.face.shape[1], scene.light
        occlusion = [self._occlusion, *(_values(part.occlusion, part) for part in scene.parts)]
        shadow = torch.ones(vertices.shape[:2])
        if light.key.any():
            bare = len(self._base.vertices)
            casters = torch.cat([scene.face[:, :bare], scene.others], dim=1)
            triangles = torch.cat(
                [
                    self._base.triangles,
                    *(mesh - count + bare for mesh, part in zip(meshes, scene.parts, strict=True) if part.casts),
                ]
            )
            upon = torch.cat([normals[:, :bare], normals[:, count:]], dim=1) @ torch.from_numpy(light.toward).float()
            lit = ~(upon < 0).all(dim=0)  # in some frame; surfaces are closed, so these cast all shadows
            triangles = triangles[lit[triangles.long()].any(dim=1)]
            center, side = scene.face.mean(dim=1), round(_DARK_MAP * max(1.0, self._size / 128))
            shadow = cast_shadow(light, casters, triangles, vertices, normals, center, side)
            shadow[:, :count] += _THROUGH_LIPS * self._teeth * (1.0 - shadow[:, :count])
        around, lamp = lambert(light, normals, torch.cat(occlusion), shadow)
        albedo = np.concatenate([scene.look.smooth, *(part.colors for part in scene.parts)]).astype(np.float32)
        lit = torch.from_numpy(albedo) * (around + lamp[..., None] * torch.from_numpy(light.key).float())
        shine = torch.zeros(*vertices.shape[:2], 1)
        gloss = self._gloss(rng)
        shine[:, :count, 0] = highlights(
            light, gloss, scene.face, normals[:, :count], around[:, :count], lamp[:, :count]
        )
        places = torch.full((*vertices.shape[:2], 2), _OUTSIDE)
        places[:, :count] = self._places
        return torch.cat([lit, shine, places], dim=-1)

    def _gloss(self, rng: np.random.Generator) -> Gloss:
        """Draws how oily the skin is and how moist the lips are."""
        oil, wet = rng.uniform(0.2, 1.5), rng.uniform(0.3, 1.5)
        grain = torch.from_numpy(np.exp(rng.normal(0.0, 0.2, len(self._oily))).astype(np.float32))
        strength = 0.028 * (oil * self._oily * grain + wet * self._moist)
        strength = strength + self._eyes * (0.03 - strength)
        sharp = rng.uniform(10.0, 35.0)
        exponent = sharp + self._moist * (45.0 - sharp)
        return Gloss(strength, exponent + self._eyes * (350.0 - exponent))


def _values(occlusion: Array | float, part: Part) -> Tensor:
    return torch.from_numpy(np.broadcast_to(np.float32(occlusion), len(part.vertices)).copy())
