"""Draws reconstructions side by side, and error maps on the mean face."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from fmlfast.color import linear_to_srgb, srgb_to_linear
from fmlfast.common.atomic import atomic_path
from fmlfast.data.frames import Frames
from fmlfast.model.codes import Codes
from fmlfast.model.fml import FML
from fmlfast.renderer import interpolate, rasterize, shade_sh, vertex_normals
from fmlfast.rotation import FRONTAL, rotation_from_axis_angle
from fmlfast.template.face_template import FaceTemplate

COLUMNS = ("input", "reconstruction", "geometry", "reflectance", "shading")
SUPERSAMPLING = 2
PAPER = (250, 250, 248)  # page colour behind everything, sRGB 0..255
INK = (70, 70, 74)
_GAP, _CAPTION, _LETTERS = 4, 20, 13  # px
_FRAMED = 1.2  # of a portrait's view around the evaluated region
_BAR = 260  # px, the most of a colour bar
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
    """Draws up to `rows` frames as input, reconstruction over the input, geometry, reflectance and shading.

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
        occluded = model.face.occluded(torch.ones_like(model.template.vertices)).cpu()
    triangles = model.template.triangles.cpu()
    normals = vertex_normals(surface, triangles)
    shading = shade_sh(occluded[None], normals, sh)
    colors = reflectance * shading
    shading = _GREY * shading / shading.flatten(1).quantile(0.95, 1).clamp(min=1.0)[:, None, None]  # bright light fits
    fields = torch.cat([colors, reflectance, shading, normals], -1)
    drawn, alpha = draw(surface, triangles, fields, frames.Ks[subject, frame].cpu(), image.shape[1])
    overlay, albedo, light, grey = drawn.split(3, -1)
    paper = srgb_to_linear(torch.tensor(PAPER) / 255.0)
    cells = [image]
    for layer, behind in ((overlay, srgb_to_linear(image)), (grey, paper), (albedo, paper), (light, paper)):
        cells.append(linear_to_srgb(layer + (1 - alpha) * behind))
    return tile(torch.stack(cells, 1), COLUMNS)


@torch.no_grad()
def save_preview(path: Path, model: FML, frames: Frames) -> None:
    """Writes the panel of frames by a model in training, which it is in again afterwards."""
    model.eval()
    frames = frames.to(model.code_mean.device)
    save_image(path, reconstruction_panel(model, frames, model.encode(frames)))
    model.train()


