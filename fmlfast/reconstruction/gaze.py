"""Finds eyeballs, their centres, and the rotations that a template's eyeLook* expressions stand for."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fmlfast.template.arkit_names import arkit_name
from fmlfast.template.face_template import FaceTemplate
from fmlfast.template.parts import TemplatePart, nearest_rotation, rigid_motion, split_template

Doubles = NDArray[np.float64]

SIDES = {"eye_left": "Left", "eye_right": "Right"}
DIRECTIONS = ("Down", "In", "Out", "Up")
TURNED = np.radians(1.0)  # at full strength; less is no turn


@dataclass(frozen=True)
class Eye:
    """An eyeball of a template."""

    part: TemplatePart
    center: Doubles
    """[3] mm, in the template: the point that all rotations leave where it is."""
    rotations: dict[int, Doubles]
    """[3, 3] at full strength, model frame, by the index of the expression; empty where the eyes do not turn."""

    def turned(
        self,
        expression: Tensor,  # [..., E]
    ) -> Doubles:  # [..., 3, 3]
        """Returns the rotation nearest to the linear map that the expressions make of the eyeball."""
        linear = np.tile(np.eye(3), (*expression.shape[:-1], 1, 1))
        for index, rotation in self.rotations.items():
            linear += expression[..., index].detach().double().cpu().numpy()[..., None, None] * (rotation - np.eye(3))
        return nearest_rotation(linear)

    def center_in(
        self,
        template: FaceTemplate,
        vertices: Tensor,  # [V, 3]
    ) -> Doubles:  # [3]
        """Maps the centre into a person's geometry, by the affine map of the eyeball."""
        source, target = _points(template.vertices, self.part), _points(vertices, self.part)
        middle = source.mean(0)
        fit = np.linalg.lstsq(np.c_[source - middle, np.ones(len(source))], target, rcond=None)[0]
        return np.append(self.center - middle, 1.0) @ fit


def find_eyes(template: FaceTemplate, parts: tuple[TemplatePart, ...]) -> dict[str, Eye]:
    """Finds the centres of the eyeballs among a template's parts, by name, and how eyeLook* turn them."""
    return {part.name: _eye(template, part) for part in parts if part.name in SIDES}


def eye_rotations(
    template: FaceTemplate,
    expression: Tensor,  # [T, E]
) -> dict[str, Doubles]:  # of [T, 3, 3]
    """Computes the rotations of `eye_left` and `eye_right`, model frame; of those that the template has."""
    return {name: eye.turned(expression) for name, eye in find_eyes(template, split_template(template)).items()}


def _eye(template: FaceTemplate, part: TemplatePart) -> Eye:
    points, rotations, left, right = _points(template.vertices, part), {}, [], []
    looks = {f"eyeLook{direction}{SIDES[part.name]}" for direction in DIRECTIONS}
    for index, name in enumerate(template.expression_names):
        if arkit_name(name) not in looks:
            continue
        rotation, shift, _ = rigid_motion(points, points + _points(template.expressions[index], part))
        if np.trace(rotation) < 1 + 2 * np.cos(TURNED):
            rotations[index] = rotation
            left.append(np.eye(3) - rotation)  # (I - R) center = shift
            right.append(shift)
    middle = points.mean(0)
    if not rotations:  # the centre of the sphere that fits best
        offset = points - middle
        fit = np.linalg.lstsq(np.c_[2 * offset, np.ones(len(points))], (offset**2).sum(1), rcond=None)[0]
        return Eye(part, middle + fit[:3], {})
    equations, constants = np.concatenate(left), np.concatenate(right)
    return Eye(part, middle + np.linalg.lstsq(equations, constants - equations @ middle, rcond=None)[0], rotations)


def _points(values: Tensor, part: TemplatePart) -> Doubles:  # [n, 3]
    return values[torch.from_numpy(part.vertices)].detach().double().cpu().numpy()
