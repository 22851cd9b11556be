"""Pictures to judge by eye: reconstructions side by side, and error maps on the mean face."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from fmlfast._atomic import atomic_path
from fmlfast.color import linear_to_srgb, srgb_to_linear
from fmlfast.frames import Codes, Frames
from fmlfast.renderer import interpolate, rasterize, shade_sh, vertex_normals
from fmlfast.rotation import FRONTAL
from fmlfast.system import FML
from fmlfast.template import FaceTemplate

COLUMNS = ("input", "reconstruction", "geometry", "reflectance", "shading")
SUPERSAMPLING = 2
PAPER = (250, 250, 248)  # page colour behind everything, sRGB 0..255
INK = (70, 70, 74)
_GAP, _CAPTION = 4, 18  # px
_LIGHT = (-0.35, -0.5, -0.79)  # towards the lamp of grey pictures, camera frame: above the viewer's left shoulder
_GREY = 0.55  # linear reflectance of grey pictures
_COLORMAP = (  # viridis at nine equal steps, sRGB 0..255
    (68, 1, 84),
    (71, 44, 122),
    (59, 81, 139),
    (44, 113, 142),
    (33, 144, 141),
    (39, 173, 129),
    (92, 200, 99),
    (170, 220, 50),
    (253, 231, 37),
)


def reconstruction_panel(model: FML, frames: Frames, codes: Codes, rows: int = 4) -> np.ndarray:
    """Up to `rows` frames, each as input, reconstruction over the input, geometry, reflectance and shading.

    Different subjects come before further frames of one. Returns uint8 [H,W,3] sRGB. Raises ValueError for rows < 1.
    """
    if rows < 1:
        raise ValueError(f"rows must be at least 1, got {rows}")
    candidates = torch.nonzero(frames.mask.T)[:rows].flip(1)  # (subject, frame), frame-major
    order = sorted((int(b), int(m)) for b, m in candidates)
    subject, frame = torch.tensor(order, device=frames.mask.device).unbind(1)
    with torch.no_grad():
        image = frames.images[subject, frame].permute(0, 2, 3, 1).cpu()
        picked = codes.select(subject)
        own = torch.arange(len(order), device=subject.device)
        surface = model.camera_vertices(picked)[own, frame].cpu()
        reflectance, sh = model.reflectance(picked).cpu(), picked.sh[own, frame].cpu()
    triangles = model.template.triangles.cpu()
    normals = vertex_normals(surface, triangles)
    colors = shade_sh(reflectance, normals, sh)
    shading = shade_sh(torch.ones_like(reflectance), normals, sh)
    shading = _GREY * shading / shading.flatten(1).quantile(0.95, 1).clamp(min=1.0)[:, None, None]  # bright light fits
    fields = torch.cat([colors, reflectance, shading, normals], -1)
    drawn, alpha = draw(surface, triangles, fields, frames.Ks[subject, frame].cpu(), image.shape[1])
    overlay, albedo, light, grey = drawn.split(3, -1)
    paper = srgb_to_linear(torch.tensor(PAPER) / 255.0)
    cells = [image]
    for layer, behind in ((overlay, srgb_to_linear(image)), (grey, paper), (albedo, paper), (light, paper)):
        cells.append(linear_to_srgb(layer + (1 - alpha) * behind))
    return tile(torch.stack(cells, 1), COLUMNS)


def draw(surface: Tensor, triangles: Tensor, fields: Tensor, Ks: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Renders per-vertex fields with antialiasing; the last three, unit normals, become grey clay under a fixed lamp.

    surface [F,V,3] mm, camera frame; fields [F,V,C] linear; Ks [F,3,3] px of an image of `size`. Returns linear values
    times coverage [F,S,S,C], and coverage [F,S,S,1].
    """
    fine = size * SUPERSAMPLING
    scale = torch.tensor([SUPERSAMPLING, SUPERSAMPLING, 1.0])[:, None]
    fragments = rasterize(surface, triangles, Ks * scale, fine, fine)
    values = interpolate(fields, triangles, fragments)
    covered = (fragments.triangle_id >= 0)[..., None].float()
    normals = torch.nn.functional.normalize(values[..., -3:], dim=-1)
    lamp = (normals @ torch.nn.functional.normalize(torch.tensor(_LIGHT), dim=0)).clamp(min=0)
    clay = _GREY * (0.2 + 0.95 * lamp + 0.1 * (1 - normals[..., 2].abs()))
    values = torch.cat([values[..., :-3].clamp(0, 1), clay[..., None].expand(*clay.shape, 3)], -1) * covered
    both = torch.cat([values, covered], -1).permute(0, 3, 1, 2)
    both = torch.nn.functional.avg_pool2d(both, SUPERSAMPLING).permute(0, 2, 3, 1)
    return both[..., :-1], both[..., -1:]