def draw(surface: Tensor, triangles: Tensor, fields: Tensor, Ks: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Renders per-vertex fields with supersampling; the last three channels, unit normals, as shaded grey clay.

    surface [F,V,3] mm, camera frame; fields [F,V,C] linear; Ks [F,3,3] px of an image of `size`. Returns linear values
    times coverage [F,S,S,C], and coverage [F,S,S,1].
    """
    fine = size * SUPERSAMPLING
    scale = torch.tensor([SUPERSAMPLING, SUPERSAMPLING, 1.0])[:, None]
    fragments = rasterize(surface, triangles, Ks * scale, fine, fine)
    values = interpolate(fields, triangles, fragments)
    covered = (fragments.triangle_id >= 0)[..., None].float()
    clay = clay_shading(torch.nn.functional.normalize(values[..., -3:], dim=-1))
    values = torch.cat([values[..., :-3].clamp(0, 1), clay[..., None].expand(*clay.shape, 3)], -1) * covered
    both = torch.cat([values, covered], -1).permute(0, 3, 1, 2)
    both = torch.nn.functional.avg_pool2d(both, SUPERSAMPLING).permute(0, 2, 3, 1)
    return both[..., :-1], both[..., -1:]


def clay_shading(
    normals: Tensor,  # [..., 3] unit, camera frame
) -> Tensor:  # [...]
    """Shades grey clay under a lamp above the viewer's left shoulder, linear."""
    lamp = (normals @ torch.nn.functional.normalize(torch.tensor(_LIGHT), dim=0)).clamp(min=0)
    return _GREY * (0.2 + 0.95 * lamp + 0.1 * (1 - normals[..., 2].abs()))


def tile(
    cells: Tensor,  # [R, C, H, W, 3]
    captions: Sequence[str],
    labels: Sequence[str] = (),
    notes: Sequence[Sequence[str]] = (),
) -> np.ndarray:
    """Arranges cells, sRGB in [0,1], in a grid with a caption above each column: uint8 [H',W',3].

    `labels`, one per row, of a line or more, stand before the rows; `notes`, one per cell, below the cells.
    """
    rows, columns, height, width = cells.shape[:4]
    font = ImageFont.load_default(_LETTERS)
    below = _CAPTION if notes else 0
    pen = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    margin = max((round(pen.multiline_textbbox((0, 0), label, font)[2]) + 12 for label in labels), default=0)
    pitch = height + below + _GAP
    page = np.empty((_CAPTION + rows * pitch - _GAP, margin + columns * (width + _GAP) - _GAP, 3), np.uint8)
    page[:] = PAPER
    pixels = (cells * 255.0).round().clamp(0, 255).byte().numpy()
    for row in range(rows):
        for column in range(columns):
            top, left = _CAPTION + row * pitch, margin + column * (width + _GAP)
            page[top : top + height, left : left + width] = pixels[row, column]
    picture = Image.fromarray(page)
    pen = ImageDraw.Draw(picture)
    middles = [margin + column * (width + _GAP) + width / 2 for column in range(columns)]
    for middle, caption in zip(middles, captions, strict=False):
        pen.text((middle, _CAPTION / 2), caption, INK, font, anchor="mm")
    for row, label in enumerate(labels):
        pen.multiline_text((4, _CAPTION + row * pitch + height / 2), label, INK, font, anchor="lm")
    for row, line in enumerate(notes):
        for middle, note in zip(middles, line, strict=True):
            pen.text((middle, _CAPTION + row * pitch + height + below / 2), note, INK, font, anchor="mm")
    return np.asarray(picture)


def error_map(template: FaceTemplate, errors: dict[str, Tensor], size: int = 240) -> np.ndarray:
    """Draws the mean face coloured by the error at each vertex, with a colour bar in mm.

    errors: caption -> [V] mm, one view each. Vertices outside the evaluated region stay grey. Returns uint8 [H,W,3]
    sRGB. Raises ValueError for no errors or another number of vertices.
    """
    count = len(template.vertices)
    if not errors or any(value.shape != (count,) for value in errors.values()):
        raise ValueError(f"errors must hold at least one [{count}] tensor")
    face = template.regions["face"] > 0.5
    values = torch.stack([value.float() for value in errors.values()])  # [N,V]
    top = scale_end(values[:, face])
    surfaces = template.vertices.expand(len(values), -1, -1)
    cells = heat(*portrait(template, surfaces, error_colors(template, values, top), size))
    captions = [f"{name}: {float(v[face].mean()):.2f} mm" for name, v in errors.items()]
    picture = tile(cells[None], captions)
    return np.concatenate([picture, colorbar(len(picture), top)], axis=1)


def portrait(
    template: FaceTemplate,
    shapes: Tensor,  # [N, V, 3] mm
    fields: Tensor,  # [N, V, C]
    size: int,
    turn: float = 0.0,
) -> tuple[Tensor, Tensor]:  # [N, S, S, C + 3], [N, S, S, 1]
    """Renders shapes in the model frame by one camera that frames the template's face; returns what `draw` does.

    `turn` in degrees rotates the faces to the image's right. `fields` are linear; channels of clay are appended.
    """
    angle = torch.tensor([0.0, torch.pi / 180 * turn, 0.0])
    rotation = torch.tensor(FRONTAL) @ rotation_from_axis_angle(angle)
    region = template.vertices[template.regions["face"] > 0.5] @ rotation.mT
    low, high = region.amin(0), region.amax(0)
    x, y = ((low + high) / 2)[:2].tolist()
    distance = 900.0  # mm
    focal = size * (distance - 50) / (_FRAMED * float((high - low)[:2].max()))
    K = torch.tensor([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1]])
    surfaces = (shapes.float() @ rotation.mT + torch.tensor([-x, -y, distance])).contiguous()
    fields = torch.cat([fields, vertex_normals(surfaces, template.triangles)], -1)
    return draw(surfaces, template.triangles, fields, K.expand(len(shapes), 3, 3), size)


