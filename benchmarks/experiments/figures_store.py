"""Figures on disk: each a PNG with its caption and numbers beside it in JSON, and their section of docs/results.md."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.experiments.summary import NOT_MEASURED
from fmlfast._atomic import atomic_path
from fmlfast.pictures import save_image
from fmlfast.tally import rounded

NAMES = ("cumulative", "error_faces", "mono_multi", "quantiles", "walks")
"""Of the figures, in the order of the page."""
STEP = 3
"""Grey levels that become one, which nobody sees: PNG files shrink by a third."""


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
    save_image(path, (figure.picture // STEP * STEP + STEP // 2).astype(np.uint8))
    note = {"title": figure.title, "caption": figure.caption, **source, "numbers": rounded(figure.numbers)}
    with atomic_path(path.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(note, indent=1) + "\n")
    return path


def section(images: Path) -> str:
    """The figures that are there, with captions and where they come from."""
    parts = ["## Figures"]
    for name in NAMES:
        note = images / f"{name}.json"
        if not note.exists():
            parts.append(f"{NOT_MEASURED.capitalize()} yet: {name}.")
            continue
        stored = json.loads(note.read_text())
        clips = f"{stored['people']} people of split {stored['split']}, {stored['refine_steps']} steps of refinement"
        source = f"Run {stored['run']}, seed {stored['seed']}, {stored['steps']} steps; {clips}; {stored['machine']}; "
        source += f"torch {stored['torch']}; commit {stored['commit']}."
        parts += [f"### {stored['title']}", f"![{stored['title']}](images/{name}.png)", f"{stored['caption']} {source}"]
    return "\n\n".join(parts)
