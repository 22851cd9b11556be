"""Distances between two persons' neutral shapes."""

from dataclasses import replace

import pytest
import torch

from fmlfast.reconstruction.head import Head
from fmlfast.rotation import rotation_from_axis_angle
from fmlfast.template.face_template import FaceTemplate
from fmlfast.visualization.viewer.compare_view import as_text, difference
from fmlfast.visualization.viewer.figure import plain_head


def moved(head: Head, scale: float = 1.0) -> Head:
    rotation = rotation_from_axis_angle(torch.tensor([0.1, 0.2, -0.1]))
    return replace(head, neutral=scale * head.neutral @ rotation.T + torch.tensor([5.0, 6.0, 7.0]))


def test_only_the_shape_counts_and_size_where_it_is_asked_for() -> None:
    head = plain_head(FaceTemplate.default(0))
    assert difference(head, moved(head), False).largest < 1e-3
    larger = moved(head, 1.1)
    rigid, similar = difference(head, larger, False), difference(head, larger, True)
    assert rigid.mean > 2 and rigid.scale == 1
    assert similar.largest < 1e-3 and similar.scale == pytest.approx(1.1, abs=1e-4)


def test_a_dent_is_found_where_it_is() -> None:
    template = FaceTemplate.default(0)
    head = plain_head(template)
    nose = int(template.vertices[:, 2].argmax())
    dented = head.neutral.clone()
    dented[nose, 2] -= 9.0
    found = difference(head, replace(head, neutral=dented), False)
    assert int(found.distance.argmax()) == nose
    assert float(found.distance[nose]) == pytest.approx(9, abs=0.2) and found.mean < 0.2


def test_levels_of_one_template_are_compared_on_the_coarser() -> None:
    fine, coarse = (plain_head(FaceTemplate.default(level)) for level in (1, 0))
    same = replace(coarse, neutral=fine.neutral[: len(coarse.neutral)])
    for pair in ((fine, same), (same, fine)):
        found = difference(*pair, False)
        assert found.distance.shape == (len(coarse.neutral),) and found.largest < 1e-3


def test_heads_of_different_templates_are_refused() -> None:
    head = plain_head(FaceTemplate.default(0))
    other = replace(head, template=replace(head.template, name="mine", fingerprint="0" * 16))
    with pytest.raises(ValueError, match="different templates, makehuman-face and mine"):
        difference(head, other, False)


def test_names_of_folders_are_no_markup() -> None:
    assert as_text("out 7\nof-me") == r"out 7 of\-me"
    assert as_text("{alert(1)}<b>`*é_") == r"\{alert\(1\)\}\<b\>\`\*é\_"
