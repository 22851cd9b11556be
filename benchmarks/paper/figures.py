"""Draws what a trained run makes of people it never saw: python -m benchmarks.paper figures RUN [options].

Every face shown is chosen by a quantile of its error; everything comes from one evaluation pass.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro

from benchmarks.harness.rows import provenance
from benchmarks.paper.figures_faces import error_faces, mono_multi, quantiles
from benchmarks.paper.figures_pass import Pass, run_pass
from benchmarks.paper.figures_store import Figure, store
from benchmarks.paper.figures_walks import walks
from benchmarks.report.plots import COLORS
from fmlfast.common.extras import require
from fmlfast.evaluation.table import row_name
from fmlfast.metrics import cumulative_shares
from fmlfast.model.fml import FML

LIMITS_MM = (1.0, 1.5, 2.0, 3.0)  # whose shares a caption's numbers hold


@dataclass(frozen=True)
class Options:
    """What is drawn, and where to."""

    run: Annotated[Path, tyro.conf.Positional]
    """A run folder."""
    data: Path = Path("data/synthetic")
    split: str = "test"
    refine: int = 50
    """Steps of refinement."""
    clips: int | None = None
    """At most so many clips."""
    out: Path = Path("docs/images")


def draw_figures(options: Options) -> list[Path]:
    """Writes all figures; returns their paths. Raises ValueError for clips without ground truth."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = FML.load(options.run, device)
    found = run_pass(model, options.data, options.split, refine_steps=options.refine, clips=options.clips)
    origin = source(options, found, device)
    own = model.template.to("cpu")
    made = (cumulative(found), error_faces(found), mono_multi(found), quantiles(found, own), walks(model))
    return [store(figure, options.out, origin) for figure in made]


def source(options: Options, found: Pass, device: str) -> dict[str, Any]:
    """Says where figures come from: the run and its seed and steps, the clips, and what measured them."""
    config = json.loads((options.run / "config.json").read_text())
    training = config.get("train", {})
    here, table = provenance(device), found.evaluation.table
    return {
        "run": options.run.resolve().name,
        "seed": training.get("seed"),
        "steps": training.get("steps"),
        "trained": config.get("machine", {}).get("commit"),
        "split": options.split,
        "people": table["people"],
        "clips": table["clips"],
        "frames": table["frames"],
        "refine_steps": options.refine,
        "machine": here["device"],
        "torch": here["torch"],
        "commit": here["commit"],
    }


def cumulative(found: Pass) -> Figure:
    """Draws the cumulative share of people, and of frames, below each error, for every row of the table."""
    matplotlib = require("matplotlib", "eval")
    matplotlib.use("Agg")
    plt = require("matplotlib.pyplot", "eval")
    by_frame = {row: found.evaluation.frames[row]["vertex_mm"] for row in found.rows}
    by_person = {row: torch.tensor(list(found.people_errors(row).values())).double() for row in found.rows}
    end = max(float(values.quantile(0.98)) for values in by_frame.values())
    limits = torch.linspace(0, end, 400, dtype=torch.float64)
    figure, panels = plt.subplots(1, 2, figsize=(9.2, 3.7), sharey=True, layout="constrained", dpi=110)
    for panel, errors, unit in zip(panels, (by_person, by_frame), ("people", "frames"), strict=True):
        for color, (row, values) in zip(COLORS, errors.items(), strict=False):
            shares = 100 * cumulative_shares(values, limits)
            panel.plot(limits, shares, color=color, label=row_name(row), linewidth=1.8)
        panel.set_title(f"{len(next(iter(errors.values())))} {unit}", fontsize=10)
        panel.set(xlabel="distance of the posed geometry, mm", xlim=(0, end), ylim=(0, 101))
        panel.grid(True, color="#dddddd", linewidth=0.6)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("share below, %")
    lines = panels[0].get_legend_handles_labels()
    figure.legend(*lines, loc="outside lower center", ncols=len(by_frame), fontsize=9, frameon=False)
    figure.canvas.draw()
    picture = np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()
    plt.close(figure)
    shares = {
        unit: {row: _shares(values) for row, values in errors.items()}
        for unit, errors in (("people", by_person), ("frames", by_frame))
    }
    return Figure(
        "cumulative",
        "How many are how good",
        picture,
        "Share of people (mean over their frames) and of single frames whose posed geometry is closer to the truth "
        "than so many mm: the mean face, one frame, all frames of a clip, and all frames refined.",
        shares,
    )


def _shares(errors: torch.Tensor) -> dict[str, float]:
    shares = cumulative_shares(errors, torch.tensor(LIMITS_MM))
    below: Iterable[tuple[float, float]] = zip(LIMITS_MM, shares.tolist(), strict=True)
    return {"median_mm": float(errors.median())} | {f"below_{limit:g}_mm": share for limit, share in below}


def main(arguments: list[str]) -> None:
    """Draws as the command line says."""
    for path in draw_figures(tyro.cli(Options, args=arguments, description=__doc__)):
        print(path)
