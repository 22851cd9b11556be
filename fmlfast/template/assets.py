"""Loads the shipped template file: mesh, masks, expressions, landmarks, graph, and targets of synthetic people."""

from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

FILE = Path(__file__).with_name("template.npz")


@cache
def load_assets() -> dict[str, NDArray]:
    """Loads the arrays of the shipped template file, by name; cached."""
    with np.load(FILE, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}
