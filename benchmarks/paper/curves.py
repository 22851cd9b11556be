"""Draws curves as pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.report.plots import COLORS
from fmlfast.common.atomic import atomic_path
from fmlfast.common.extras import require


@dataclass(frozen=True)
class Curve:
    """Points that belong together."""

    name: str
    points: Sequence[tuple[float, float]]


def draw(docs: Path, name: str, x: str, y: str, curves: Sequence[Curve]) -> str:
    """Writes images/<name>.png into the docs folder; returns the Markdown that shows it."""
    matplotlib = require("matplotlib", "eval")
    matplotlib.use("Agg")
    plt = require("matplotlib.pyplot", "eval")
    figure, axes = plt.subplots(figsize=(6.4, 3.8), layout="constrained")
    for number, curve in enumerate(curves):
        line = {"color": COLORS[number % len(COLORS)], "linestyle": "-" if number < len(COLORS) else "--"}
        axes.plot(*zip(*curve.points, strict=True), marker="o", markersize=3, label=curve.name, **line)
    axes.set(xlabel=x, ylabel=y, xscale="symlog")
    ticks = sorted({value for curve in curves for value, _ in curve.points})
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks], fontsize=8)
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    path = docs / "images" / f"{name}.png"
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)
    plt.close(figure)
    return f"![{y} by {x}](images/{name}.png)"
