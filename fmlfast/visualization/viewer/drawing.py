"""Draws lit heads as a camera sees them: the pictures that the viewer sends to the browser."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, max_pool2d

from fmlfast.camera import project
from fmlfast.renderer import rasterize, sh_basis, vertex_normals
from fmlfast.rotation import FRONTAL
from fmlfast.visualization.appearance import (
    Albedo,
    TextureAlbedo,
    VertexAlbedo,
    doubled_areas,
    flat_light,
    irradiance,
)
from fmlfast.visualization.viewer.figure import Figure

Style = Literal["skin", "albedo", "clay", "wireframe"]
STYLES: tuple[Style, ...] = get_args(Style)
CLAY, LINE = 0.5, 0.015  # linear reflectance of clay, and of the lines on it
_LINE_WIDTH, _LINES_FADE = 1.2, 6.0  # px; lines of triangles smaller than the second fade, as they would cover all
_NEAR = 5.0  # mm
_FEW = 16  # a share of the triangles that tells how large texels are


@dataclass(frozen=True)
class Camera:
    """A pinhole camera in OpenCV's convention, X_camera = R X_world + t, mm, with its picture's size in pixels."""

    K: Tensor  # [3, 3]
    rotation: Tensor  # [3, 3]
    translation: Tensor  # [3]
    width: int
    height: int

    def resized(self, width: int, height: int) -> "Camera":
        """Returns the camera with a picture of another size."""
        scale = self.K.new_tensor([width / self.width, height / self.height, 1.0])
        return replace(self, K=self.K * scale[:, None], width=width, height=height)

    def to(self, device: torch.device) -> "Camera":
        """Copies the camera to another device."""
        K, rotation, translation = (value.to(device) for value in (self.K, self.rotation, self.translation))
        return replace(self, K=K, rotation=rotation, translation=translation)


@dataclass(frozen=True)
class LitMesh:
    """A mesh in the world (mm, +y up, +z towards the viewer) with the light that falls on it."""

    vertices: Tensor  # [V, 3]
    triangles: Tensor  # [T, 3]
    albedo: tuple[Albedo, ...]  # as in `Figure.albedo`
    shading: Tensor  # [V, 3] linear factor of the albedo
    opacity: Tensor  # [V] 0..1
    lines: bool = False  # draw the triangles' edges


@torch.no_grad()
def lit_mesh(
    figure: Figure,
    vertices: Tensor,  # [V, 3] mm
    light: Tensor,  # [9, 3]
    style: Style = "skin",
    opacity: Tensor | None = None,  # [V]
) -> LitMesh:
    """Lights a figure by spherical harmonics in the frame of a camera that sees the world frontally.

    Args:
        figure: its colours are drawn as skin and albedo; clay and wireframe are grey.
        vertices: of the figure, in the world.
        light: coefficients by channel, as in `Codes.sh`.
        opacity: 0..1; opaque without it.
    """
    shading = flat_light()[0].to(vertices).expand(len(vertices), 3)
    if style != "albedo":
        normals = vertex_normals(vertices[None].contiguous(), figure.triangles)[0]
        harmonics = sh_basis(normals @ vertices.new_tensor(FRONTAL).T)
        shading = irradiance(harmonics, light) * figure.ambient[:, None]
    albedo = figure.albedo
    if style in ("clay", "wireframe"):
        albedo = (VertexAlbedo(vertices.new_full((len(vertices), 3), CLAY)),)
    solid = vertices.new_ones(len(vertices)) if opacity is None else opacity
    return LitMesh(vertices, figure.triangles, albedo, shading, solid, style == "wireframe")


def of_style(figure: Figure, style: Style, fine: bool) -> Figure:
    """Chooses the mesh to draw: coarse for quick pictures, and the base mesh for lines, which else cover all."""
    if style == "wireframe":
        return figure.coarse().coarse()
    return figure if fine else figure.coarse()


@torch.no_grad()
def draw(
    meshes: Sequence[LitMesh],
    camera: Camera,
    behind: Tensor,  # [H, W, 3] linear
    samples: int = 1,
) -> tuple[Tensor, Tensor]:  # [H, W, 3] linear, [H, W] mm
    """Draws meshes over a picture of the camera's size, and their depth, infinite where there is no opaque part.

    Meshes are drawn one over the other, the farthest first. Transparent parts show `behind`, and still hide the mesh's
    other side. `samples` is the number along each side of a pixel.
    """
    picture, depth = behind.clone(), behind.new_full(behind.shape[:2], math.inf)
    seen = [(mesh, (mesh.vertices @ camera.rotation.T + camera.translation).contiguous()) for mesh in meshes]
    for mesh, points in sorted(seen, key=lambda pair: -float(pair[1][:, 2].mean())):
        left, top, right, bottom = _window(points, camera)
        if left >= right or top >= bottom:
            continue
        layer, z = _draw_window(mesh, points, camera, (left, top, right, bottom), samples)
        part = picture[top:bottom, left:right]
        part.copy_(layer[..., :3] + part * (1 - layer[..., 3:]))
        part = depth[top:bottom, left:right]
        part.copy_(torch.minimum(part, z))
    return picture, depth


def _window(points: Tensor, camera: Camera) -> tuple[int, int, int, int]:
    """Computes what of the picture a mesh may cover: left, top, right, bottom, px."""
    if float(points[:, 2].min()) < _NEAR:  # what is behind the camera has no projection
        return 0, 0, camera.width, camera.height
    places = project(points[None], camera.K[None])[0]
    (left, top), (right, bottom) = places.amin(0).tolist(), places.amax(0).tolist()
    return (
        max(0, math.floor(left)),
        max(0, math.floor(top)),
        min(camera.width, math.ceil(right)),
        min(camera.height, math.ceil(bottom)),
    )


def _draw_window(
    mesh: LitMesh, points: Tensor, camera: Camera, window: tuple[int, int, int, int], samples: int
) -> tuple[Tensor, Tensor]:
    """Draws linear colours times opacity, opacity, and depth of a window: [h, w, 4], [h, w]."""
    left, top, right, bottom = window
    height, width = bottom - top, right - left
    K = camera.K.clone()
    K[:2, 2] -= K.new_tensor([left, top])
    K[:2] *= samples
    found = rasterize(points[None], mesh.triangles, K[None], height * samples, width * samples, near=_NEAR)
    triangle = found.triangle_id.flatten()
    covered = (triangle >= 0).nonzero()[:, 0]
    corners = mesh.triangles.long()[triangle[covered].long()]  # [N, 3]
    weights = found.barycentrics.reshape(-1, 3)[covered]
    albedo = _level(mesh, points, K)
    fields = torch.cat([mesh.shading, mesh.opacity[:, None], albedo.attributes], 1)
    values = sum(fields[corners[:, i]] * weights[:, i : i + 1] for i in range(3))
    assert isinstance(values, Tensor)
    colors = (albedo.lookup(values[:, 4:]) * values[:, :3]).clamp(0, 1)
    if mesh.lines:
        share = _line_share(points, corners, weights, K, samples)
        colors = torch.lerp(colors, colors.new_tensor(LINE), share[:, None])
    flat = colors.new_zeros(len(triangle), 4)
    flat[covered] = torch.cat([colors * values[:, 3:4], values[:, 3:4]], 1)
    near = colors.new_full((len(triangle),), -math.inf)
    near[covered] = -found.depth.flatten()[covered].where(values[:, 3] > 0.5, math.inf)
    layer, near = flat.view(height * samples, -1, 4), near.view(height * samples, -1)
    if samples > 1:
        layer = avg_pool2d(layer.permute(2, 0, 1)[None], samples)[0].permute(1, 2, 0)
        near = max_pool2d(near[None], samples)[0]
    return layer, -near


def _level(mesh: LitMesh, points: Tensor, K: Tensor) -> Albedo:
    """Chooses the size of the texture whose texels are about as large as the picture's samples."""
    first = mesh.albedo[0]
    if not isinstance(first, TextureAlbedo):
        return first
    few = mesh.triangles.long()[::_FEW]
    drawn = doubled_areas(project(points[few], K[None])) * (points[few][..., 2] > _NEAR).all(1)
    stored = doubled_areas(first.attributes[few] * first.image.shape[1]).abs()
    front = (drawn < 0) & (stored > 0)  # counter-clockwise from outside; the picture's y points down
    ratio = float((stored / drawn.abs())[front].median()) if front.any() else 1.0
    return mesh.albedo[min(max(0, math.floor(math.log2(max(ratio, 1.0)) / 2)), len(mesh.albedo) - 1)]


def _line_share(
    points: Tensor,  # [V, 3] mm
    corners: Tensor,  # [N, 3]
    weights: Tensor,  # [N, 3]
    K: Tensor,  # [3, 3]
    samples: int,
) -> Tensor:  # [N]
    """Computes how much of a pixel in a triangle the triangle's edges cover."""
    places = project(points[None], K[None])[0][corners]  # [N, 3, 2]
    edges = places[:, (2, 0, 1)] - places[:, (1, 2, 0)]  # opposite to each corner
    heights = doubled_areas(places).abs()[:, None] / edges.norm(dim=2).clamp(min=1e-3)  # px
    distance = (weights * heights).amin(1)
    fade = (heights.amin(1) / (_LINES_FADE * samples)).clamp(max=1)
    return (0.5 + _LINE_WIDTH / 2 * samples - distance).clamp(0, 1) * fade
