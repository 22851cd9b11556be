"""Evaluates a run folder on prepared clips, with ground truth or without, and writes the table into it."""

import json
from pathlib import Path
from typing import Any

import torch

from fmlfast.common.atomic import atomic_path, check_writable
from fmlfast.evaluation.protocol import has_truth, measure
from fmlfast.evaluation.table import row_name
from fmlfast.model.fml import FML
from fmlfast.visualization.panels import error_map, save_image


def evaluate_run(
    run: str | Path,
    data: str | Path,
    split: str = "test",
    *,
    refine_steps: int = 50,
    clips: int | None = None,
    device: torch.device | str | None = None,
) -> dict[str, Any]:
    """Evaluates the model of a run folder on prepared clips and writes evaluation.json into the folder.

    With ground truth it also writes error_map.png. An earlier table of other clips is renamed to
    evaluation-DATA-SPLIT.json. Returns the table. The default `device` is a GPU if there is one.
    """
    run = Path(run)
    check_writable(run / "evaluation.json")  # before the work
    model = FML.load(run, device or ("cuda" if torch.cuda.is_available() else "cpu"))
    result = measure(model, data, split, refine_steps=refine_steps, clips=clips, simulated=True)
    if has_truth(data, split):
        shown = {row: values for row, values in result.vertex_errors.items() if not row.startswith("simulated_")}
        named = {row_name(row): values for row, values in shown.items()}
        save_image(run / "error_map.png", error_map(result.template, named))
    table = {"data": Path(data).resolve().name} | result.table
    stored = run / "evaluation.json"
    _keep_other(stored, table)
    with atomic_path(stored) as path:
        path.write_text(json.dumps(table, indent=2) + "\n")
    return table


def _keep_other(stored: Path, table: dict[str, Any]) -> None:
    """Renames an earlier table of other clips to evaluation-DATA-SPLIT.json."""
    if stored.exists():
        try:
            old = json.loads(stored.read_text())
        except ValueError:
            old = {}
        name = f"evaluation-{old.get('data', 'unknown')}-{old.get('split', 'unknown')}.json"
        if name != f"evaluation-{table['data']}-{table['split']}.json":
            stored.replace(stored.with_name(name))
