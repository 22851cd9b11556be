"""Makes heads of nobody, still and moving, for files."""

from dataclasses import replace

import numpy as np
import torch

from fmlfast.reconstruction.head import Head, Motion
from fmlfast.rotation import rotation_from_axis_angle
from fmlfast.template.face_template import FaceTemplate


def make_head(level: int = 0, textured: bool = True) -> Head:
    """A head that is wider and lower than the template, on whose texture u and v can be read."""
    template = FaceTemplate.default(level)
    neutral = template.vertices * torch.tensor([1.05, 0.97, 1.02]) + torch.tensor([0.4, -1.0, 0.7])
    rows, columns = np.mgrid[:64, :64]
    texture = np.stack([columns * 4, rows * 4, rows * 0 + 90], 2).astype(np.uint8) if textured else None
    return Head(template, neutral, template.colors, texture)


def make_own_head() -> Head:
    """A head of somebody's own template: one part, two expressions with names of its own, no uv."""
    template = FaceTemplate.default(0)
    nothing = {name: torch.zeros_like(mask) for name, mask in template.regions.items()}
    own = replace(
        template,
        regions={**nothing, "skin": torch.ones_like(nothing["skin"])},
        expressions=template.expressions[[24, 8]],
        expression_names=("mouth wide", "mouth_wide"),
        uv=torch.zeros_like(template.uv),
    )
    return Head(own, own.vertices, own.colors)


def make_motion(expression: torch.Tensor, start: float = 0.5) -> Motion:
    """A head that turns and comes nearer while it plays `expression` [T, E], at uneven times."""
    frames = len(expression)
    angle = torch.linspace(0.1, 0.6, frames)
    turned = rotation_from_axis_angle(torch.stack([angle, 0.5 - angle, 0.3 * angle], 1))
    frontal = torch.diag(torch.tensor([1.0, -1.0, -1.0]))
    place = torch.stack([10 * angle, -20 * angle, 600 - 50 * angle], 1)
    times = start + np.cumsum(np.linspace(0.03, 0.05, frames))
    return Motion(times, expression, frontal @ turned, place)


def in_gltf_world(head: Head, motion: Motion) -> np.ndarray:
    """The true positions [T, V, 3] of the vertices: metres, camera at the origin, +y up, looking along -z."""
    posed = head.posed(motion.expression)
    camera = posed @ motion.rotation.transpose(1, 2) + motion.translation[:, None]
    return (camera * torch.tensor([1.0, -1.0, -1.0]) / 1000).double().numpy()
