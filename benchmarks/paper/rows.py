"""Stores measurements of trained models, with where they come from, in JSON files."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.harness.rows import RESULTS
from fmlfast.common.atomic import atomic_path
from fmlfast.evaluation.table import rounded

FOLDER = RESULTS / "paper"


@dataclass(frozen=True)
class Row:
    """What a study found of one variant, trained from one seed."""

    study: str
    variant: str
    seed: int
    steps: int
    budget: str
    machine: str
    torch: str
    commit: str
    """Of the measurement; ends in "-dirty" where files had changed since."""
    trained: str
    """Commit of the training."""
    recipe: str
    """Digest of all settings of training and measurement: a row of another recipe is measured anew."""
    config: dict[str, Any]
    """The settings that the variant changes."""
    metrics: dict[str, dict[str, float]]
    spread: dict[str, dict[str, float]] = field(default_factory=dict)
    """Standard errors over people."""

    @property
    def key(self) -> tuple[str, str, str, int]:
        """What there is one row of."""
        return self.study, self.budget, self.variant, self.seed


def read_rows(study: str, folder: Path = FOLDER) -> list[Row]:
    """Reads a study's rows; none where there is no file. Raises ValueError where the file holds something else."""
    path = folder / f"{study}.json"
    if not path.exists():
        return []
    try:
        return [Row(**row) for row in json.loads(path.read_text())]
    except (json.JSONDecodeError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} does not hold rows ({error}); remove it to measure anew") from error


def add_row(row: Row, folder: Path = FOLDER) -> None:
    """Stores a row at once, in place of those of the same variant that have the same seed or another recipe."""

    def stays(old: Row) -> bool:
        return (old.budget, old.variant) != (row.budget, row.variant) or old.recipe == row.recipe

    rows = {old.key: old for old in read_rows(row.study, folder) if stays(old)} | {row.key: row}
    write_rows(row.study, rows.values(), folder)


def write_rows(study: str, rows: Iterable[Row], folder: Path = FOLDER) -> None:
    """Writes a study's rows, floats at five digits."""
    listed = [rounded(asdict(row)) for row in sorted(rows, key=lambda row: row.key)]
    with atomic_path(folder / f"{study}.json") as path:
        path.write_text(json.dumps(listed, indent=1) + "\n")
