"""Ties the face detector's points to a user's own template folder: renders the head, looks, writes surface.txt."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fmlfast.color import linear_to_srgb
from fmlfast.common.atomic import atomic_path
from fmlfast.common.locks import check_writable
from fmlfast.data.face_detector import FaceDetector
from fmlfast.data.mediapipe478 import NUM_POINTS
from fmlfast.data.synthetic.background import random_backdrop
from fmlfast.data.synthetic.motion import rotation_from_angles
from fmlfast.data.synthetic.random_light import LUMINANCE, random_light
from fmlfast.data.synthetic.tie import Hits, Tie, find_hits, tie_points
from fmlfast.renderer import render, shade_vertices
from fmlfast.template.face_template import FaceTemplate
from fmlfast.template.folder import SURFACE, read_folder

SIZE = 256  # px, side of a view
LIMITS = (50.0, 25.0, 15.0)  # degrees of yaw, pitch and roll
_SPAN_MM = 235.0  # of a view at the depth of the face, as in training
_FOCAL = (2.0, 5.0)  # view widths
_OFF = 0.08  # largest shift of the face, view widths
_EXPRESSIONS, _STRENGTH = 3, 0.5  # most at once, and the largest strength
_ENOUGH = 1 / 3  # of the views must show a face


@dataclass(frozen=True)
class Calibration:
    """What `calibrate` did."""

    path: Path  # the file it wrote
    views: int
    seen: int  # views in which the detector found the face
    scatter: float  # mm, of a point's hits around their median; median over the points


@dataclass(frozen=True)
class View:
    """A picture of a template, and where its surface is."""

    image: NDArray[np.uint8]  # [256, 256, 3] sRGB
    vertices: Tensor  # [V, 3] mm, camera space
    K: Tensor  # [3, 3] px


def calibrate(folder: Path, unit: str, views: int = 200, seed: int = 0, overwrite: bool = False) -> Calibration:
    """Ties the detector's points to the template in `folder`, whose OBJ files are in `unit`, and writes surface.txt.

    Raises ValueError, with what to do, when the folder is no template, surface.txt exists and may not be overwritten,
    or the detector does not recognise the head.
    """
    path = folder / SURFACE
    if path.exists() and not overwrite:
        raise ValueError(f"{path} exists; add --overwrite to make it anew")
    if views < 1 or seed < 0:
        raise ValueError(f"views must be positive and seed not negative, got {views} and {seed}")
    check_writable(path)  # before the work
    template = FaceTemplate.from_arrays(folder.resolve().name, read_folder(folder, unit, with_surface=False))
    with FaceDetector() as detector:
        tie, seen = tie_template(template, detector, views, seed)
    scatter = float(np.nanmedian(tie.scatter))
    with atomic_path(path) as temporary:
        temporary.write_text(surface_text(tie, f"{views} views, seed {seed}: {seen} showed a face"), encoding="utf-8")
        temporary.chmod(0o644)
    return Calibration(path, views, seen, scatter)


def tie_template(template: FaceTemplate, detector: FaceDetector, views: int, seed: int) -> tuple[Tie, int]:
    """Ties the detector's points to a template at level 0 by random views of it; counts the views with a face, too.

    The points are those of the landmark network, as the model is fitted to them. Raises ValueError when fewer than a
    third of the views show a face.
    """
    parts = []
    for index in range(views):
        view = random_view(template, np.random.default_rng([seed, index]))
        seen = detector.observe(view.image)
        if seen.found[0]:
            points = torch.from_numpy(seen.surface[:, :NUM_POINTS])
            parts.append(find_hits(template, view.vertices[None], view.K[None], points, SIZE))
    if len(parts) < max(1.0, _ENOUGH * views):
        raise ValueError(
            f"the face detector found the head of {template.name} in {len(parts)} of {views} views only. Give "
            "neutral.obj vertex colours (`v x y z r g b`) with dark brows, irises and lips, so that it looks like a "
            "face; larger eyes help, too. Or leave surface.txt out: then the 68 landmarks alone are fitted"
        )
    return tie_points(template, Hits.join(parts)), len(parts)


def random_view(template: FaceTemplate, rng: np.random.Generator) -> View:
    """Renders the template with a random expression, pose, focal length, light and backdrop."""
    strength = np.zeros(len(template.expressions), np.float32)
    chosen = rng.permutation(len(strength))[: rng.integers(_EXPRESSIONS + 1)]
    strength[chosen] = rng.uniform(0.0, _STRENGTH, len(chosen))
    shape = template.vertices + torch.einsum("e,evc->vc", torch.from_numpy(strength), template.expressions)
    turn = torch.from_numpy(rotation_from_angles(rng.uniform(-1.0, 1.0, 3) * LIMITS)).float()
    focal = float(np.exp(rng.uniform(*np.log(_FOCAL))))
    shift = np.array([*rng.uniform(-_OFF, _OFF, 2) * _SPAN_MM, focal * _SPAN_MM], np.float32)
    vertices = (shape @ turn.T + torch.from_numpy(shift)).contiguous()
    K = torch.tensor([[focal * SIZE, 0.0, SIZE / 2], [0.0, focal * SIZE, SIZE / 2], [0.0, 0.0, 1.0]])
    skin = template.colors[template.regions["face"] > 0.5].mean(0).numpy() @ LUMINANCE
    exposure = 1.2 * np.exp(rng.normal(0.0, 0.2)) * (max(float(skin), 0.02) / 0.25) ** -0.45  # as a camera exposes
    light = random_light(rng)
    sh = torch.from_numpy((light.sh * (exposure / light.facing)).astype(np.float32))  # and white balance
    colors, _ = shade_vertices(vertices[None], template.triangles, template.colors[None], sh[None])
    backdrop = torch.from_numpy(random_backdrop(rng, SIZE))
    camera = torch.eye(4)[None]
    picture = render(vertices[None], template.triangles, colors, camera, K[None], SIZE, SIZE, backdrop, supersample=2)
    image = (255.0 * linear_to_srgb(picture.image[0].clamp(0.0, 1.0))).round().byte().numpy()
    return View(image, vertices, K)


def surface_text(tie: Tie, note: str) -> str:
    """Formats a tie as a template folder's surface.txt, with `note` in its header."""
    rows = zip(tie.triangles.tolist(), tie.barycentrics.tolist(), strict=True)
    lines = [f"{triangle} {' '.join(f'{weight:.6f}' for weight in weights)}" for triangle, weights in rows]
    head = [
        "# Surface points of neutral.obj that the face detector's 478 points stand for, by `fmlfast calibrate`",
        f"# ({note}). A line: triangle (from 0, polygons cut into fans), three barycentrics.",
    ]
    return "\n".join([*head, *lines]) + "\n"
