"""Draws the curves of a training run."""

from typing import Any

import numpy as np

from fmlfast.common.extras import require

COLUMNS = 3


def training_curves(history: list[dict[str, float]]) -> Any:
    """Plots each logged quantity in a panel of a matplotlib Figure; None where there is none.

    history: one dict per logged step, with "step" in each. Faint is the quantity as logged, bold its moving mean over
    5 % of it. An axis is logarithmic where the values are positive and span more than a factor of ten; non-finite
    values are left out. Raises ImportError, naming the extra, where matplotlib is not installed.
    """
    named = {name: _finite(history, name) for record in history for name in record if name != "step"}
    panels = {name: points for name, points in named.items() if len(points)}
    if not panels:
        return None
    ordered = sorted(panels, key=lambda name: (name != "loss", name == "frames_per_second"))
    lines = -(-len(ordered) // COLUMNS)
    figure = require("matplotlib.figure", "eval").Figure(figsize=(3.6 * COLUMNS, 2.2 * lines), layout="constrained")
    for number, name in enumerate(ordered):
        steps, values = panels[name].T
        axes = figure.add_subplot(lines, COLUMNS, number + 1)
        axes.plot(steps, values, color="#2c6e8e", alpha=0.22)
        axes.plot(steps, moving_mean(values, len(values) // 40), color="#2c6e8e", linewidth=1.7)
        if values.min() > 0 and values.max() > 10 * values.min():
            axes.set_yscale("log")
        title = name.replace("_", " ")[:40].encode("utf-8", "replace").decode()  # half a character stops the drawing
        axes.set_title(title, fontsize=9, parse_math=False)
        axes.tick_params(which="both", labelsize=7)
        axes.grid(alpha=0.3)
    return figure


def moving_mean(values: np.ndarray, reach: int) -> np.ndarray:
    """Computes the centred moving mean [N] of values [N] over `reach` neighbours on both sides.

    Near the ends the window shrinks symmetrically, so that the mean does not lag behind the curve.
    """
    total = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    reaches = np.minimum(np.minimum(reach, index), len(values) - 1 - index)
    return (total[index + reaches + 1] - total[index - reaches]) / (2 * reaches + 1)


def _finite(history: list[dict[str, float]], name: str) -> np.ndarray:
    """Returns the steps and finite values of a quantity, [N, 2]."""
    points = np.array([(r["step"], r[name]) for r in history if name in r], float).reshape(-1, 2)
    return points[np.isfinite(points).all(1)]
