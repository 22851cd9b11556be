"""Sums up scan-to-mesh errors in a table and plots their cumulative curves."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fmlfast.common.atomic import atomic_path
from fmlfast.common.extras import require
from fmlfast.evaluation.scans.alignment import MeshToScan
from fmlfast.evaluation.scans.face_regions import FACE_PARTS
from fmlfast.evaluation.table import MEAN_FACE, row_name

CORRESPONDING = "_corresponding"  # ending of a kind whose distances are those of corresponding points
CURVE = np.round(np.arange(0.0, 7.01, 0.1), 1)  # mm, as NoW draws it


@dataclass(frozen=True)
class ScanErrors:
    """Distances from N scan points to the closest, or the corresponding, points of a mesh after alignment."""

    distances: NDArray[np.float64]  # [N] in the scan's unit
    nearest: NDArray[np.int64]  # [N] the mesh vertex next to each point's closest point
    alignment: MeshToScan
    converged: bool  # False where registration hit its limit of iterations

    @property
    def median(self) -> float:
        """Returns the median distance."""
        return float(np.median(self.distances))

    @property
    def mean(self) -> float:
        """Returns the mean distance."""
        return float(self.distances.mean())

    @property
    def std(self) -> float:
        """Returns the standard deviation of the distances."""
        return float(self.distances.std())

    def curve(self, thresholds: ArrayLike) -> NDArray[np.float64]:
        """Computes the share of points [K] that lie no farther from the mesh than each of K thresholds."""
        order = np.sort(self.distances)
        return np.searchsorted(order, np.asarray(thresholds, float), side="right") / len(order)


class ScanErrorTable:
    """Collects distances of scan points by row and kind: "posed" or "neutral", either also with CORRESPONDING."""

    def __init__(self) -> None:
        self._distances: dict[tuple[str, str], list[NDArray[np.float32]]] = {}
        self._parts: dict[tuple[str, str], list[NDArray[np.int8]]] = {}
        self._people: dict[tuple[str, str], list[str]] = {}
        self._unfinished = 0

    def add(
        self,
        row: str,
        kind: str,
        person: str,
        errors: ScanErrors,
        parts: NDArray[np.int64],  # [N]
        times: int = 1,
    ) -> None:
        """Adds the errors of one shape against one scan, and the face part of each, counted `times` times."""
        key = (row, kind)
        self._distances.setdefault(key, []).extend([errors.distances.astype(np.float32)] * times)
        self._parts.setdefault(key, []).extend([parts.astype(np.int8)] * times)
        self._people.setdefault(key, []).extend([person] * times)
        self._unfinished += not errors.converged

    @property
    def people(self) -> list[str]:
        """Lists the names of the people measured."""
        return list(dict.fromkeys(name for names in self._people.values() for name in names))

    def table(self) -> dict[str, Any]:
        """Computes the metrics of each row, ratios to the mean face, spread, parts, curves and people's means."""
        rows: dict[str, dict[str, float]] = {}
        spread: dict[str, dict[str, float | None]] = {}
        parts: dict[str, Any] = {}
        curves: dict[str, Any] = {"mm": CURVE.tolist()}
        means: dict[str, Any] = {}
        for row, kind in self._ordered():
            pieces, labels = self._distances[row, kind], np.concatenate(self._parts[row, kind])
            pooled = np.concatenate(pieces).astype(np.float64)
            rows.setdefault(row, {}).update(
                {
                    f"{kind}_median_mm": float(np.median(pooled)),
                    f"{kind}_mean_mm": float(pooled.mean()),
                    f"{kind}_std_mm": float(pooled.std()),
                }
            )
            person = self._person_means(row, kind)
            values = np.array(list(person.values()))
            error = float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else None
            spread.setdefault(row, {})[f"{kind}_mean_mm"] = error
            means.setdefault(row, {})[kind] = person
            curves.setdefault(row, {})[kind] = (np.searchsorted(np.sort(pooled), CURVE, "right") / len(pooled)).tolist()
            parts.setdefault(row, {})[kind] = {
                name: {"median_mm": float(np.median(inside)), "mean_mm": float(inside.mean())}
                for number, name in enumerate(FACE_PARTS)
                if len(inside := pooled[labels == number])
            }
        mean = rows[MEAN_FACE]
        ratios = {
            row: {name: value / mean[name] for name, value in named.items() if mean[name] > 0}
            for row, named in rows.items()
            if row != MEAN_FACE
        }
        return {
            **rows,
            "ratios": ratios,
            "spread": spread,
            "parts": parts,
            "curves": curves,
            "person_means": means,
            "corresponding_share": self._shares(),
            "not_converged": self._unfinished,
        }

    def _shares(self) -> dict[str, dict[str, float]]:
        """Computes by row and kind the share of the measured scan points that have a counterpart."""
        shares: dict[str, dict[str, float]] = {}
        for row, kind in self._ordered():
            if kind.endswith(CORRESPONDING):
                found, of = (self._distances[row, name] for name in (kind, kind.removesuffix(CORRESPONDING)))
                shares.setdefault(row, {})[kind] = sum(map(len, found)) / sum(map(len, of))
        return shares

    def _ordered(self) -> list[tuple[str, str]]:
        """Sorts the rows from the mean face to the refined one, posed before neutral, closest before corresponding."""
        rank = {MEAN_FACE: 0, "frames_1": 1}
        return sorted(
            self._distances,
            key=lambda key: (rank.get(key[0], 2), len(key[0]), not key[1].startswith("posed"), key[1]),
        )

    def _person_means(self, row: str, kind: str) -> dict[str, float]:
        """Averages the mean distances of each person's shapes."""
        by_person: dict[str, list[float]] = {}
        for person, piece in zip(self._people[row, kind], self._distances[row, kind], strict=True):
            by_person.setdefault(person, []).append(float(piece.mean(dtype=np.float64)))
        return {person: float(np.mean(values)) for person, values in by_person.items()}


def draw_curves(path: Path, table: dict[str, Any]) -> None:
    """Plots the cumulative error curves of a table as a PNG: closest points above, corresponding ones below."""
    figure_module = require("matplotlib.figure", "eval")
    rows = [row for row in table["curves"] if row != "mm"]
    kinds = list(dict.fromkeys(kind for row in rows for kind in table["curves"][row]))
    kinds.sort(key=lambda kind: kind.endswith(CORRESPONDING))
    columns = len(kinds) // 2
    figure = figure_module.Figure(figsize=(5.2 * columns, 7.6), layout="constrained")
    for number, kind in enumerate(kinds):
        axes = figure.add_subplot(2, columns, number + 1)
        for row in rows:
            shares = table["curves"][row].get(kind)
            if shares is not None:
                median = table[row][f"{kind}_median_mm"]
                label = f"{row_name(row)}, median {median:.2f} mm"
                axes.plot(table["curves"]["mm"], [100 * share for share in shares], label=label)
        corresponding = kind.endswith(CORRESPONDING)
        distance = "distance to the corresponding point" if corresponding else "distance from scan to mesh"
        axes.set(
            title=f"{kind.removesuffix(CORRESPONDING)} geometry", xlabel=f"{distance}, mm", ylabel="scan points, %"
        )
        axes.set(xlim=(0, table["curves"]["mm"][-1]), ylim=(0, 100))
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize=8, loc="lower right")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=130)
