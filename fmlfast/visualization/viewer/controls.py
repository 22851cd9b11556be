"""Sliders that all scenes share: expression, light, turn of the head, and what is drawn."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fmlfast.rotation import rotation_from_axis_angle
from fmlfast.visualization.appearance import lambert_lobe
from fmlfast.visualization.viewer.drawing import STYLES, Style

LAMP = "lamp"
FACES: dict[str, dict[str, float]] = {
    "Neutral": {},
    "Smile": {"mouthSmile": 0.8, "cheekSquint": 0.4, "eyeSquint": 0.2},
    "Blink": {"eyeBlink": 1.0},
    "Jaw open": {"jawOpen": 0.7},
    "Brows up": {"browInnerUp": 0.9, "browOuterUp": 0.9, "eyeWide": 0.3},
    "Frown": {"browDown": 0.9, "noseSneer": 0.4, "mouthFrown": 0.6},
    "Kiss": {"mouthPucker": 0.9},
    "Look left": {"eyeLookOutLeft": 0.9, "eyeLookInRight": 0.9},
    "Look up": {"eyeLookUp": 0.8, "browInnerUp": 0.2},
}
"""Presets of ARKit's expressions; a name without a side stands for both sides."""
_GROUPS = (("Brows", ("brow",)), ("Gaze", ("eyeLook",)), ("Eyes", ("eye",)), ("Jaw", ("jaw",)), ("Mouth", ("mouth",)))
_OTHERS = "Cheeks, nose, others"


def preset_weights(face: str, names: Sequence[str]) -> Tensor:  # [E]
    """Computes the weights of the expressions `names` in a preset of `FACES`; those it does not have stay 0."""
    known = FACES[face]
    return torch.tensor(
        [known.get(name, known.get(name.removesuffix("Left").removesuffix("Right"), 0.0)) for name in names]
    )


def grouped(names: Sequence[str]) -> dict[str, list[str]]:
    """Sorts expressions by the part of the face they move, in the order of the names."""
    groups: dict[str, list[str]] = {title: [] for title, _ in _GROUPS} | {_OTHERS: []}
    for name in names:
        title = next((title for title, starts in _GROUPS if name.startswith(starts)), _OTHERS)
        groups[title].append(name)
    return {title: members for title, members in groups.items() if members}


@dataclass(frozen=True)
class Lamp:
    """A lamp and the light around it, as sliders set them."""

    azimuth: float = -33.0  # degrees, to the viewer's left below 0
    elevation: float = 33.0  # degrees above the horizon
    ambient: float = 0.25  # share of the light that comes from everywhere
    brightness: float = 1.25
    color: tuple[int, int, int] = (255, 255, 255)  # of the lamp, sRGB 0..255

    def light(self) -> Tensor:  # [9, 3]
        """Computes the spherical harmonics of the light, in the frame of a camera in front of the head."""
        azimuth, elevation = math.radians(self.azimuth), math.radians(self.elevation)
        x, y, z = (
            math.sin(azimuth) * math.cos(elevation),
            -math.sin(elevation),
            -math.cos(azimuth) * math.cos(elevation),
        )
        lobe = lambert_lobe(torch.tensor([x, y, z]))[:, None] * (torch.tensor(self.color) / 255.0) ** 2.2
        return self.brightness * ((1 - self.ambient) * lobe + self.ambient * torch.eye(9)[0][:, None])


class Expressions:
    """Sliders of the named expressions, with presets."""

    def __init__(self, gui: Any, names: Sequence[str], changed: Callable[..., None]) -> None:
        self.names, self.sliders = tuple(names), {}
        with gui.add_folder("Expression"):
            self.presets = gui.add_button_group("Preset", list(FACES))
            self.presets.on_click(lambda _: self.set(preset_weights(self.presets.value, self.names)))
            for title, members in grouped(names).items():
                with gui.add_folder(title, expand_by_default=False):
                    for name in members:
                        slider = gui.add_slider(name, min=0.0, max=1.0, step=0.01, initial_value=0.0)
                        slider.on_update(changed)
                        self.sliders[name] = slider

    @property
    def weights(self) -> Tensor:  # [E]
        """Returns the weights of the expressions."""
        return torch.tensor([float(self.sliders[name].value) for name in self.names])

    def set(self, weights: Tensor) -> None:
        """Moves the sliders to weights [E], limited to 0..1."""
        for name, weight in zip(self.names, weights.clamp(0, 1).tolist(), strict=True):
            self.sliders[name].value = round(weight, 2)


