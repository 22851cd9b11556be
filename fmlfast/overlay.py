"""Pictures of a reconstructed face at the resolution of its photo, with smooth edges."""

import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fmlfast.camera import project
from fmlfast.color import linear_to_srgb, srgb_to_linear
from fmlfast.pictures import PAPER, draw, tile
from fmlfast.renderer import render, vertex_normals

SAMPLES = 3  # per pixel and axis
TILE = 512  # pixels; bounds the memory of a render at any size of photo
PANEL_SIZE = 480  # pixels, side of each picture in a panel
MARGIN = 1.15  # of a panel's view around the face


def render_window(
    vertices: Tensor,  # [V, 3]
    triangles: Tensor,  # [T, 3]
    colors: Tensor,  # [V, 3]
    K: Tensor,  # [3, 3]
    left: int,
    top: int,
    width: int,
    height: int,
) -> tuple[Tensor, Tensor]:  # [height, width, 3], [height, width, 1]
    """Renders part of an image with 3 x 3 samples a pixel.

    Args:
        vertices: camera frame, mm.
        colors: linear RGB.
        K: intrinsics of the whole image, pixels.
        left, top, width, height: the part, pixels.

    Returns:
        Linear RGB times coverage, and coverage in 0..1.
    """
    image, coverage = vertices.new_zeros(height, width, 3), vertices.new_zeros(height, width, 1)
    for y in range(0, height, TILE):
        for x in range(0, width, TILE):
            rows, columns = min(TILE, height - y), min(TILE, width - x)
            shifted = K.clone()
            shifted[:2, 2] -= K.new_tensor([left + x, top + y])
            camera = torch.eye(4)[None]
            part = render(
                vertices[None],
                triangles,
                colors[None].contiguous(),
                camera,
                shifted[None],
                rows,
                columns,
                antialiased=False,
                supersample=SAMPLES,
            )
            image[y : y + rows, x : x + columns] = part.image[0]
            coverage[y : y + rows, x : x + columns] = part.mask[0, ..., None]
    return image, coverage


def overlay(
    photo: np.ndarray,  # [H, W, 3]
    vertices: Tensor,  # [V, 3]
    triangles: Tensor,  # [T, 3]
    colors: Tensor,  # [V, 3]
    K: Tensor,  # [3, 3]
) -> np.ndarray:  # [H, W, 3]
    """A mesh composited on its photo in linear light; photo and result uint8 sRGB, mesh as in `render_window`."""
    left, top, right, bottom = _bounds(vertices, K)
    left, top = max(left, 0), max(top, 0)
    right, bottom = min(right, photo.shape[1]), min(bottom, photo.shape[0])
    result = photo.copy()
    if left >= right or top >= bottom:
        return result
    image, coverage = render_window(vertices, triangles, colors, K, left, top, right - left, bottom - top)
    behind = srgb_to_linear(torch.from_numpy(result[top:bottom, left:right]).float() / 255)
    result[top:bottom, left:right] = _to_bytes(image + behind * (1 - coverage))
    return result


def panel(
    photo: np.ndarray,  # [H, W, 3]
    vertices: Tensor,  # [V, 3]
    triangles: Tensor,  # [T, 3]
    shaded: Tensor,  # [V, 3]
    reflectance: Tensor,  # [V, 3]
    K: Tensor,  # [3, 3]
) -> np.ndarray:  # uint8 sRGB
    """Photo, overlay, geometry and reflectance of the square around the face, side by side under captions."""
    left, top, right, bottom = _bounds(vertices, K)
    side = math.ceil(max(right - left, bottom - top) * MARGIN)
    x, y = (left + right - side) // 2, (top + bottom - side) // 2
    view = Image.fromarray(photo).crop((x, y, x + side, y + side))
    view = view.resize((PANEL_SIZE, PANEL_SIZE), Image.Resampling.LANCZOS)
    K_view = K.clone()
    K_view[:2, 2] -= K.new_tensor([x, y])
    K_view[:2] *= PANEL_SIZE / side
    fields = torch.cat([shaded, reflectance, vertex_normals(vertices[None], triangles)[0]], dim=-1)
    drawn, coverage = draw(vertices[None], triangles, fields[None], K_view[None], PANEL_SIZE)
    colors, albedo, clay = drawn.split(3, -1)
    image = torch.from_numpy(np.array(view)).float()[None] / 255
    paper = srgb_to_linear(torch.tensor(PAPER) / 255)
    cells = [image]
    for layer, behind in ((colors, srgb_to_linear(image)), (clay, paper), (albedo, paper)):
        cells.append(linear_to_srgb(layer + behind * (1 - coverage)))
    return tile(torch.stack(cells, 1), ("photo", "overlay", "geometry", "reflectance"))


def _bounds(vertices: Tensor, K: Tensor) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of the projected mesh, whole pixels outwards."""
    points = project(vertices[None], K[None])[0]
    (left, top), (right, bottom) = points.amin(0).tolist(), points.amax(0).tolist()
    return math.floor(left), math.floor(top), math.ceil(right), math.ceil(bottom)


def _to_bytes(linear: Tensor) -> np.ndarray:
    return (linear_to_srgb(linear) * 255).round().to(torch.uint8).numpy()
