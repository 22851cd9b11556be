"""Draws tracked heads over video frames, as grey geometry and under a standard light, fast enough for video."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from fmlfast.camera import project
from fmlfast.color import linear_to_srgb, srgb_to_linear
from fmlfast.model.lighting import ambient_factor
from fmlfast.reconstruction.head import Head
from fmlfast.renderer import Fragments, interpolate, rasterize, sh_basis, vertex_normals
from fmlfast.visualization.appearance import Albedo, doubled_areas, irradiance, standard_light
from fmlfast.visualization.overlay import face_opacity
from fmlfast.visualization.panels import PAPER, clay_shading

_BYTES = (linear_to_srgb(torch.linspace(0, 1, 4096)) * 255).round().to(torch.uint8)
_LINEAR = srgb_to_linear(torch.arange(256) / 255)
_SAME_SCALE = 0.05  # relative change of the head's size up to which a mip level is kept
_WHOLE = 1e-3  # of a pixel's coverage, rounding
NEAR = 10.0  # mm; a head nearer to the camera is not drawn


@dataclass(frozen=True)
class Poses:
    """A head in T frames."""

    expression: Tensor  # [T, E]
    rotation: Tensor  # [T, 3, 3]
    translation: Tensor  # [T, 3] mm
    sh: Tensor  # [T, 9, 3]


Kind = Literal["overlay", "clay", "relit"]
"""The face under the frame's light, fading at its edges; grey geometry; the head under the standard light."""
KINDS: tuple[Kind, ...] = ("overlay", "clay", "relit")


@dataclass(frozen=True)
class Layer:
    """One head drawn in a window of the frame, whose rows and columns begin at `top` and `left`."""

    left: int
    top: int
    pictures: dict[Kind, Tensor]  # [h, w, 3 + 1], or [h, w, 1 + 1] if grey: linear colours times opacity, and opacity
    depth: float  # mm


class HeadDrawer:
    """Draws one person's head; what does not change from frame to frame is computed once."""

    def __init__(self, head: Head) -> None:
        """Prepares the drawing of `head`, on any level of its template; without lashes, which would flicker."""
        self.head, template = head, head.template
        self._opacity, self._ambient = face_opacity(template), ambient_factor(template)
        self._albedo, self._level, self._seen_at = head.albedo(), head.albedo(), 0.0
        corners = template.triangles.long()
        whole = template.triangles[~(template.regions["lashes"][corners] > 0.5).any(1)]
        self._whole = whole, torch.ones(len(template.vertices), dtype=torch.bool)
        face = whole[(self._opacity[whole.long()] > 0).any(1)]
        self._face = face, torch.zeros_like(self._whole[1]).index_fill_(0, face.long().unique(), True)

    def draw(self, poses: Poses, K: Tensor, width: int, height: int, kinds: Sequence[Kind]) -> list[Layer | None]:
        """Draws the head in successive frames of `width` x `height` px; K [3, 3] px. None where it is out of sight.

        Frames are drawn together in a window that holds them all, which spares many small operations.
        """
        triangles, used = self._face if tuple(kinds) == ("overlay",) else self._whole
        vertices = self.head.posed(poses.expression) @ poses.rotation.mT + poses.translation[:, None]
        ahead = vertices[..., 2].amin(1) > NEAR  # [T]
        points = project(vertices, K.expand(len(vertices), 3, 3))
        within = points[:, used][ahead].flatten(0, 1)
        if not len(within):
            return [None] * len(vertices)
        low, high = within.amin(0).floor().int().tolist(), within.amax(0).ceil().int().tolist()
        left, top, right, bottom = max(0, low[0]), max(0, low[1]), min(width, high[0]), min(height, high[1])
        if left >= right or top >= bottom:
            return [None] * len(vertices)
        vertices = torch.where(ahead[:, None, None], vertices, torch.nan)  # which the rasterizer leaves out
        facing = doubled_areas(points[ahead][:, triangles.long()]) < 0  # [T, N]
        albedo = self._at_distance(float(K[0, 0] / poses.translation[0, 2]), points[ahead][0])
        moved = K.clone()
        moved[:2, 2] -= K.new_tensor([left, top])
        pictures = self._pictures(
            poses, vertices, triangles[facing.any(0)], albedo, moved, bottom - top, right - left, kinds
        )
        depths = vertices[..., 2].median(1).values
        return [
            Layer(left, top, {kind: drawn[i] for kind, drawn in pictures.items()}, float(depths[i])) if seen else None
            for i, seen in enumerate(ahead.tolist())
        ]

    def _pictures(
        self,
        poses: Poses,
        vertices: Tensor,  # [T, V, 3] mm, camera frame
        triangles: Tensor,  # [N, 3]
        albedo: Albedo,
        K: Tensor,  # [3, 3] px of the window
        height: int,
        width: int,
        kinds: Sequence[Kind],
    ) -> dict[Kind, Tensor]:  # [T, h, w, C + 1] each
        """Shades at the vertices and draws all kinds at once, at covered pixels only."""
        normals = vertex_normals(vertices, self.head.template.triangles)
        basis, lights = sh_basis(normals), {"overlay": poses.sh, "relit": standard_light()[:, :1]}
        shading = [
            clay_shading(normals)[..., None]
            if kind == "clay"
            else irradiance(basis, lights[kind]) * self._ambient[:, None]
            for kind in kinds
        ]
        shared = torch.cat([self._opacity[:, None], albedo.attributes], 1).expand(len(vertices), -1, -1)
        fields = torch.cat([*shading, shared], -1).nan_to_num_()
        fragments = rasterize(vertices, triangles, K.expand(len(vertices), 3, 3).contiguous(), height, width)
        covered, values = _interpolate_covered(fields, triangles, fragments)
        *shades, opacity, places = values.split([*(part.shape[-1] for part in shading), 1, shared.shape[-1] - 1], -1)
        colors, solid, layers = albedo.lookup(places), torch.ones_like(opacity), []
        for kind, shade in zip(kinds, shades, strict=True):
            cover = opacity if kind == "overlay" else solid
            layers += [shade if kind == "clay" else (colors * shade).clamp_(0, 1) * cover, cover]
        drawn = torch.cat([*layers, solid], -1)
        pictures = drawn.new_zeros(*fragments.depth.shape, drawn.shape[-1])
        pictures.flatten(0, 2).index_copy_(0, covered, drawn)
        _soften_outlines(pictures)
        channels = [2 if kind == "clay" else 4 for kind in kinds]
        return dict(zip(kinds, pictures[..., :-1].split(channels, -1), strict=True))

    def _at_distance(self, scale: float, points: Tensor) -> Albedo:
        """Chooses the texture's mip level anew where the head has become a little larger or smaller; scale: px/mm."""
        if abs(self._seen_at / scale - 1) > _SAME_SCALE:
            self._level, self._seen_at = self._albedo.at_spacing(points, self._face[0]), scale
        return self._level


