"""Plots how the time of an element changes along each sweep."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmarks.harness.rows import Row
from benchmarks.report.table import floor_ms, providers_of
from fmlfast.common.atomic import atomic_path
from fmlfast.common.extras import require

AXES = {
    "subjects": "subjects in a batch",
    "image": "side of the image, px",
    "area": "area of a triangle, px",
    "vertices": "vertices",
    "dimensions": "dimensions of the basis",
}
COLORS = ("#d1495b", "#2e4057", "#66a182", "#edae49", "#7768ae", "#00798c", "#8d6a4b")
STYLES = {"forward": "-", "backward": "--"}
COLUMNS = 4


def sweep_plots(device: str, rows: Sequence[Row], folder: Path) -> dict[str, Path]:
    """Writes bench-<device>-<sweep>.png for every sweep that has times; returns their paths by sweep."""
    timed = [row for row in rows if row.sweep and row.median_ms is not None]
    if not timed:
        return {}
    matplotlib = require("matplotlib", "eval")
    matplotlib.use("Agg")
    plt = require("matplotlib.pyplot", "eval")
    colors: dict[str, str] = dict(zip(providers_of(timed), COLORS, strict=False))
    paths = {}
    for sweep in sorted({row.sweep for row in timed}, key=list(AXES).index):
        paths[sweep] = folder / f"bench-{device}-{sweep}.png"
        with atomic_path(paths[sweep]) as temporary:
            _draw(plt, sweep, [row for row in timed if row.sweep == sweep], colors, temporary)
    return paths


def _draw(plt: ModuleType, sweep: str, rows: Sequence[Row], colors: dict[str, str], path: Path) -> None:
    ops = sorted({row.op for row in rows})
    ticker = require("matplotlib.ticker", "eval")
    columns = min(COLUMNS, len(ops))
    lines = -(-len(ops) // columns)
    figure, axes = plt.subplots(
        lines, columns, figsize=(max(3.0 * columns, 4.5), 2.6 * lines + 0.7), squeeze=False, layout="constrained"
    )
    known: dict[str, Any] = {}
    for op, panel in zip(ops, axes.flat, strict=False):
        some = [row for row in rows if row.op == op]
        known |= _panel(panel, some, colors)
        panel.set_title(op, fontsize=10)
        label = f"ns per {some[0].element}" if some[0].elements else "ms"
        panel.set_ylabel(textwrap.fill(label, 24), fontsize=9)
        ticks = sorted({row.x for row in some})
        panel.set_xticks(ticks, [_tick(x) for x in ticks], fontsize=8)
        panel.xaxis.minorticks_off()
        panel.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5), numticks=8))
        panel.yaxis.set_minor_locator(ticker.NullLocator())
        panel.yaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
        panel.tick_params(axis="y", labelsize=8)
    for panel in axes.flat[len(ops) :]:
        panel.set_visible(False)
    figure.supxlabel(AXES[sweep], fontsize=10)
    fit = int(figure.get_figwidth() / (0.6 + 0.07 * max(map(len, known))))  # inches, at this size of letters
    legend = dict(loc="outside upper center", ncols=max(1, min(len(known), fit)), fontsize=8, frameon=False)
    figure.legend(known.values(), known.keys(), **legend)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def _panel(panel: Any, rows: Sequence[Row], colors: dict[str, str]) -> dict[str, Any]:
    """Draws one operation; returns its lines by label."""
    known = {}
    panel.set_xscale("log")
    panel.set_yscale("log")
    for direction, style in STYLES.items():
        for provider in providers_of(rows):
            line = sorted((r for r in rows if (r.provider, r.direction) == (provider, direction)), key=lambda r: r.x)
            if not line:
                continue
            (drawn,) = panel.plot(
                [r.x for r in line],
                [_each(r, r.median_ms) for r in line],
                color=colors[provider],
                linestyle=style,
                marker="o",
                markersize=3.5,
                linewidth=1.5,
            )
            known[f"{provider} {direction}"] = drawn
        floor = sorted((r for r in rows if r.direction == direction and floor_ms(r)), key=lambda r: r.x)
        if floor:
            at = {r.x: _each(r, floor_ms(r)) for r in floor}
            (drawn,) = panel.plot(list(at), list(at.values()), color="#999999", linestyle=style, linewidth=1)
            known[f"floor {direction}"] = drawn
    low, high = panel.get_ylim()
    if high < 20 * low:  # a flat curve is to look flat
        middle = (low * high) ** 0.5
        panel.set_ylim(middle / 20**0.5, middle * 20**0.5)
    panel.grid(True, which="major", color="#dddddd", linewidth=0.6)
    panel.spines[["top", "right"]].set_visible(False)
    return known


def _each(row: Row, milliseconds: float | None) -> float:
    """Returns the time of an element in ns, or of all in ms where there are none."""
    time = milliseconds or float("nan")
    return time * 1e6 / row.elements if row.elements else time


def _tick(x: float) -> str:
    if x >= 1e6:
        return f"{x / 1e6:.3g}M"
    return f"{x / 1e3:.3g}k" if x >= 1e4 else f"{x:g}"
