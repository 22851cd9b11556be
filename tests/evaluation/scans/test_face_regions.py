"""The parts of a face that errors are reported for."""

from fmlfast.evaluation.scans.face_regions import FACE_PARTS, OUTSIDE, face_parts
from tests.helpers.scan_scenes import TEMPLATE


def test_parts_divide_the_face_and_lie_where_they_are_named():
    part = face_parts(TEMPLATE)
    assert ((part == OUTSIDE) == (TEMPLATE.regions["face"] <= 0.5)).all()
    marks = TEMPLATE.landmarks(TEMPLATE.vertices)
    expected = {"nose": 30, "mouth": 62, "eyes": 37, "chin": 8}
    for name, number in expected.items():
        nearest = (TEMPLATE.vertices - marks[number]).norm(dim=1) + 1e3 * (part == OUTSIDE)
        assert FACE_PARTS[part[nearest.argmin()]] == name
    for name in FACE_PARTS:  # symmetric
        points = TEMPLATE.vertices[part == FACE_PARTS.index(name)]
        assert len(points) > 30 and abs(float(points[:, 0].mean())) < 2
