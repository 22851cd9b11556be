"""Stores figures: each a PNG, its caption and numbers in JSON, and their section of docs/results.md."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fmlfast.common.atomic import atomic_path
from fmlfast.evaluation.table import rounded
from fmlfast.visualization.panels import save_image

NAMES = ("cumulative", "error_faces", "mono_multi", "quantiles", "walks")
"""Of the figures, in the order of the page."""
MOST_BYTES = 400_000
"""Of a PNG file, so that a page of figures loads quickly."""
STEPS = (1, 3, 5, 15)
"""How many grey levels may become one to keep to that; 3 nobody sees, and they save a third."""


@dataclass(frozen=True)
class Figure:
    """A picture, uint8 [H,W,3] sRGB, with what it shows in words and in numbers."""

    name: str
    title: str
    picture: np.ndarray
    caption: str
    numbers: dict[str, Any]


def store(figure: Figure, folder: Path, source: dict[str, Any]) -> Path:
    """Writes <name>.png and <name>.json, which holds title, caption, numbers and `source`; returns the PNG's path."""
    path = folder / f"{figure.name}.png"
    with atomic_path(path) as temporary:
        for step in STEPS:
            save_image(temporary, figure.picture - figure.picture % step)
            if temporary.stat().st_size <= MOST_BYTES:
                break
    note = {"title": figure.title, "caption": figure.caption, **source, "numbers": rounded(figure.numbers)}
    with atomic_path(path.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(note, indent=1) + "\n")
    return path


def section(images: Path) -> str:
    """Writes the section of the stored figures, with captions and where they come from."""
    stored = {name: json.loads(path.read_text()) for name in NAMES if (path := images / f"{name}.json").exists()}
    parts = ["## Figures"]
    for name, note in stored.items():
        clips = f"{note['people']} people of split {note['split']}, {note['refine_steps']} steps of refinement"
        source = f"Run {note['run']}, seed {note['seed']}, {note['steps']} steps, trained at commit {note['trained']}; "
        source += f"{clips}; {note['machine']}; torch {note['torch']}; drawn at commit {note['commit']}."
        parts += [f"### {note['title']}", f"![{note['title']}](images/{name}.png)", f"{note['caption']} {source}"]
    if missing := [name for name in NAMES if name not in stored]:
        parts.append(f"Not drawn yet: {', '.join(missing)}.")
    return "\n\n".join(parts)
