"""Samples people of another head model, registered to the template by tools/register_population.py."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from fmlfast.common.stored_arrays import read_arrays
from fmlfast.data.synthetic.people import PeopleSampler, Person
from fmlfast.template.face_template import FaceTemplate

MOST_POPULATION = 2**32  # bytes
_MOST = 2.5  # standard deviations of a mode


class Population:
    """A linear model of neutral faces: mean and identity modes of unit variance on the template's base mesh."""

    def __init__(self, path: str | Path) -> None:
        """Loads the registered model. Raises ValueError naming the file if it is none or of another template."""
        self.name = Path(path).stem
        try:
            stored = read_arrays(path, MOST_POPULATION)
            fingerprint = str(stored["fingerprint"])
            self.mean = stored["mean"].astype(np.float32)  # [V0, 3] mm
            self.modes = stored["modes"].astype(np.float32)  # [K, V0, 3] mm
            if self.modes.shape[1:] != self.mean.shape or not np.isfinite(self.mean).all():
                raise ValueError("mean and modes do not go together")
        except (FileNotFoundError, KeyError, ValueError, TypeError) as error:
            raise ValueError(f"{path}: no population; make one with tools/register_population.py ({error})") from error
        if fingerprint != FaceTemplate.default(0).fingerprint:
            raise ValueError(
                f"{path}: registered to template {fingerprint}, which is not this version's; register anew"
            )

    def sample(self, rng: np.random.Generator, people: PeopleSampler) -> Person:
        """Draws a person: the shape from this population, age, gender and ancestry from `people`."""
        amounts = np.clip(rng.standard_normal(len(self.modes)), -_MOST, _MOST).astype(np.float32)
        return replace(people.sample(rng), vertices=self.mean + np.einsum("k,kvc->vc", amounts, self.modes))
