"""Draws tracked heads over video frames, as grey geometry and under a standard light, fast enough for video."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from fmlfast.camera import project
from fmlfast.color import linear_to_srgb, srgb_to_linear
from fmlfast.model.lighting import ambient_factor
from fmlfast.reconstruction.head import Head
from fmlfast.renderer import interpolate, rasterize, sh_basis, vertex_normals
from fmlfast.visualization.appearance import Albedo, standard_light
from fmlfast.visualization.overlay import face_opacity
from fmlfast.visualization.panels import PAPER, clay_shading

_BYTES = (linear_to_srgb(torch.linspace(0, 1, 4096)) * 255).round().to(torch.uint8)
_LINEAR = srgb_to_linear(torch.arange(256) / 255)
_SAME_SCALE = 0.05
_WHOLE = 1e-3  # of a pixel's coverage, rounding
NEAR = 10.0  # mm; a head nearer to the camera is not drawn


@dataclass(frozen=True)
class Pose:
    """A head in one frame."""

    expression: Tensor  # [E]
    rotation: Tensor  # [3, 3]
    translation: Tensor  # [3] mm
    sh: Tensor  # [9, 3]


@dataclass(frozen=True)
class Layer:
    """One head drawn in a window of the frame, linear colours times opacity; rows and columns from `top`, `left`."""

    left: int
    top: int
    overlay: Tensor  # [h, w, 4] face under the frame's light, fading at its edges
    clay: Tensor  # [h, w, 4] grey geometry
    relit: Tensor  # [h, w, 4] under the standard light
    depth: float  # mm


class HeadDrawer:
    """Draws one person's head; what does not change from frame to frame is computed once."""

    def __init__(self, head: Head) -> None:
        """Prepares the drawing of `head`, on any level of its template; without lashes, which would flicker."""
        self.head, template = head, head.template
        self._triangles = template.triangles[~(template.regions["lashes"][template.triangles.long()] > 0.5).any(1)]
        self._opacity, self._ambient = face_opacity(template), ambient_factor(template)
        self._albedo, self._level, self._seen_at = head.albedo(), head.albedo(), 0.0

    def draw(self, pose: Pose, K: Tensor, width: int, height: int) -> Layer | None:
        """Draws the head in a frame of `width` x `height` px; K [3, 3] px. None where it is out of sight."""
        triangles = self._triangles
        vertices = self.head.posed(pose.expression) @ pose.rotation.mT + pose.translation
        if float(vertices[:, 2].min()) < NEAR:
            return None
        points = project(vertices[None], K[None])[0]
        left, top = (max(0, int(x)) for x in points.amin(0).floor().tolist())
        right, bottom = (
            min(end, int(x)) for x, end in zip(points.amax(0).ceil().tolist(), (width, height), strict=True)
        )
        if left >= right or top >= bottom:
            return None
        normals = vertex_normals(vertices[None], triangles)[0]
        basis = sh_basis(normals)
        light, relit = ((basis @ sh) * self._ambient[:, None] for sh in (pose.sh, standard_light()))
        albedo = self._at_distance(float(K[0, 0] / pose.translation[2]), points)
        fields = torch.cat(
            [light, relit, clay_shading(normals)[:, None], self._opacity[:, None], albedo.attributes], 1
        )[None].contiguous()
        moved = K.clone()
        moved[:2, 2] -= K.new_tensor([left, top])
        a, b, c = points[triangles.long()].unbind(1)
        triangles = triangles[(b - a)[:, 0] * (c - a)[:, 1] < (b - a)[:, 1] * (c - a)[:, 0]]  # facing the camera
        fragments = rasterize(vertices[None], triangles, moved[None], bottom - top, right - left)
        covered = fragments.triangle_id >= 0
        values = interpolate(fields, triangles, fragments)
        colors = albedo.lookup(values[0, ..., 8:].reshape(-1, values.shape[-1] - 8)).view(bottom - top, right - left, 3)
        opacity = values[0, ..., 7:8]
        solid = covered[0, ..., None].to(values.dtype)
        stacked = torch.cat(
            [
                (colors * values[0, ..., :3]).clamp(0, 1) * opacity,
                opacity,
                values[0, ..., 6:7] * solid,
                (colors * values[0, ..., 3:6]).clamp(0, 1) * solid,
                solid,
            ],
            -1,
        )
        smooth = _soft_outlines(stacked)
        whole = smooth[..., 8:9]
        return Layer(
            left,
            top,
            smooth[..., :4],
            torch.cat([smooth[..., 4:5].expand(-1, -1, 3), whole], -1),
            torch.cat([smooth[..., 5:8], whole], -1),
            float(vertices[:, 2].median()),
        )

    def _at_distance(self, scale: float, points: Tensor) -> Albedo:
        """Chooses the texture's mip level anew where the head has become a little larger or smaller; scale: px/mm."""
        if abs(self._seen_at / scale - 1) > _SAME_SCALE:
            self._level, self._seen_at = self._albedo.at_spacing(points, self._triangles), scale
        return self._level


def composite(frame: np.ndarray, layers: Sequence[Layer], kind: str) -> np.ndarray:
    """Composites layers' `kind` (overlay, clay, relit) over a frame [H, W, 3] uint8 sRGB, in linear light."""
    result = frame.copy()
    for layer in sorted(layers, key=lambda layer: -layer.depth):
        window: Tensor = getattr(layer, kind)
        rows = slice(layer.top, layer.top + window.shape[0])
        columns = slice(layer.left, layer.left + window.shape[1])
        behind = _LINEAR[torch.from_numpy(result[rows, columns]).long()]
        mixed = window[..., :3] + behind * (1 - window[..., 3:])
        result[rows, columns] = _BYTES[(mixed * 4095).round().long().clamp(0, 4095)].numpy()
    return result


def _soft_outlines(
    layers: Tensor,  # [h, w, C] colours times coverage, coverage last
) -> Tensor:  # [h, w, C]
    """Averages the pixels on outlines with their neighbours: a tenth of the time of `antialias`, which is exact."""
    height, width, channels = layers.shape
    share = avg_pool2d(layers[..., -1].contiguous()[None], 3, 1, 1, count_include_pad=False)[0]
    rows, columns = ((share > 0) & (share < 1 - _WHOLE)).nonzero(as_tuple=True)
    flat, total = layers.view(-1, channels), layers.new_zeros(len(rows), channels)
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):  # beyond the window its last row or column again
            near = (rows + down).clamp(0, height - 1) * width + (columns + right).clamp(0, width - 1)
            total += flat[near]
    return flat.index_copy(0, rows * width + columns, total / 9).view_as(layers)


def paper(width: int, height: int) -> np.ndarray:
    """Returns an empty page, [height, width, 3] uint8 sRGB."""
    return np.full((height, width, 3), PAPER, np.uint8)