class Light:
    """Sliders of a lamp, and a choice between it and the light of photos."""

    def __init__(self, gui: Any, changed: Callable[..., None], photos: Mapping[str, Tensor] | None = None) -> None:
        self.photos = dict(photos or {})
        start = Lamp()
        with gui.add_folder("Light"):
            self.source = gui.add_dropdown(
                "Light of", [LAMP, *self.photos], initial_value=LAMP, visible=bool(self.photos)
            )
            self.azimuth = gui.add_slider("From the side", min=-180, max=180, step=1, initial_value=int(start.azimuth))
            self.elevation = gui.add_slider("From above", min=-90, max=90, step=1, initial_value=int(start.elevation))
            self.ambient = gui.add_slider("Ambient", min=0.0, max=1.0, step=0.01, initial_value=start.ambient)
            self.brightness = gui.add_slider("Brightness", min=0.0, max=2.0, step=0.01, initial_value=start.brightness)
            self.color = gui.add_rgb("Colour", initial_value=start.color)
            again = gui.add_button("Reset light")
        for slider in (self.azimuth, self.elevation, self.ambient, self.brightness, self.color):
            slider.on_update(self._touched(changed))
        self.source.on_update(changed)
        again.on_click(lambda _: self.reset())

    def _touched(self, changed: Callable[..., None]) -> Callable[[Any], None]:
        def touched(event: Any) -> None:
            if event.client is not None:  # somebody moved the slider, not the program
                self.source.value = LAMP
            changed()

        return touched

    @property
    def light(self) -> Tensor:  # [9, 3]
        """Returns the light chosen."""
        if self.source.value != LAMP:
            return self.photos[self.source.value]
        return Lamp(
            azimuth=float(self.azimuth.value),
            elevation=float(self.elevation.value),
            ambient=float(self.ambient.value),
            brightness=float(self.brightness.value),
            color=tuple(self.color.value),
        ).light()

    def reset(self) -> None:
        """Moves the lamp back to where it began."""
        start = Lamp()
        self.source.value = LAMP
        self.azimuth.value, self.elevation.value = int(start.azimuth), int(start.elevation)
        self.ambient.value, self.brightness.value, self.color.value = start.ambient, start.brightness, start.color


class Turn:
    """Sliders that turn the head in front of the light."""

    def __init__(self, gui: Any, changed: Callable[..., None]) -> None:
        with gui.add_folder("Turn"):
            self.sliders = [
                gui.add_slider(label, min=-180, max=180, step=1, initial_value=0) for label in ("Yaw", "Pitch", "Roll")
            ]
            again = gui.add_button("Reset turn")
        for slider in self.sliders:
            slider.on_update(changed)
        again.on_click(lambda _: self.set(torch.eye(3)))

    @property
    def rotation(self) -> Tensor:  # [3, 3]
        """Returns the rotation from the model frame to the world."""
        return turned(*(float(slider.value) for slider in self.sliders))

    def set(self, rotation: Tensor) -> None:
        """Moves the sliders to a rotation, to whole degrees."""
        for slider, angle in zip(self.sliders, turn_angles(rotation), strict=True):
            slider.value = round(angle)


class Look:
    """A choice of what is drawn, and of the background."""

    def __init__(self, gui: Any, stage: Any, styles: Sequence[str] = STYLES) -> None:
        self.style_choice = gui.add_dropdown("Draw", list(styles), initial_value=styles[0])
        self.style_choice.on_update(stage.changed)
        dark = gui.add_checkbox("Dark background", False)
        dark.on_update(lambda _: stage.background(dark.value))

    @property
    def style(self) -> Style:
        """Returns what to draw."""
        return self.style_choice.value


def turned(yaw: float, pitch: float, roll: float) -> Tensor:  # [3, 3]
    """Computes the rotation by angles in degrees: roll about z, then pitch about x, then yaw about y (up)."""
    about = [(0.0, yaw, 0.0), (pitch, 0.0, 0.0), (0.0, 0.0, roll)]
    first, second, third = rotation_from_axis_angle(torch.deg2rad(torch.tensor(about)))
    return first @ second @ third


def turn_angles(rotation: Tensor) -> tuple[float, float, float]:
    """Computes yaw, pitch and roll in degrees of a rotation [3, 3], the inverse of `turned`."""
    pitch = math.asin(max(-1.0, min(1.0, -float(rotation[1, 2]))))
    yaw = math.atan2(float(rotation[0, 2]), float(rotation[2, 2]))
    roll = math.atan2(float(rotation[1, 0]), float(rotation[1, 1]))
    return math.degrees(yaw), math.degrees(pitch), math.degrees(roll)
