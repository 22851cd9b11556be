"""Sliders that scenes share, without a browser."""

import math
from typing import Any

import pytest
import torch

from fmlfast.rotation import rotation_from_axis_angle
from fmlfast.template.face_template import FaceTemplate
from fmlfast.visualization.appearance import standard_light
from fmlfast.visualization.viewer.controls import (
    FACES,
    LAMP,
    Expressions,
    Lamp,
    Light,
    Turn,
    grouped,
    preset_weights,
    turn_angles,
    turned,
)
from fmlfast.visualization.viewer.stage import quaternion, rotation_matrix

NAMES = FaceTemplate.default(0).expression_names


@pytest.fixture
def gui() -> Any:
    viser = pytest.importorskip("viser")
    server = viser.ViserServer(host="127.0.0.1", port=0, verbose=False)
    yield server.gui
    server.stop()


@pytest.mark.parametrize("face", FACES)
def test_presets_move_expressions_that_the_template_has(face: str) -> None:
    weights = preset_weights(face, NAMES)
    assert weights.shape == (len(NAMES),) and float(weights.min()) >= 0 and float(weights.max()) <= 1
    moved = {name for name, weight in zip(NAMES, weights.tolist(), strict=True) if weight}
    for name in FACES[face]:
        assert name in moved or {f"{name}Left", f"{name}Right"} <= moved


def test_every_expression_is_in_one_group() -> None:
    groups = grouped([*NAMES, "somethingElse"])
    assert sorted(sum(groups.values(), [])) == sorted([*NAMES, "somethingElse"])
    assert groups["Gaze"] == [name for name in NAMES if name.startswith("eyeLook")]
    assert "eyeBlinkLeft" in groups["Eyes"] and "somethingElse" in groups["Cheeks, nose, others"]


def test_the_lamp_begins_where_the_standard_light_is() -> None:
    light = Lamp(brightness=1.0).light()
    torch.testing.assert_close(light, standard_light(), atol=0.01, rtol=0)


def test_the_lamp_shines_from_where_its_angles_say() -> None:
    def at(normal: tuple[float, float, float], lamp: Lamp) -> torch.Tensor:
        from fmlfast.renderer import sh_basis

        return sh_basis(torch.tensor(normal)) @ lamp.light()

    right, left, up = (1.0, 0.0, 0.0), (-1.0, 0.0, 0.0), (0.0, -1.0, 0.0)  # camera frame
    side = Lamp(azimuth=90.0, elevation=0.0, ambient=0.0)
    assert at(right, side)[0] > 0.9 and abs(at(left, side)[0]) < 0.1
    assert at(up, Lamp(elevation=90.0, ambient=0.0))[0] > 0.9
    torch.testing.assert_close(at(left, Lamp(ambient=1.0, brightness=0.5)), torch.full((3,), 0.5))
    red = at(right, Lamp(azimuth=90.0, elevation=0.0, ambient=0.0, color=(255, 0, 0)))
    assert red[0] > 0.9 and float(red[1:].abs().max()) < 1e-6


def test_angles_of_a_turn_are_those_it_was_made_of() -> None:
    for angles in ((0.0, 0.0, 0.0), (30.0, -20.0, 10.0), (-150.0, 60.0, -75.0)):
        assert turn_angles(turned(*angles)) == pytest.approx(angles, abs=1e-3)
    towards_left = turned(90.0, 0.0, 0.0) @ torch.tensor([0.0, 0.0, 1.0])
    torch.testing.assert_close(towards_left, torch.tensor([1.0, 0.0, 0.0]), atol=1e-6, rtol=0)


def test_quaternions_and_matrices_are_each_others_inverse() -> None:
    generator = torch.Generator().manual_seed(0)
    for vector in [*torch.randn(20, 3, generator=generator), torch.tensor([math.pi, 0.0, 0.0]), torch.zeros(3)]:
        rotation = rotation_from_axis_angle(vector)
        torch.testing.assert_close(rotation_matrix(quaternion(rotation)), rotation, atol=1e-5, rtol=0)


def test_expressions_are_what_the_sliders_and_presets_say(gui: Any) -> None:
    calls: list[object] = []
    sliders = Expressions(gui, NAMES, calls.append)
    sliders.set(preset_weights("Smile", NAMES) * 2)
    assert float(sliders.weights.max()) == 1.0 and calls
    sliders.sliders["jawOpen"].value = 0.4
    assert float(sliders.weights[NAMES.index("jawOpen")]) == pytest.approx(0.4)
    sliders.set(preset_weights("Neutral", NAMES))
    assert not sliders.weights.any()


def test_the_light_of_a_photo_can_be_chosen_and_reset(gui: Any) -> None:
    photo = torch.randn(9, 3, generator=torch.Generator().manual_seed(1))
    light = Light(gui, lambda *_: None, {"a": photo})
    torch.testing.assert_close(light.light, Lamp().light())
    light.source.value = "a"
    assert light.light is photo
    light.elevation.value = 10
    light.reset()
    assert light.source.value == LAMP
    torch.testing.assert_close(light.light, Lamp().light())


def test_the_turn_sliders_take_a_rotation_to_whole_degrees(gui: Any) -> None:
    turn = Turn(gui, lambda *_: None)
    turn.set(turned(20.4, -10.0, 3.0))
    torch.testing.assert_close(turn.rotation, turned(20.0, -10.0, 3.0))
