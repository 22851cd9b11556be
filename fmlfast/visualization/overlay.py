"""Renders a reconstructed face over its photo at full resolution, antialiased."""

import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fmlfast.camera import project
from fmlfast.color import linear_to_srgb, srgb_to_linear
from fmlfast.common.tensors import independent
from fmlfast.renderer import vertex_normals
from fmlfast.template.face_template import FaceTemplate
from fmlfast.template.regions import smoothstep
from fmlfast.visualization.appearance import Albedo, flat_light, render_face, standard_light
from fmlfast.visualization.panels import PAPER, draw, on_paper, tile

COLUMNS = ("photo", "overlay", "geometry", "reflectance", "relit")
PANEL_SIZE = 480  # pixels, side of each picture in a panel
MARGIN = 1.15  # of a panel's view around the face
EDGE = 8.0  # mm over which a face fades


@independent
def face_opacity(template: FaceTemplate) -> Tensor:  # [V]
    """Computes the overlay's opacity, 0..1: the face with eyes and mouth, fading towards hair, ears and neck."""
    base = template.subdivision[0].shape[1] if template.subdivision else len(template.vertices)
    points = template.vertices[:base]
    skin, face, scalp = (template.regions[name][:base] for name in ("skin", "face", "scalp"))
    beyond = points[(skin > 0.5) & (face < 0.5)]
    inside = torch.cdist(points, beyond).amin(1) if len(beyond) else torch.full_like(skin, torch.inf)  # mm
    opacity = smoothstep(inside, 0.0, EDGE) * (1 - scalp)
    return template.subdivide(opacity[:, None])[:, 0]


@independent
def overlay(
    photo: np.ndarray,  # [H, W, 3]
    vertices: Tensor,  # [V, 3]
    triangles: Tensor,  # [T, 3]
    albedo: Albedo,
    sh: Tensor,  # [9, 3]
    ambient: Tensor,  # [V]
    K: Tensor,  # [3, 3]
    opacity: Tensor,  # [V]
) -> np.ndarray:  # [H, W, 3]
    """Composites a face on its photo in linear light; photo and result uint8 sRGB, mesh as in `render_face`.

    Transparent parts show the photo, and still occlude the mesh behind them.
    """
    left, top, right, bottom = _bounds(vertices, K)
    left, top = max(left, 0), max(top, 0)
    right, bottom = min(right, photo.shape[1]), min(bottom, photo.shape[0])
    result = photo.copy()
    if left >= right or top >= bottom:
        return result
    window = render_face(vertices, triangles, albedo, sh, ambient, opacity, K, left, top, right - left, bottom - top)
    behind = srgb_to_linear(torch.from_numpy(result[top:bottom, left:right]).float() / 255)
    result[top:bottom, left:right] = _to_bytes(window[..., :3] + behind * (1 - window[..., 3:]))
    return result


@independent
def panel(
    photo: np.ndarray,  # [H, W, 3]
    vertices: Tensor,  # [V, 3]
    triangles: Tensor,  # [T, 3]
    albedo: Albedo,
    sh: Tensor,  # [9, 3]
    ambient: Tensor,  # [V]
    K: Tensor,  # [3, 3]
    opacity: Tensor,  # [V] of the overlay
) -> np.ndarray:  # uint8 sRGB
    """Draws the square around the face side by side, with captions, as `COLUMNS` names them.

    They are photo, overlay, geometry, albedo, and the face under a standard light.
    """
    left, top, right, bottom = _bounds(vertices, K)
    side = math.ceil(max(right - left, bottom - top) * MARGIN)
    x, y = (left + right - side) // 2, (top + bottom - side) // 2
    view = Image.fromarray(photo).crop((x, y, x + side, y + side))
    view = view.resize((PANEL_SIZE, PANEL_SIZE), Image.Resampling.LANCZOS)
    K_view = K.clone()
    K_view[:2, 2] -= K.new_tensor([x, y])
    K_view[:2] *= PANEL_SIZE / side
    normals = vertex_normals(vertices[None], triangles)
    clay, coverage = (drawn[0] for drawn in draw(vertices[None], triangles, normals, K_view[None], PANEL_SIZE))
    image = torch.from_numpy(np.array(view)).float() / 255
    paper, solid = srgb_to_linear(torch.tensor(PAPER) / 255), torch.ones_like(opacity)
    cells = [image]
    faces = [
        (sh, ambient, opacity, srgb_to_linear(image)),
        (flat_light(), solid, solid, paper),
        (standard_light(), ambient, solid, paper),
    ]
    for light, factor, shown, behind in faces:
        face = render_face(vertices, triangles, albedo, light, factor, shown, K_view, 0, 0, PANEL_SIZE, PANEL_SIZE)
        cells.append(linear_to_srgb(face[..., :3] + behind * (1 - face[..., 3:])))
    cells.insert(2, on_paper(clay, coverage))
    return tile(torch.stack(cells)[None], COLUMNS)


def _bounds(vertices: Tensor, K: Tensor) -> tuple[int, int, int, int]:
    """Computes the bounding box of the projected mesh (left, top, right, bottom), rounded outwards to pixels."""
    points = project(vertices[None], K[None])[0]
    (left, top), (right, bottom) = points.amin(0).tolist(), points.amax(0).tolist()
    return math.floor(left), math.floor(top), math.ceil(right), math.ceil(bottom)


def _to_bytes(linear: Tensor) -> np.ndarray:
    return (linear_to_srgb(linear) * 255).round().to(torch.uint8).numpy()
