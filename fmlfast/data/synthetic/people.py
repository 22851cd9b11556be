"""Samples synthetic people from MakeHuman's identity targets on the base mesh of the template."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from fmlfast.metrics import similarity_align
from fmlfast.template.assets import load_assets

Array = NDArray[np.float32]

ETHNICITIES = ("african", "asian", "caucasian")
GENDERS = ("female", "male")
AGES = {"child": 10.0, "young": 25.0, "old": 90.0}  # years
LEVELS = ("min", "average", "max")
SPREAD = 0.8  # of the detail parameters, relative to a spread with some caricatures
DETAIL_SIGMA, SIDE_SIGMA, ASYMMETRY_SIGMA = 0.28, 0.03, 0.10  # at spread 1
ONE_SIDED = 0.6  # strength of a target that has no opposite
SKULL, SKULL_SPREAD = ("head-", "forehead-"), 0.6  # these reshape the whole head and are drawn closer to the mean


@dataclass(frozen=True)
class Person:
    """A neutral face with its attributes.

    `ethnicity` are weights of ETHNICITIES, `gender` is 0 female .. 1 male, `age` in years.
    """

    vertices: Array  # [V0, 3] mm, template frame, natural size
    age: float
    gender: float
    muscle: float
    weight: float
    ethnicity: NDArray[np.float64]  # [3]
    details: NDArray[np.float64]  # [P] signed parameters, names in PeopleSampler.detail_names


class PeopleSampler:
    """Samples people: age, gender, ethnicity, muscle, weight, and about 200 signed details of the face."""

    def __init__(self, assets: Mapping[str, NDArray] | None = None) -> None:
        """Loads the targets from the shipped template file, or from `assets` with the same arrays."""
        assets = load_assets() if assets is None else assets
        self.rest: Array = assets["people_rest"]  # [V0, 3]
        self.reference: Array = assets["vertices"]  # [V0, 3]
        self.align_weights: NDArray[np.float64] = assets["people_align"].astype(np.float64)  # [V0]
        names = [str(name) for name in assets["people_names"]]
        self._index = {name: k for k, name in enumerate(names)}
        self._targets = _dense_targets(assets, len(names), len(self.rest))  # [N, V0 * 3]
        pairs = assets["people_details"].astype(np.int64)  # [P, 2] target of the positive and the negative end, or -1
        self._positive, self._negative = pairs[:, 0], pairs[:, 1]
        self.detail_names: tuple[str, ...] = tuple(names[k] for k in self._positive)

    def sample(self, rng: np.random.Generator) -> Person:
        """Draws one person; equal generators give equal people."""
        ethnicity = rng.dirichlet([0.5, 0.5, 0.5])
        gender = float(rng.beta(0.6, 0.6))
        age = 20.0 + 55.0 * float(rng.beta(1.2, 1.6))
        muscle, weight = (float(x) for x in rng.beta(3.0, 3.0, 2))
        details = self._sample_details(rng)
        vertices = self.shape(ethnicity, gender, age, muscle, weight, details)
        return Person(vertices, age, gender, muscle, weight, ethnicity, details)

    def shape(
        self,
        ethnicity: NDArray[np.float64],
        gender: float,
        age: float,
        muscle: float,
        weight: float,
        details: NDArray[np.float64],
    ) -> Array:
        """Computes the face [V0, 3] in mm with these attributes (see Person), aligned rigidly to the template."""
        amounts = self._macro_amounts(ethnicity, gender, age, muscle, weight)
        self._add_details(amounts, details)
        shape = self.rest + (amounts @ self._targets).reshape(-1, 3)
        return align_rigid(shape, self.reference, self.align_weights).astype(np.float32)

    def _sample_details(self, rng: np.random.Generator) -> NDArray[np.float64]:
        shared: dict[str, float] = {}
        details = np.zeros(len(self.detail_names))
        for k, name in enumerate(self.detail_names):
            if name.startswith("asym"):
                details[k] = max(0.0, rng.normal(0.0, ASYMMETRY_SIGMA * SPREAD))
                continue
            both_sides = name[2:] if name[:2] in ("l-", "r-") else name
            if both_sides not in shared:
                sigma = DETAIL_SIGMA * SPREAD * (SKULL_SPREAD if name.startswith(SKULL) else 1.0)
                shared[both_sides] = float(rng.normal(0.0, sigma))
            own = float(rng.normal(0.0, SIDE_SIGMA * SPREAD)) if both_sides != name else 0.0
            details[k] = np.clip(shared[both_sides] + own, -1.0, 1.0)
        return details

    def _macro_amounts(
        self, ethnicity: NDArray[np.float64], gender: float, age: float, muscle: float, weight: float
    ) -> Array:
        amounts = np.zeros(len(self._index), np.float32)
        genders = dict(zip(GENDERS, (1.0 - gender, gender), strict=True))
        years = _hat_weights(age, AGES)
        muscles, weights = (_hat_weights(x, dict(zip(LEVELS, (0.0, 0.5, 1.0), strict=True))) for x in (muscle, weight))
        for g, by_gender in genders.items():
            for a, by_age in years.items():
                for e, by_ethnicity in zip(ETHNICITIES, ethnicity, strict=True):
                    amounts[self._index[f"{e}-{g}-{a}"]] = by_gender * by_age * by_ethnicity
                for m, by_muscle in muscles.items():
                    for w, by_weight in weights.items():
                        name = f"universal-{g}-{a}-{m}muscle-{w}weight"
                        amounts[self._index[name]] = by_gender * by_age * by_muscle * by_weight
        return amounts

    def _add_details(self, amounts: Array, details: NDArray[np.float64]) -> None:
        paired = self._negative >= 0
        amounts[self._positive] = np.maximum(details, 0.0) * np.where(paired, 1.0, ONE_SIDED)
        amounts[self._negative[paired]] = np.maximum(-details[paired], 0.0)


def _hat_weights(value: float, knots: Mapping[str, float]) -> dict[str, float]:
    """Computes piecewise-linear weights of the knots around a value."""
    names, places = list(knots), list(knots.values())
    return {name: float(np.interp(value, places, np.eye(len(places))[k])) for k, name in enumerate(names)}


def _dense_targets(assets: Mapping[str, NDArray], count: int, num_vertices: int) -> Array:
    offsets = assets["people_offsets"]  # [N + 1]
    dense = np.zeros((count, num_vertices, 3), np.float32)
    target = np.repeat(np.arange(count), np.diff(offsets))
    dense[target, assets["people_vertices"]] = assets["people_deltas"].astype(np.float32)
    return dense.reshape(count, -1)


def align_rigid(points: NDArray, reference: NDArray, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Aligns points [V, 3] to a reference [V, 3] by rotation and translation, weighted least squares (Kabsch)."""
    source, target, w = (torch.from_numpy(np.asarray(x, np.float64)) for x in (points, reference, weights))
    return similarity_align(source[None], target[None], w, scaled=False).apply(source[None])[0].numpy()
