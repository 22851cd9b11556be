"""People shown in frames that were not fitted."""

import torch
from torch import Tensor

from benchmarks.paper.unfitted_frames import show
from fmlfast.color import linear_to_srgb
from fmlfast.model.lighting import ambient_factor
from fmlfast.template.face_template import FaceTemplate
from fmlfast.visualization.appearance import VertexAlbedo, render_face, standard_light
from fmlfast.visualization.overlay import face_opacity

K = torch.tensor([[300.0, 0, 48], [0, 300, 48], [0, 0, 1]])


def scene() -> tuple[FaceTemplate, Tensor, Tensor]:
    """A template, its vertices before the camera, and its picture [96, 96, 3] under a lamp."""
    template = FaceTemplate.default(0)
    vertices = template.vertices * torch.tensor([1.0, -1, -1]) + torch.tensor([0.0, 0, 600])
    opacity = torch.ones(len(vertices))
    light, ambient = standard_light(), ambient_factor(template)
    layer = render_face(
        vertices, template.triangles, VertexAlbedo(template.colors), light, ambient, opacity, K, 0, 0, 96, 96
    )
    return template, vertices, linear_to_srgb(layer[..., :3])


def test_the_true_albedo_under_any_light_has_no_error() -> None:
    template, vertices, picture = scene()
    shown = show(template, VertexAlbedo(template.colors), vertices, K, face_opacity(template), picture)
    assert shown.error < 2.5  # the picture has three samples a pixel and axis, the comparison one
    assert float((shown.image - picture).abs().mean()) < 0.01
    brighter = show(template, VertexAlbedo(0.4 * template.colors), vertices, K, face_opacity(template), picture)
    assert abs(brighter.error - shown.error) < 0.1  # light makes up for skin tone


def test_another_albedo_has_an_error() -> None:
    template, vertices, picture = scene()
    stripes = 1 + 0.5 * (template.vertices[:, :1] / 3).sin()
    own, other = (
        show(template, VertexAlbedo(colors), vertices, K, face_opacity(template), picture).error
        for colors in (template.colors, template.colors * stripes)
    )
    assert other > 3 * own