def tile(cells: Tensor, captions: tuple[str, ...]) -> np.ndarray:
    """Cells [R,C,H,W,3] sRGB in [0,1] in a grid, with a caption above each column: uint8 [H',W',3]."""
    rows, columns, height, width = cells.shape[:4]
    page = np.empty((_CAPTION + rows * (height + _GAP) - _GAP, columns * (width + _GAP) - _GAP, 3), np.uint8)
    page[:] = PAPER
    pixels = (cells * 255.0).round().clamp(0, 255).byte().numpy()
    for row in range(rows):
        for column in range(columns):
            top, left = _CAPTION + row * (height + _GAP), column * (width + _GAP)
            page[top : top + height, left : left + width] = pixels[row, column]
    picture = Image.fromarray(page)
    pen = ImageDraw.Draw(picture)
    for column, caption in enumerate(captions):
        middle = column * (width + _GAP) + width / 2
        pen.text((middle, _CAPTION / 2), caption, INK, ImageFont.load_default(11), anchor="mm")
    return np.asarray(picture)


def error_map(template: FaceTemplate, errors: dict[str, Tensor], size: int = 240) -> np.ndarray:
    """The mean face coloured by the error at each vertex, one view for each entry, with a colour bar in mm.

    errors: caption -> [V] mm. What lies outside the evaluated region stays grey. Returns uint8 [H,W,3] sRGB. Raises
    ValueError for no errors or another number of vertices.
    """
    count = len(template.vertices)
    if not errors or any(value.shape != (count,) for value in errors.values()):
        raise ValueError(f"errors must hold at least one [{count}] tensor")
    face = template.regions["face"] > 0.5
    values = torch.stack([value.float() for value in errors.values()])  # [N,V]
    top = nice_ceiling(float(torch.quantile(values[:, face], 0.98)))
    colors = srgb_to_linear(colormap(values / top))
    colors = torch.where(face[:, None], colors, torch.tensor(_GREY))
    surface = template.vertices @ torch.tensor(FRONTAL).mT + torch.tensor([0.0, 0.0, 900.0])
    low, high = template.vertices[face].amin(0), template.vertices[face].amax(0)
    focal = size * 850.0 / (1.15 * float((high - low)[:2].max()))
    middle = (low + high) / 2
    K = torch.tensor(
        [[focal, 0, size / 2 - focal * middle[0] / 900], [0, focal, size / 2 + focal * middle[1] / 900], [0, 0, 1]]
    )
    normals = vertex_normals(surface[None], template.triangles)
    fields = torch.cat([colors, normals.expand(len(colors), -1, -1)], -1)
    surfaces = surface.repeat(len(colors), 1, 1)
    drawn, alpha = draw(surfaces, template.triangles, fields, K.expand(len(colors), 3, 3), size)
    tint, clay = drawn.split(3, -1)
    paper = srgb_to_linear(torch.tensor(PAPER) / 255.0)
    shaded = tint * (0.35 + 0.65 * clay / (_GREY * alpha.clamp(min=1e-3)))  # colour stays readable, form shows
    cells = linear_to_srgb(shaded + (1 - alpha) * paper)
    captions = (f"{name}: {float(v[face].mean()):.2f} mm" for name, v in errors.items())
    picture = tile(cells[None], tuple(captions))
    return np.concatenate([picture, _colorbar(len(picture), top)], axis=1)


def colormap(values: Tensor) -> Tensor:
    """Viridis: values [...], clamped to [0,1], to sRGB [...,3] in [0,1]."""
    stops = torch.tensor(_COLORMAP) / 255.0
    position = values.clamp(0, 1) * (len(stops) - 1)
    lower = position.floor().clamp(max=len(stops) - 2)
    return torch.lerp(stops[lower.long()], stops[lower.long() + 1], (position - lower)[..., None])


def nice_ceiling(value: float) -> float:
    """The least of 1, 1.5, 2, 3, 4, 5, 6, 8, 10 times a power of ten that is not below a positive value."""
    power = 10.0 ** np.floor(np.log10(max(value, 1e-6)))
    return float(next(power * m for m in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if power * m >= value * (1 - 1e-9)))


def save_image(path: str | Path, picture: np.ndarray) -> None:
    """Writes a uint8 [H,W,3] sRGB picture as PNG, atomically."""
    with atomic_path(path) as temporary:
        Image.fromarray(picture).save(temporary, "PNG", optimize=True)


def _colorbar(height: int, top: float) -> np.ndarray:
    """A bar from 0 to `top` mm with ticks, uint8 [height,64,3]."""
    picture = Image.new("RGB", (64, height), PAPER)
    pen = ImageDraw.Draw(picture)
    start, end = _CAPTION + 10, height - 10
    ramp = colormap(torch.linspace(1, 0, end - start))[:, None].expand(-1, 12, -1)
    picture.paste(Image.fromarray((ramp * 255).byte().numpy()), (10, start))
    for share in (0.0, 0.5, 1.0):
        pen.text((27, end - share * (end - start)), f"{share * top:g}", INK, ImageFont.load_default(11), anchor="lm")
    pen.text((37, _CAPTION / 2), "mm", INK, ImageFont.load_default(11), anchor="mm")
    return np.asarray(picture)
