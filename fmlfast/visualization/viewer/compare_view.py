"""Shows two reconstructions side by side, and how far their neutral shapes are apart."""

import re
from dataclasses import dataclass

import torch
from torch import Tensor

from fmlfast.metrics import similarity_align
from fmlfast.reconstruction.head import Head
from fmlfast.visualization.panels import colorbar, error_colors, scale_end
from fmlfast.visualization.viewer.controls import Expressions, Light, Look, Turn
from fmlfast.visualization.viewer.drawing import STYLES, lit_mesh, of_style
from fmlfast.visualization.viewer.figure import Figure
from fmlfast.visualization.viewer.stage import Scene, Stage

APART = 105.0  # mm from the middle to each head
FAR = 0.8  # metres from which both are seen
DISTANCES = "distance"
_ALIGNMENTS = {"rigid": False, "similarity": True}
_BAR = 150  # px


@dataclass(frozen=True)
class Difference:
    """How far two neutral shapes are apart after alignment by the face."""

    distance: Tensor  # [V] mm, on the coarser of both meshes
    scale: float  # size of the second, given the first; 1 for rigid alignment
    mean: float  # mm, over the face
    largest: float  # mm, over the face


def difference(first: Head, second: Head, scaled: bool) -> Difference:
    """Computes the distances between two heads' neutral shapes after rigid or similarity alignment over the face.

    Levels of one template have their first vertices in common, which are compared. Raises ValueError where the heads
    are of different templates.
    """
    if first.template.fingerprint != second.template.fingerprint:
        raise ValueError(
            f"the results have different templates, {first.template.name} and {second.template.name}; their vertices "
            "do not correspond"
        )
    coarser = min(first.template, second.template, key=lambda template: len(template.vertices))
    count = len(coarser.vertices)
    shapes, face = (head.neutral[None, :count] for head in (first, second)), coarser.regions["face"]
    target, source = shapes
    found = similarity_align(source, target, face, scaled)
    distance = (found.apply(source)[0] - target[0].double()).norm(dim=1).float()
    inner = distance[face > 0.5]
    return Difference(distance, 1 / float(found.scale[0]), float(inner.mean()), float(inner.max()))


def as_text(name: str) -> str:
    """Writes a name for viser's Markdown as it reads: that of a folder could hold markup, which runs scripts there."""
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", " ".join(name.split()))


class CompareView:
    """Two persons, or two reconstructions of one, on a stage."""

    def __init__(self, stage: Stage, names: tuple[str, str], heads: tuple[Head, Head]) -> None:
        self.heads, self.figures = heads, [Figure.of(head) for head in heads]
        stage.server.initial_camera.position = (0.0, 0.0, FAR)
        gui = stage.server.gui
        same = heads[0].template.fingerprint == heads[1].template.fingerprint
        left, right = (as_text(name) for name in names)
        gui.add_markdown(f"**Left:** {left}  \n**Right:** {right}")
        self.look = Look(gui, stage, [*STYLES, *([DISTANCES] if same else [])])
        self.heat: list[Figure] = []
        if same:
            with gui.add_folder("Distance of neutral shapes"):
                self.alignment = gui.add_dropdown("Alignment", list(_ALIGNMENTS), initial_value="rigid")
                self.numbers = gui.add_markdown("")
                self.bar = gui.add_image(colorbar(_BAR, 1.0), format="png")
            self.alignment.on_update(lambda _: (self._align(), stage.changed()))
            self._align()
        else:
            gui.add_markdown("The results have different templates: no distances.")
        shared = [name for name in heads[0].template.expression_names if name in heads[1].template.expression_names]
        self.expressions = Expressions(gui, shared, stage.changed)
        self.light = Light(gui, stage.changed)
        self.turn = Turn(gui, stage.changed)

    def _align(self) -> None:
        """Computes the distances, and both heads in their colours."""
        found = difference(*self.heads, _ALIGNMENTS[self.alignment.value])
        smaller = min(self.heads, key=lambda head: len(head.neutral)).template
        top = scale_end(found.distance[None, smaller.regions["face"] > 0.5])
        self.numbers.content = f"Over the face: mean **{found.mean:.2f} mm**, largest {found.largest:.2f} mm" + (
            f"; the right one is {found.scale:.3f} times as large" if _ALIGNMENTS[self.alignment.value] else ""
        )
        self.bar.image = colorbar(_BAR, top)
        self.heat = []
        for head, figure in zip(self.heads, self.figures, strict=True):
            distance = head.template.on_level(found.distance[:, None])[:, 0]
            self.heat.append(figure.recolored(error_colors(head.template, distance[None], top)[0]))

    def scene(self, fine: bool) -> Scene:
        """Builds what the sliders say."""
        style = self.look.style_choice.value
        figures = self.heat if style == DISTANCES else self.figures
        weights = dict(zip(self.expressions.names, self.expressions.weights, strict=True))
        meshes = []
        for side, head, figure in zip((-1, 1), self.heads, figures, strict=True):
            shown = of_style(figure, "skin" if style == DISTANCES else style, fine)
            expression = torch.tensor([float(weights.get(name, 0.0)) for name in head.template.expression_names])
            vertices = shown.placed(expression, self.turn.rotation, torch.tensor([side * APART, 0.0, 0.0]))
            meshes.append(lit_mesh(shown, vertices, self.light.light, "skin" if style == DISTANCES else style))
        return Scene(meshes)
