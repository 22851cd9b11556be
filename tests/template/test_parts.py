import numpy as np
import pytest

from fmlfast.template.face_template import FaceTemplate
from fmlfast.template.parts import split_template


@pytest.mark.parametrize("level", [0, 1])
def test_parts_divide_the_template_as_its_masks_name_them(level: int) -> None:
    template = FaceTemplate.default(level)
    parts = {part.name: part for part in split_template(template)}
    assert list(parts) == ["head", "eye_left", "eye_right", "teeth_upper", "teeth_lower", "tongue", "lashes"]
    ids = np.concatenate([part.vertices for part in parts.values()])
    np.testing.assert_array_equal(np.sort(ids), np.arange(len(template.vertices)))
    corners = np.concatenate([part.vertices[part.triangles] for part in parts.values()])
    assert {tuple(row) for row in corners} == {tuple(row) for row in template.triangles.numpy()}
    for name, mask in (("eye_left", "eyes"), ("eye_right", "eyes"), ("tongue", "tongue"), ("lashes", "lashes")):
        assert template.regions[mask][parts[name].vertices].min() > 0.5
    assert (template.vertices[parts["eye_left"].vertices, 0] > 0).all()
    assert (template.vertices[parts["eye_right"].vertices, 0] < 0).all()
    heights = [template.vertices[parts[name].vertices, 1].mean() for name in ("teeth_upper", "teeth_lower")]
    assert heights[0] > heights[1] + 5