def on_paper(layer: Tensor, alpha: Tensor) -> Tensor:
    """Composites a drawn layer [...,3] with coverage [...,1] on the page colour; sRGB in [0,1]."""
    return linear_to_srgb(layer + (1 - alpha) * srgb_to_linear(torch.tensor(PAPER) / 255.0))


def heat(drawn: Tensor, alpha: Tensor) -> Tensor:
    """Shades colours by clay ([...,6] from `draw`) and composites them on the page colour; sRGB in [0,1]."""
    tint, clay = drawn.split(3, -1)
    return on_paper(tint * (0.35 + 0.65 * clay / (_GREY * alpha.clamp(min=1e-3))), alpha)


def error_colors(template: FaceTemplate, errors: Tensor, top: float) -> Tensor:
    """Maps errors [N,V] to linear colours [N,V,3], from 0 to `top`; grey outside the evaluated region."""
    colors = srgb_to_linear(colormap(errors.float() / top))
    return torch.where((template.regions["face"] > 0.5)[:, None], colors, torch.tensor(_GREY))


def scale_end(errors: Tensor) -> float:
    """Returns a round number that is not below the 98th percentile of errors."""
    return nice_ceiling(float(np.quantile(errors.numpy(), 0.98)))


def colormap(values: Tensor) -> Tensor:
    """Maps values [...], clamped to [0,1], to viridis colours, sRGB [...,3] in [0,1]."""
    stops = torch.tensor(_COLORMAP) / 255.0
    position = values.clamp(0, 1) * (len(stops) - 1)
    lower = position.floor().clamp(max=len(stops) - 2)
    return torch.lerp(stops[lower.long()], stops[lower.long() + 1], (position - lower)[..., None])


def nice_ceiling(value: float) -> float:
    """Rounds a positive value up to 1, 1.5, 2, 3, 4, 5, 6 or 8 times a power of ten."""
    power = 10.0 ** np.floor(np.log10(max(value, 1e-6)))
    return float(next(power * m for m in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if power * m >= value * (1 - 1e-9)))


def save_image(path: str | Path, picture: np.ndarray) -> None:
    """Writes a uint8 [H,W,3] sRGB image as PNG, atomically."""
    with atomic_path(path) as temporary:
        Image.fromarray(picture).save(temporary, "PNG", optimize=True)


def colorbar(height: int, top: float) -> np.ndarray:
    """Draws a colour bar from 0 to `top` mm with ticks, at the top of a strip: uint8 [height,64,3]."""
    picture = Image.new("RGB", (64, height), PAPER)
    pen = ImageDraw.Draw(picture)
    start, end = _CAPTION + 10, min(height, _CAPTION + _BAR) - 10
    ramp = colormap(torch.linspace(1, 0, end - start))[:, None].expand(-1, 12, -1)
    picture.paste(Image.fromarray((ramp * 255).byte().numpy()), (10, start))
    for share in (0.0, 0.5, 1.0):
        pen.text(
            (27, end - share * (end - start)), f"{share * top:g}", INK, ImageFont.load_default(_LETTERS), anchor="lm"
        )
    pen.text((37, _CAPTION / 2), "mm", INK, ImageFont.load_default(_LETTERS), anchor="mm")
    return np.asarray(picture)
