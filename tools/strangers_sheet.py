"""Draws docs/images/strangers.png: reconstructions of synthetic people that no model was trained on, one photo each.

python tools/strangers_sheet.py --population people-ict.npz
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import fmlfast.common.passive_waiting  # noqa: F401  (before torch)

import numpy as np
import torch
import tyro
from PIL import Image
from torch import Tensor

from fmlfast.color import linear_to_srgb, srgb_to_linear
from fmlfast.common.atomic import atomic_path
from fmlfast.common.progress import ProgressBar
from fmlfast.data.synthetic.generate import SyntheticConfig, render_person
from fmlfast.model.lighting import ambient_factor
from fmlfast.reconstruction.pipeline import reconstruct
from fmlfast.reconstruction.result import Reconstruction
from fmlfast.rotation import FRONTAL, rotation_from_axis_angle
from fmlfast.visualization.appearance import flat_light, render_face, standard_light
from fmlfast.visualization.panels import PAPER, on_paper, portrait, tile

COLUMNS = ("photo", "overlay", "neutral", "reflectance", "texture relit", "turned by 40°")
DISTANCE, SPAN = 900.0, 300.0  # mm from the camera, and mm that a picture shows there
TURN = 40.0  # degrees


@dataclass(frozen=True)
class SheetConfig:
    """Settings of the sheet."""

    out: Path = Path("docs/images/strangers.png")
    """Output PNG."""
    people: int = 8
    """Number of people, a row each."""
    size: int = 200
    """Side of a picture, pixels."""
    photo: int = 400
    """Side of the photos that are reconstructed, pixels."""
    population: Path | None = None
    """People of another head model among them."""
    checkpoint: Path | None = None
    """Run folder; the model that ships by default."""
    seed: int = 77
    """Seed of the people."""


def row(result: Reconstruction, size: int) -> Tensor:  # [6, size, size, 3]
    """Draws one person, sRGB."""
    photo, drawn = (_resized(image, size) for image in (result.photos[0], result.overlay(0)))
    clay = on_paper(*_clay(result, size))
    lit = standard_light(), ambient_factor(result.template)
    flat = flat_light(), torch.ones(len(result.neutral))
    views = [_view(result, *light, turn, size) for light, turn in ((flat, 0.0), (lit, 0.0), (lit, TURN))]
    return torch.stack([photo, drawn, clay, *views])


def _resized(image: np.ndarray, size: int) -> Tensor:
    small = Image.fromarray(image).resize((size, size), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(small)).float() / 255


def _clay(result: Reconstruction, size: int) -> tuple[Tensor, Tensor]:
    shape = result.neutral[None]
    drawn, alpha = portrait(result.template, shape, shape.new_zeros(1, shape.shape[1], 3), size)
    return drawn[0, ..., 3:], alpha[0]


def _view(result: Reconstruction, sh: Tensor, ambient: Tensor, turn: float, size: int) -> Tensor:
    """Renders the neutral face with its texture, turned to the picture's right."""
    angle = torch.tensor([0.0, torch.pi / 180 * turn, 0.0])
    rotation = torch.tensor(FRONTAL) @ rotation_from_axis_angle(angle)
    vertices = result.neutral @ rotation.mT + torch.tensor([0.0, -20.0, DISTANCE])
    focal = size * DISTANCE / SPAN
    K = torch.tensor([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1]])
    solid = torch.ones(len(vertices))
    face = render_face(vertices, result.template.triangles, result.albedo(), sh, ambient, solid, K, 0, 0, size, size)
    return linear_to_srgb(face[..., :3] + (1 - face[..., 3:]) * srgb_to_linear(torch.tensor(PAPER) / 255))


def main(config: SheetConfig) -> None:
    settings = SyntheticConfig(
        out=config.out.parent,
        frames=1,
        size=config.photo,
        level=2,
        supersample=2.0,
        seed=config.seed,
        population=config.population,
    )
    rows, person = [], 0
    with ProgressBar(total=config.people, desc="people") as progress:
        while len(rows) < config.people:
            photo = render_person(settings, "test", person).clip.images[0]
            person += 1
            try:
                rows.append(row(reconstruct(photo, config.checkpoint), config.size))
            except ValueError:  # the detector does not find every face
                continue
            progress.update()
    with atomic_path(config.out) as temporary:
        Image.fromarray(tile(torch.stack(rows), COLUMNS)).save(temporary, optimize=True)


if __name__ == "__main__":
    try:
        main(tyro.cli(SheetConfig, description=__doc__))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
