"""Averages errors per frame over people, with standard errors and ratios to the mean face."""

from typing import Any

import torch
from torch import Tensor

MEAN_FACE = "mean_face"
METRICS = (
    "vertex_mm",
    "neutral_mm",
    "normal_deg",
    "landmark_nme",
    "photometric",
    "rotation_deg",
    "tone_log",
    "pattern",
)


class ErrorTable:
    """Collects errors per frame and averages them over the frames of a person, then over people."""

    def __init__(self, vertices: int) -> None:
        self._values: dict[str, dict[str, list[Tensor]]] = {}
        self._people: dict[str, list[str]] = {}
        self._distances: dict[str, Tensor] = {}
        self._vertices = vertices

    def add(self, row: str, people: list[str], errors: dict[str, Tensor], distances: Tensor | None) -> None:
        """Adds errors [F] by metric and distances [V] mm, summed over the frames; `people` [F] are the subjects."""
        for name, values in errors.items():
            self._values.setdefault(row, {}).setdefault(name, []).append(values.double())
        self._people.setdefault(row, []).extend(people)
        if distances is not None:
            total = self._distances.setdefault(row, torch.zeros(self._vertices, dtype=torch.float64))
            total += distances

    @property
    def people(self) -> int:
        """Returns the number of people."""
        return len(set(self._people[MEAN_FACE]))

    @property
    def frames(self) -> int:
        """Returns the number of frames."""
        return len(self._people[MEAN_FACE])

    def frame_errors(self) -> dict[str, dict[str, Tensor]]:
        """Returns every frame's errors [F] float64, by row and metric, in the order added."""
        return {row: {name: torch.cat(parts) for name, parts in named.items()} for row, named in self._values.items()}

    def frame_people(self) -> list[str]:
        """Returns the subject of every frame, [F]."""
        return list(self._people[MEAN_FACE])

    def vertex_errors(self) -> dict[str, Tensor]:
        """Returns the mean distance per vertex [V], by row."""
        return {row: total / len(self._people[row]) for row, total in self._distances.items()}

    def table(self) -> dict[str, Any]:
        """Averages the errors by row, with standard errors over people and ratios to the mean face."""
        rows, spread = {}, {}
        for row, named in self._values.items():
            order = {person: number for number, person in enumerate(dict.fromkeys(self._people[row]))}
            index, count = torch.tensor([order[person] for person in self._people[row]]), len(order)
            rows[row], spread[row] = {}, {}
            for name in sorted(named, key=METRICS.index):
                values = torch.cat(named[name])
                sums = torch.zeros(count, dtype=torch.float64).index_add_(0, index, values)
                means = sums / torch.bincount(index, minlength=count)
                rows[row][name] = float(means.mean())
                spread[row][name] = float(means.std() / count**0.5) if count > 1 else None
        mean = rows[MEAN_FACE]
        ratios = {
            row: {name: value / mean[name] for name, value in values.items() if mean[name] > 0}
            for row, values in rows.items()
            if row != MEAN_FACE
        }
        return {**rows, "ratios": ratios, "spread": spread}


def row_name(row: str) -> str:
    """Formats the name of a row for display: "frames_4_refined" is "4 frames, refined"."""
    if row.startswith("simulated_"):
        return f"{row_name(row.removeprefix('simulated_'))}, simulated landmarks"
    words = row.split("_")
    if words[0] != "frames":
        return " ".join(words)
    return f"{words[1]} frame{'' if words[1] == '1' else 's'}{', refined' if words[-1] == 'refined' else ''}"


def rounded(value: Any) -> Any:
    """Rounds the floats of nested dicts to five significant digits."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return float(f"{value:.5g}") if isinstance(value, float) else value
