"""The evaluation table: errors per frame in, means over people with spread and ratios out."""

from typing import Any

import torch
from torch import Tensor

MEAN_FACE = "mean_face"
METRICS = ("vertex_mm", "neutral_mm", "normal_deg", "landmark_nme", "photometric", "rotation_deg")


class ErrorTable:
    """Collects errors per frame; averages them over the frames of a person, then over people."""

    def __init__(self, vertices: int) -> None:
        self._values: dict[str, dict[str, list[Tensor]]] = {}
        self._people: dict[str, list[str]] = {}
        self._distances: dict[str, Tensor] = {}
        self._vertices = vertices

    def add(self, row: str, people: list[str], errors: dict[str, Tensor], distances: Tensor | None) -> None:
        """Errors [F] by metric and distances [V], summed over the frames, whose subjects are `people`."""
        for name, values in errors.items():
            self._values.setdefault(row, {}).setdefault(name, []).append(values.double())
        self._people.setdefault(row, []).extend(people)
        if distances is not None:
            total = self._distances.setdefault(row, torch.zeros(self._vertices, dtype=torch.float64))
            total += distances

    @property
    def people(self) -> int:
        """How many people there were."""
        return len(set(self._people[MEAN_FACE]))

    @property
    def frames(self) -> int:
        """How many frames there were."""
        return len(self._people[MEAN_FACE])

    def frame_errors(self) -> dict[str, dict[str, Tensor]]:
        """Every frame's errors [F], by row and metric, in the order they came in."""
        return {row: {name: torch.cat(parts) for name, parts in named.items()} for row, named in self._values.items()}

    def frame_people(self) -> list[str]:
        """The subject of every frame."""
        return list(self._people[MEAN_FACE])

    def vertex_errors(self) -> dict[str, Tensor]:
        """Mean distance per vertex, by row."""
        return {row: total / len(self._people[row]) for row, total in self._distances.items()}

    def table(self) -> dict[str, Any]:
        """Rows, their standard errors over people, and their ratios to the mean face."""
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
    """A row of the table in words: "frames_4_refined" is "4 frames, refined"."""
    words = row.split("_")
    if words[0] != "frames":
        return " ".join(words)
    return f"{words[1]} frame{'' if words[1] == '1' else 's'}{', refined' if words[-1] == 'refined' else ''}"


def rounded(value: Any) -> Any:
    """The same tree with floats at five significant digits: what the spread allows, and readable."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return float(f"{value:.5g}") if isinstance(value, float) else value
