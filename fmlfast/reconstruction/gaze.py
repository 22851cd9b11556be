"""Finds the rotations of eyeballs that a template's eyeLook* expressions stand for."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fmlfast.template.face_template import FaceTemplate
from fmlfast.template.parts import TemplatePart, split_template

Doubles = NDArray[np.float64]

SIDES = {"eye_left": "Left", "eye_right": "Right"}
DIRECTIONS = ("Down", "In", "Out", "Up")
MOVED, RIGID = 1e-3, 0.5  # mm at full strength: less is no movement; more than a rotation leaves over is no turning eye


@dataclass(frozen=True)
class Eye:
    """An eyeball of a template that eyeLook* turn."""

    part: TemplatePart
    center: Doubles
    """[3] mm, in the template: the point that all rotations leave where it is."""
    rotations: dict[int, Doubles]
    """[3, 3] at full strength, model frame, by the index of the expression."""

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
    """Finds the eyeballs among a template's parts that eyeLook* turn about a point, by the name of the part."""
    eyes = {}
    for part in parts:
        if part.name not in SIDES:
            continue
        points, rotations, left, right = _points(template.vertices, part), {}, [], []
        middle = points.mean(0)
        for direction in DIRECTIONS:
            name = f"eyeLook{direction}{SIDES[part.name]}"
            if name not in template.expression_names:
                continue
            index = template.expression_names.index(name)
            moved = _points(template.expressions[index], part)
            if np.linalg.norm(moved, axis=1).max() < MOVED:
                continue
            rotation = nearest_rotation((points + moved - (points + moved).mean(0)).T @ (points - middle))
            shift = (points + moved).mean(0) - middle
            if np.linalg.norm((points - middle) @ rotation.T + shift - (points + moved - middle), axis=1).max() > RIGID:
                rotations = {}
                break
            rotations[index] = rotation
            left.append(np.eye(3) - rotation)  # (I - R) (c - middle) = shift
            right.append(shift)
        if rotations:
            center = middle + np.linalg.lstsq(np.concatenate(left), np.concatenate(right), rcond=None)[0]
            eyes[part.name] = Eye(part, center, rotations)
    return eyes


def eye_rotations(
    template: FaceTemplate,
    expression: Tensor,  # [T, E]
) -> dict[str, Doubles]:  # of [T, 3, 3]
    """Computes the rotations of `eye_left` and `eye_right`, model frame; without eyes that do not turn."""
    return {name: eye.turned(expression) for name, eye in find_eyes(template, split_template(template)).items()}


def nearest_rotation(matrices: Doubles) -> Doubles:  # [..., 3, 3]
    """Computes the rotations nearest to matrices, by least squares (Kabsch)."""
    u, _, vt = np.linalg.svd(matrices)
    sign = np.ones(matrices.shape[:-1])
    sign[..., 2] = np.linalg.det(u @ vt)
    return (u * sign[..., None, :]) @ vt


def _points(values: Tensor, part: TemplatePart) -> Doubles:  # [n, 3]
    return values[torch.from_numpy(part.vertices)].detach().double().cpu().numpy()
