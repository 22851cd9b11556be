from dataclasses import replace

import numpy as np
import pytest
import torch

from fmlfast.reconstruction.gaze import eye_rotations, find_eyes
from fmlfast.template.face_template import FaceTemplate
from fmlfast.template.parts import split_template

TEMPLATE = FaceTemplate.default(0)


def weights(**shapes: float) -> torch.Tensor:
    found = torch.zeros(1, len(TEMPLATE.expression_names))
    for name, value in shapes.items():
        found[0, TEMPLATE.expression_names.index(name)] = value
    return found


@pytest.mark.parametrize("strength", [0.0, 0.25, 0.5, 1.0])
@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        ("eyeLookOutLeft", [0, 1, 0]),
        ("eyeLookInLeft", [0, -1, 0]),
        ("eyeLookUpLeft", [-1, 0, 0]),
        ("eyeLookDownLeft", [1, 0, 0]),
    ],
)
def test_an_eye_turns_by_30_degrees_a_unit(shape: str, axis: list[int], strength: float) -> None:
    turned = eye_rotations(TEMPLATE, weights(**{shape: strength}))
    forward = turned["eye_left"][0] @ [0, 0, 1]
    angle = np.degrees(np.arccos(np.clip(forward[2], -1, 1)))
    assert angle == pytest.approx(30 * strength, abs=0.02 + 0.6 * strength * (1 - strength))  # all but linear
    if strength:
        np.testing.assert_allclose(np.cross([0, 0, 1], forward) / np.sin(np.radians(angle)), axis, atol=1e-4)
    np.testing.assert_allclose(turned["eye_right"][0], np.eye(3), atol=1e-12)


def test_the_centre_moves_and_grows_with_the_person() -> None:
    (eye, _) = find_eyes(TEMPLATE, split_template(TEMPLATE)).values()
    stretch, shift = torch.tensor([1.1, 0.9, 1.2]), torch.tensor([3.0, -2.0, 1.0])
    center = eye.center_in(TEMPLATE, TEMPLATE.vertices * stretch + shift)
    np.testing.assert_allclose(center, eye.center * stretch.numpy() + shift.numpy(), atol=1e-4)
    points = TEMPLATE.vertices[eye.part.vertices].numpy()
    radius = np.linalg.norm(points - eye.center, axis=1)
    assert radius.std() < 0.6 and 13 < radius.mean() < 16


def test_eyes_that_do_not_turn_have_a_centre_all_the_same() -> None:
    looks = [name.startswith("eyeLook") for name in TEMPLATE.expression_names]
    still = TEMPLATE.expressions.clone()
    still[looks] = 0.0
    template = replace(TEMPLATE, expressions=still)
    known, found = find_eyes(TEMPLATE, split_template(TEMPLATE)), find_eyes(template, split_template(template))
    for name, eye in found.items():
        assert not eye.rotations
        np.testing.assert_allclose(eye.center, known[name].center, atol=0.05)
        np.testing.assert_array_equal(eye.turned(weights(eyeLookUpLeft=1.0))[0], np.eye(3))


def test_eyes_that_a_shape_of_arkit_bends_stay_with_the_head() -> None:
    eyes, bent = TEMPLATE.regions["eyes"] > 0.5, TEMPLATE.expressions.clone()
    index = TEMPLATE.expression_names.index("mouthSmileLeft")
    bent[index, eyes] = torch.sin(TEMPLATE.vertices[eyes])
    template = replace(TEMPLATE, expressions=bent)
    assert [part.name for part in split_template(template)][:2] == ["head", "teeth_upper"]
    assert eye_rotations(template, weights()) == {}
    names = list(TEMPLATE.expression_names)
    names[index] = "PupilDilate_L"  # of ICT-FaceKit: bends the iris, and no lashes
    assert len(eye_rotations(replace(template, expression_names=tuple(names)), weights())) == 2
