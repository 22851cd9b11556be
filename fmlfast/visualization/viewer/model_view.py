"""Shows the people of a trained model: identity, reflectance and skin tone as sliders."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fmlfast.model.config import load_template
from fmlfast.model.fml import FML
from fmlfast.visualization.viewer.controls import Expressions, Light, Look, Turn
from fmlfast.visualization.viewer.drawing import lit_mesh, of_style
from fmlfast.visualization.viewer.figure import Figure, plain_head
from fmlfast.visualization.viewer.people import Population
from fmlfast.visualization.viewer.stage import Scene, Stage

IDENTITIES, REFLECTANCES = 10, 6  # sliders, of the directions in which people differ most
_RANGE = 3.0  # standard deviations
_RARE = 2.5  # standard deviations that a random person stays within


class ModelView:
    """A trained model's faces on a stage."""

    def __init__(self, stage: Stage, model: FML) -> None:
        self.model, self.people = model, Population.of(model)
        config = model.config
        template = load_template(replace(config, level=2)) if config.level == 0 else model.template
        self.template = template.to(model.code_mean.device)
        self._figure = Figure.of(plain_head(self.template), model.code_mean.device)
        self._shown: tuple[float, ...] = ()
        self._hidden = (torch.zeros(0), torch.zeros(0))  # coefficients beyond the sliders
        self._generator = torch.Generator().manual_seed(0)
        gui = stage.server.gui
        self.look = Look(gui, stage)
        with gui.add_folder("Person"):
            gui.add_button("Random person").on_click(lambda _: self.randomize())
            gui.add_button("Mean person").on_click(lambda _: self.reset())
            self.lightness = gui.add_slider(
                "Skin, dark to light", min=0.0, max=1.0, step=0.01, initial_value=round(self.people.usual, 2)
            )
            self.warmth = gui.add_slider("Cool to warm", min=-1.0, max=1.0, step=0.01, initial_value=0.0)
            self.identity = _sliders(gui, "Shape, standard deviations", IDENTITIES, len(self.people.identity), True)
            count = len(self.people.reflectance)
            self.reflectance = _sliders(gui, "Skin, standard deviations", REFLECTANCES, count, False)
        for slider in (self.lightness, self.warmth, *self.identity, *self.reflectance):
            slider.on_update(stage.changed)
        self.expressions = Expressions(gui, self.template.expression_names, stage.changed)
        self.light = Light(gui, stage.changed)
        self.turn = Turn(gui, stage.changed)

    def reset(self) -> None:
        """Shows the mean person."""
        self._set(
            torch.zeros(len(self.people.identity)), torch.zeros(len(self.people.reflectance)), self.people.usual, 0.0
        )

    def randomize(self) -> None:
        """Shows a random person of the model, in all its directions."""
        identity, reflectance = (
            torch.randn(len(rows), generator=self._generator).clamp(-_RARE, _RARE)
            for rows in (self.people.identity, self.people.reflectance)
        )
        lightness, warmth = torch.rand(2, generator=self._generator).tolist()
        self._set(identity, reflectance, 0.1 + 0.8 * lightness, warmth - 0.5)

    def _set(self, identity: Tensor, reflectance: Tensor, lightness: float, warmth: float) -> None:
        self._hidden = identity[IDENTITIES:], reflectance[REFLECTANCES:]
        for sliders, values in ((self.identity, identity), (self.reflectance, reflectance)):
            for slider, value in zip(sliders, values.tolist(), strict=False):
                slider.value = round(value, 2)
        self.lightness.value, self.warmth.value = round(lightness, 2), round(warmth, 2)

    def scene(self, fine: bool) -> Scene:
        """Builds what the sliders say."""
        figure = of_style(self._person(), self.look.style, fine)
        device = figure.neutral.device
        still = torch.zeros(3, device=device)
        vertices = figure.placed(self.expressions.weights.to(device), self.turn.rotation.to(device), still)
        return Scene([lit_mesh(figure, vertices, self.light.light.to(device), self.look.style)])

    @torch.no_grad()
    def _person(self) -> Figure:
        """Decodes the person of the sliders, if it is another than before."""
        sliders = (*self.identity, *self.reflectance, self.lightness, self.warmth)
        wanted = (*(float(slider.value) for slider in sliders), *torch.cat(self._hidden).tolist())
        if wanted != self._shown:
            identity = _coefficients(self.identity, self._hidden[0], len(self.people.identity))
            reflectance = _coefficients(self.reflectance, self._hidden[1], len(self.people.reflectance))
            codes = self.people.codes(self.model, identity, reflectance, self.lightness.value, self.warmth.value)
            neutral = self.model.neutral(codes, self.template)[0]
            colors = self.model.reflectance(codes, self.template)[0].clamp(0, 1)
            self._figure, self._shown = replace(self._figure, neutral=neutral).recolored(colors), wanted
        return self._figure


def _sliders(gui: Any, title: str, wanted: int, known: int, expanded: bool) -> list[Any]:
    with gui.add_folder(title, expand_by_default=expanded):
        return [
            gui.add_slider(f"{i + 1}", min=-_RANGE, max=_RANGE, step=0.05, initial_value=0.0)
            for i in range(min(wanted, known))
        ]


def _coefficients(sliders: Sequence[Any], hidden: Tensor, count: int) -> Tensor:
    """Joins the sliders' coefficients and those beyond them, [count]."""
    values = torch.tensor([float(slider.value) for slider in sliders])
    return torch.cat([values, hidden if len(hidden) else torch.zeros(count - len(values))])
