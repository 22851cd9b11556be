"""Measures the error of each named expression's coefficient on frames whose true expressions are known."""

from typing import Any

import torch
from torch import Tensor

COMMONEST = 10  # expressions that the mean error is of
_ACTIVE = 0.1  # a coefficient above it shows


class ExpressionTable:
    """Collects expressions of F frames by row, and compares them with the truth by name; sides share a name."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self._columns: dict[str, list[int]] = {}
        for column, name in enumerate(names):
            self._columns.setdefault(name.removesuffix("Left").removesuffix("Right"), []).append(column)
        self._found: dict[str, list[Tensor]] = {}
        self._truth: dict[str, list[Tensor]] = {}

    def add(
        self,
        row: str,
        found: Tensor,  # [F, E]
        truth: Tensor,  # [F, E]
    ) -> None:
        """Adds expressions of the same frames."""
        self._found.setdefault(row, []).append(found.double())
        self._truth.setdefault(row, []).append(truth.double())

    def table(self) -> dict[str, Any]:
        """Computes the errors as JSON types, names in the order of their mean true coefficient.

        `by_name`: of each name `activity` (the mean true coefficient), `active` (the share of frames where it is
        above 0.1), and for every row `error` (mean absolute), `active_error` (the same over the active frames) and
        `correlation` with the truth; None where nothing is active or nothing varies. `commonest`: the ten names of
        greatest activity; `mean_error` and `mean_active_error`: the means over these, by row.
        """
        rows = {row: (torch.cat(parts), torch.cat(self._truth[row])) for row, parts in self._found.items()}
        _, truth = next(iter(rows.values()))
        by_name = {}
        for name, columns in self._columns.items():
            by_name[name] = {
                "activity": float(truth[:, columns].mean()),
                "active": float((truth[:, columns] > _ACTIVE).double().mean()),
            } | {row: _compare(found[:, columns], true[:, columns]) for row, (found, true) in rows.items()}
        by_name = dict(sorted(by_name.items(), key=lambda item: -item[1]["activity"]))
        commonest = list(by_name)[:COMMONEST]

        def means(kind: str) -> dict[str, float | None]:
            return {row: _mean([by_name[name][row][kind] for name in commonest]) for row in rows}

        mean_errors = {"mean_error": means("error"), "mean_active_error": means("active_error")}
        return {"commonest": commonest, **mean_errors, "by_name": by_name}


def _compare(found: Tensor, truth: Tensor) -> dict[str, float | None]:
    """Compares coefficients of one name."""
    errors, active = (found - truth).abs(), truth > _ACTIVE
    varies = float(found.std()) > 0 and float(truth.std()) > 0
    pair = torch.stack([found.flatten(), truth.flatten()])
    return {
        "error": float(errors.mean()),
        "active_error": float(errors[active].mean()) if active.any() else None,
        "correlation": float(torch.corrcoef(pair)[0, 1]) if varies else None,
    }


def _mean(values: list[float | None]) -> float | None:
    """Averages the numbers among the values."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
