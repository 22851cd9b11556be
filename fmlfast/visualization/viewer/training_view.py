"""Shows a training run while it goes on: the latest preview, the losses' curves and the mean face."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from fmlfast.common.extras import require
from fmlfast.model.fml import FML
from fmlfast.visualization.viewer.controls import Light, Look, Turn
from fmlfast.visualization.viewer.drawing import lit_mesh, of_style
from fmlfast.visualization.viewer.figure import Figure, plain_head
from fmlfast.visualization.viewer.stage import Scene, Stage

_WIDE = 520  # px of the panel of previews


class TrainingView:
    """A run's progress in a browser, read from its folder and its model; the run itself is not touched.

    It draws on the CPU, from copies, so that the trained numbers are bit for bit those of a run without it. What fails
    here ends the view, not the training.
    """

    def __init__(self, run: Path, host: str = "127.0.0.1", port: int = 8080) -> None:
        self.run = run
        self._figure: Figure | None = None  # the mean face, once there is one
        self.stage = Stage(f"training {run.name}", host, port)
        gui = self.stage.server.gui
        self.look = Look(gui, self.stage)
        uplot = require("viser", "viewer").uplot
        with gui.add_folder("Losses"):
            self.quantity = gui.add_dropdown("Show", ["loss"], initial_value="loss")
            series = (uplot.Series(label="step"), uplot.Series(label="loss", stroke="#2c6e8e", width=2))
            empty = (np.zeros(1), np.zeros(1))
            self.curve = gui.add_uplot(empty, series, scales={"x": uplot.Scale(time=False)}, height=260)
            self.state = gui.add_markdown("Waiting for the first steps.")
        self.light, self.turn = Light(gui, self.stage.changed), Turn(gui, self.stage.changed)
        panel = gui.add_panel()
        with panel.add_tab("Latest preview"):
            self.preview = gui.add_image(np.full((8, 8, 3), 235, np.uint8), format="jpeg", jpeg_quality=90)
        panel.dock_left()
        panel.set_width(_WIDE)
        self.quantity.on_update(lambda _: self._draw_curve())
        self._shown: Path | None = None
        self._failed = False
        self.stage.start(self.scene)
        print(f"training view: {self.stage.address}")

    def update(self, model: FML) -> None:
        """Shows the run's latest numbers, preview and mean face."""
        if self._failed:
            return
        try:
            self._update(model)
        except Exception as error:  # a picture is not worth a training run
            self._failed = True
            print(f"the training view stopped: {error!r}", file=sys.stderr)

    @torch.no_grad()
    def _update(self, model: FML) -> None:
        figure = self._figure or Figure.of(plain_head(model.template.to("cpu")))
        zero = torch.zeros(1, len(model.face.identity_basis), device=model.code_mean.device)
        neutral = model.face.neutral(model.face.displacements(zero))[0].cpu()
        self._figure = replace(figure, neutral=neutral).recolored(model.face.base_reflectance.clamp(0, 1).cpu())
        self._draw_curve()
        latest = max(self.run.glob("previews/step-*.png"), default=None)
        if latest is not None and latest != self._shown:
            self.preview.image, self._shown = np.array(Image.open(latest).convert("RGB")), latest
        self.stage.changed()

    def _draw_curve(self) -> None:
        rows = read_metrics(self.run / "metrics.jsonl")
        if not rows:
            return
        names = [name for name in rows[-1] if name != "step"]
        if tuple(self.quantity.options) != tuple(names):
            self.quantity.options = names
        name = self.quantity.value
        points = np.array([(row["step"], row[name]) for row in rows if name in row], float).reshape(-1, 2)
        points = points[np.isfinite(points).all(1)]
        if len(points) > 1:
            self.curve.data = points[:, 0].copy(), points[:, 1].copy()
        self.state.content = f"Step {rows[-1]['step']}, loss {rows[-1]['loss']:.4g}"

    def scene(self, fine: bool) -> Scene:
        """Builds the mean face."""
        if self._figure is None:
            return Scene([])
        figure = of_style(self._figure, self.look.style, fine)
        vertices = figure.placed(torch.zeros(len(figure.expressions)), self.turn.rotation, torch.zeros(3))
        return Scene([lit_mesh(figure, vertices, self.light.light, self.look.style)])

    def close(self) -> None:
        """Closes the server."""
        self.stage.stop()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Reads the rows of a run's metrics.jsonl; none where there is no file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
