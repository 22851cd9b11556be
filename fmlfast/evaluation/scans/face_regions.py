"""Parts of a face that errors are reported for: a partition of the template's face region by its landmarks."""

import torch
from torch import Tensor

from fmlfast.template.face_template import FaceTemplate
from fmlfast.template.regions import polyline_distance

FACE_PARTS = ("eyes", "nose", "mouth", "forehead", "chin", "cheeks")
OUTSIDE = -1  # what lies beyond the face region
_EYE_REACH, _NOSE_REACH, _MOUTH_REACH = 11.0, 13.0, 9.0  # mm around the landmarks' lines


def face_parts(template: FaceTemplate) -> Tensor:
    """The part of each vertex, [V] int64: an index of FACE_PARTS, or OUTSIDE where the face mask is below one half.

    Eyes, nose and mouth are what lies within 11, 13 and 9 mm of the lines through their landmarks, in this order;
    forehead is what lies above the brows' lower ends, chin what lies below the mouth between its corners, cheeks are
    the rest.
    """
    points = template.vertices
    marks = template.landmarks(points)  # [68, 3]
    eyes = torch.minimum(
        polyline_distance(points, marks[[36, 37, 38, 39, 40, 41, 36]]),
        polyline_distance(points, marks[[42, 43, 44, 45, 46, 47, 42]]),
    )
    nose = torch.minimum(polyline_distance(points, marks[27:31]), polyline_distance(points, marks[31:36]))
    mouth = polyline_distance(points, marks[[*range(48, 60), 48]])
    lips = marks[48:60]
    corners = lips[[0, 6]]
    inside = (points[:, :2] >= lips[:, :2].amin(0)).all(1) & (points[:, :2] <= lips[:, :2].amax(0)).all(1)
    low = marks[17:27, 1].amin()
    below = (points[:, 1] < corners[:, 1].mean()) & (points[:, 0] > corners[0, 0]) & (points[:, 0] < corners[1, 0])
    tests = {
        "eyes": eyes < _EYE_REACH,
        "nose": nose < _NOSE_REACH,
        "mouth": (mouth < _MOUTH_REACH) | inside,
        "forehead": points[:, 1] > low,
        "chin": below,
        "cheeks": torch.ones(len(points), dtype=torch.bool),
    }
    part = torch.full((len(points),), OUTSIDE)
    for name, test in tests.items():
        free = (part == OUTSIDE) & (template.regions["face"] > 0.5)
        part[free & test] = FACE_PARTS.index(name)
    return part
