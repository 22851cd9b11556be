"""Draws docs/images/floors.png, the packages as floors: python tools/draw_floors.py (needs the extra `eval`)."""

import argparse
from pathlib import Path

import fmlfast.common.passive_waiting  # noqa: F401  (before torch)

import matplotlib

from fmlfast.common.atomic import atomic_path

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # after the choice of the backend
from matplotlib.patches import FancyBboxPatch

INK, GREY = "#22262b", "#5c646d"
USE, LEARN, SEE, BASE = "#dbe7f6", "#e3f1df", "#fbeecb", "#ececef"

FLOORS = (  # top first; a box is its name and what it is for
    (USE, (("cli", "the fmlfast command"), ("train.py", "the loop, beside the package"))),
    (USE, (("evaluation/scans", "errors against 3D scans"),)),
    (USE, (("evaluation", "methods, protocols, reports"), ("visualization/viewer", "in the browser"))),
    (USE, (("reconstruction", "photos, videos to faces"), ("training", "step, checkpoints"))),
    (LEARN, (("losses", "all terms, weighted"), ("visualization", "grids, overlays"))),
    (LEARN, (("model", "encoder, face model, landmark fit, priors"),)),
    (LEARN, (("data/synthetic", "generated people"), ("data/video", "videos to clips"))),
    (LEARN, (("data", "shards, batches, detector"), ("metrics", "error measures"))),
    (LEARN, (("template", "the fixed head: mesh, expressions, graph"),)),
    (SEE, (("mesh_io", "OBJ, PLY, GLB, USDZ"),)),
    (SEE, (("renderer", "render() and its operations"), ("nvdiffrast", "its calls, by these kernels"))),
    (SEE, (("camera", "projection, converters"),)),
    (BASE, (("optim, common", "low-rank Adam, helpers"), ("ibug68, rotation, color", ""))),
    (BASE, (("kernels", "every operation in torch and in Triton"),)),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/images/floors.png"))
    out = parser.parse_args().out
    top = 5.0 * len(FLOORS) + 1
    figure = plt.figure(figsize=(10, top / 11), dpi=110)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, 110), ylim=(0, top))
    axes.set_axis_off()
    left, right, height = 2.0, 100.0, 4.0
    for row, (color, boxes) in enumerate(FLOORS):
        bottom = top - 5.0 * (row + 1)
        width = (right - left) / len(boxes)
        for column, (name, purpose) in enumerate(boxes):
            x = left + column * width
            style = "round,pad=0,rounding_size=0.7"
            axes.add_patch(FancyBboxPatch((x, bottom), width - 1, height, style, fc=color, ec=INK))
            middle = bottom + height / 2
            axes.text(x + 1.5, middle, name, fontsize=12, color=INK, weight="bold", va="center")
            axes.text(x + width - 2.5, middle, purpose, fontsize=11, color=GREY, ha="right", va="center")
    axes.annotate("", (103, 2), (103, top - 2), arrowprops={"arrowstyle": "-|>", "color": INK, "lw": 1.6})
    axes.text(106.5, top / 2, "may import", rotation=270, fontsize=12, color=INK, ha="center", va="center")
    with atomic_path(out) as path:
        figure.savefig(path, format="png", facecolor="white")


if __name__ == "__main__":
    main()
