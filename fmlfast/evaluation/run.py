"""Evaluates a run folder on prepared clips, with ground truth or without, and writes the table into it."""

from pathlib import Path
from typing import Any

import torch

from fmlfast.common.locks import check_writable
from fmlfast.evaluation.protocol import has_truth, measure
from fmlfast.evaluation.stored_table import store_table
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

    With ground truth it also writes error_map.png. An earlier table is renamed to evaluation-DATA-SPLIT.json.
    Returns the table. The default `device` is a GPU if there is one.
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
    store_table(run / "evaluation.json", table, ("data", "split"))
    return table
