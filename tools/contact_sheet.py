"""Draws docs/images/synthetic.png, synthetic people in rows and columns: python tools/contact_sheet.py --help."""

import sys
from dataclasses import dataclass
from pathlib import Path

import fmlfast.common.passive_waiting  # noqa: F401  (before torch)

import numpy as np
from PIL import Image

from fmlfast.common.atomic import atomic_path
from fmlfast.common.progress import ProgressBar
from fmlfast.data.synthetic.generate import SyntheticConfig, render_person

_STEP = 4  # the lowest two bits are mostly sensor noise, which a PNG cannot compress


@dataclass(frozen=True)
class SheetConfig:
    """Settings of the contact sheet."""

    out: Path = Path("docs/images/synthetic.png")
    """Output PNG."""
    columns: int = 6
    """Number of columns."""
    rows: int = 4
    """Number of rows."""
    size: int = 192
    """Side of an image, pixels."""
    level: int = 2
    """Subdivision level of the meshes."""
    supersample: float = 2.0
    """Samples per pixel along each axis."""
    seed: int = 3
    """Seed of the people."""


def contact_sheet(config: SheetConfig) -> np.ndarray:
    """Renders the first people of the validation split, [rows * size, columns * size, 3] uint8."""
    settings = SyntheticConfig(
        out=config.out.parent,
        frames=1,
        size=config.size,
        level=config.level,
        supersample=config.supersample,
        seed=config.seed,
    )
    people = ProgressBar(range(config.rows * config.columns), desc="people")
    faces = np.stack([render_person(settings, "val", person).clip.images[0] for person in people])
    grid = faces.reshape(config.rows, config.columns, config.size, config.size, 3)
    return grid.transpose(0, 2, 1, 3, 4).reshape(config.rows * config.size, config.columns * config.size, 3)


def main() -> None:
    import tyro

    try:
        config = tyro.cli(SheetConfig, description=__doc__)
        sheet = Image.fromarray(contact_sheet(config) // _STEP * _STEP + _STEP // 2)
        with atomic_path(config.out) as temporary:
            sheet.save(temporary, optimize=True)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
