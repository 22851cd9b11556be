"""Ambient occlusion: open planes see the whole sky, hollows less."""

import torch

from fmlfast.model.lighting import ambient_factor
from fmlfast.template.ambient_occlusion import sky_share
from fmlfast.template.face_template import FaceTemplate


def sheet(side: int, height: float) -> tuple[torch.Tensor, torch.Tensor]:
    """A square grid of 10 mm cells at a height, facing up."""
    x, y = torch.meshgrid(torch.arange(side) * 10.0, torch.arange(side) * 10.0, indexing="ij")
    points = torch.stack([x, y, torch.full_like(x, height)], -1).view(-1, 3)
    corner = (torch.arange(side - 1)[:, None] * side + torch.arange(side - 1)).flatten()
    down, right = corner + side, corner + 1
    triangles = torch.cat([torch.stack([corner, down, right], 1), torch.stack([right, down, down + 1], 1)])
    return points, triangles.int()


def test_a_plane_sees_the_whole_sky_and_a_roof_takes_it_away():
    points, triangles = sheet(21, 0.0)
    middle = len(points) // 2
    assert float(sky_share(points, triangles, len(points))[middle]) > 0.98
    roof, above = sheet(21, 15.0)
    both = torch.cat([points, roof]), torch.cat([triangles, above + len(points)])
    assert float(sky_share(*both, len(points))[middle]) < 0.2
    small = torch.cat([points, (roof - roof.mean(0)) * 0.15 + roof.mean(0)]), both[1]
    assert 0.2 < float(sky_share(*small, len(points))[middle]) < 0.9


def test_hollows_of_the_face_get_less_light_than_the_forehead_at_every_level():
    for level in (0, 1):
        template = FaceTemplate.default(level)
        factor, marks = ambient_factor(template), template.landmarks(template.vertices)
        assert float(factor.min()) >= 0.5 - 1e-6 and float(factor.max()) <= 1 + 1e-6

        def at(point: torch.Tensor, factor: torch.Tensor = factor, template: FaceTemplate = template) -> float:
            return float(factor[(template.vertices - point).norm(dim=1).argmin()])

        forehead = marks[27] + torch.tensor([0.0, 40.0, 0.0])
        assert at(forehead) > 0.93
        assert at(marks[39]) < at(forehead) - 0.1  # the inner corner of an eye
        assert at(marks[33]) < at(forehead) - 0.1  # below the nose


def test_both_sides_of_the_face_are_alike():
    template = FaceTemplate.default(0)
    difference = (template.ambient_occlusion - template.ambient_occlusion[template.mirror]).abs()
    face = template.regions["face"] > 0.5
    assert float(difference[face].mean()) < 0.03
