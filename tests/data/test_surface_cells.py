"""The division of the skin among the detector's points."""

from dataclasses import replace

import torch

from fmlfast.data.mediapipe478 import MIRROR_POINTS
from fmlfast.data.surface_cells import surface_cells
from fmlfast.template.face_template import FaceTemplate


def test_averages_cover_the_face_once() -> None:
    template = FaceTemplate.default(0)
    cells = surface_cells(template)
    inside = template.regions["face"] * ~template.mouth_and_lashes > 0
    assert torch.equal((cells > 0).sum(0), inside.long())
    present = cells.any(1)
    assert present.sum() > 450 and not present[-10:].any()  # no skin at the irises
    torch.testing.assert_close(cells.sum(1)[present], torch.ones(int(present.sum())))
    gap = (cells[present] @ template.vertices) - template.surface_points(template.vertices, present.nonzero()[:, 0])
    assert float(gap.norm(dim=1).median()) < 3.0  # mm


def test_mirrored_fields_have_mirrored_averages() -> None:
    template = FaceTemplate.default(0)
    cells, field = surface_cells(template), FaceTemplate.default(0).vertices.sin()
    apart = (cells @ field[template.mirror] - (cells @ field)[list(MIRROR_POINTS)]).abs().amax(1)
    assert int((apart > 1e-3).sum()) <= 4  # vertices of the middle line, as near to one side as to the other


def test_finer_meshes_give_the_same_averages() -> None:
    base, fine = FaceTemplate.default(0), FaceTemplate.default(1)
    assert surface_cells(fine).shape == surface_cells(base).shape
    smooth = base.vertices[:, 1:2] / 100
    apart = (surface_cells(fine) - surface_cells(base)) @ smooth
    assert float(apart.abs().quantile(0.9)) < 0.02  # 2 mm


def test_templates_without_ties_have_no_averages() -> None:
    template = FaceTemplate.default(0)
    assert not surface_cells(replace(template, surface_triangles=template.surface_triangles[:0])).any()