def composite(frame: np.ndarray, layers: Sequence[Layer], kind: Kind) -> np.ndarray:
    """Composites one kind of the layers' pictures over a frame [H, W, 3] uint8 sRGB, in linear light."""
    result = frame.copy()
    for layer in sorted(layers, key=lambda layer: -layer.depth):
        window = layer.pictures[kind]
        rows = slice(layer.top, layer.top + window.shape[0])
        columns = slice(layer.left, layer.left + window.shape[1])
        behind = _LINEAR.index_select(0, torch.from_numpy(result[rows, columns]).flatten().int())
        mixed = torch.addcmul(window[..., :-1], behind.view(*window.shape[:2], 3), 1 - window[..., -1:])
        steps = mixed.mul_(len(_BYTES) - 1).add_(0.5).clamp_(0, len(_BYTES) - 1).int()
        result[rows, columns] = _BYTES.index_select(0, steps.flatten()).view(steps.shape).numpy()
    return result


def _interpolate_covered(
    fields: Tensor,  # [T, V, C]
    triangles: Tensor,  # [N, 3]
    fragments: Fragments,  # [T, h, w]
) -> tuple[Tensor, Tensor]:  # [P] of T * h * w, [P, C]
    """Interpolates at the pixels that show the head, those of all frames in one list."""
    ids = fragments.triangle_id.flatten()
    covered = (ids >= 0).nonzero()[:, 0]
    frame = (covered // fragments.depth[0].numel()).int()
    ids = ids.index_select(0, covered) + frame * len(triangles)
    barycentrics = fragments.barycentrics.flatten(0, 2).index_select(0, covered)
    heads = torch.arange(len(fields))[:, None, None] * fields.shape[1]
    listed = Fragments(ids[None, None], barycentrics[None, None], fragments.depth[:0])
    return covered, interpolate(fields.flatten(0, 1)[None], (triangles + heads).flatten(0, 1), listed)[0, 0]


def _soften_outlines(
    layers: Tensor,  # [T, h, w, C] colours times coverage, coverage last
) -> None:
    """Averages the pixels on outlines with their neighbours: a tenth of the time of `antialias`, which is exact."""
    count, height, width, channels = layers.shape
    share = avg_pool2d(layers[..., -1].contiguous(), 3, 1, 1, count_include_pad=False)
    frames, rows, columns = ((share > 0) & (share < 1 - _WHOLE)).nonzero(as_tuple=True)
    flat, total = layers.view(-1, channels), layers.new_zeros(len(rows), channels)
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):  # beyond the window its last row or column again
            row, column = (rows + down).clamp(0, height - 1), (columns + right).clamp(0, width - 1)
            total += flat[(frames * height + row) * width + column]
    flat.index_copy_(0, (frames * height + rows) * width + columns, total / 9)


def paper(width: int, height: int) -> np.ndarray:
    """Returns an empty page, [height, width, 3] uint8 sRGB."""
    return np.full((height, width, 3), PAPER, np.uint8)
