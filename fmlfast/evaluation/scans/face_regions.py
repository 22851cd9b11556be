"""Partitions the template's face region by its landmarks into the parts that errors are reported for."""

import numpy as np
from numpy.typing import NDArray

from fmlfast.template.face_template import FaceTemplate
from fmlfast.template.regions import polyline_distance

FACE_PARTS = ("eyes", "nose", "mouth", "forehead", "chin", "cheeks")
OUTSIDE = -1  # vertices beyond the face region
_EYE_REACH, _NOSE_REACH, _MOUTH_REACH = 11.0, 13.0, 9.0  # mm around the landmarks' lines


def face_parts(template: FaceTemplate) -> NDArray[np.int64]:
    """Labels each vertex with its part of the face, [V] int64.

    A label is an index of FACE_PARTS, or OUTSIDE where the face mask is at most one half. Eyes, nose and mouth lie
    within 11, 13 and 9 mm of the lines through their landmarks, in this order; the forehead lies above the brows' lower
    ends, the chin below the mouth between its corners; cheeks are the rest.
    """
    points = template.vertices.numpy()
    marks = template.landmarks(template.vertices).numpy()  # [68, 3]

    def reach(*chain: int) -> NDArray[np.float32]:
        """Computes the distance [V] mm of the vertices to the polyline through landmarks."""
        return polyline_distance(points, marks[list(chain)])[0]

    eyes = np.minimum(reach(*range(36, 42), 36), reach(*range(42, 48), 42))
    nose = np.minimum(reach(*range(27, 31)), reach(*range(31, 36)))
    mouth = reach(*range(48, 60), 48)
    lips = marks[48:60]
    corners = lips[[0, 6]]
    inside = (points[:, :2] >= lips[:, :2].min(0)).all(1) & (points[:, :2] <= lips[:, :2].max(0)).all(1)
    low = marks[17:27, 1].min()
    below = (points[:, 1] < corners[:, 1].mean()) & (points[:, 0] > corners[0, 0]) & (points[:, 0] < corners[1, 0])
    tests = {
        "eyes": eyes < _EYE_REACH,
        "nose": nose < _NOSE_REACH,
        "mouth": (mouth < _MOUTH_REACH) | inside,
        "forehead": points[:, 1] > low,
        "chin": below,
        "cheeks": np.ones(len(points), bool),
    }
    part = np.full(len(points), OUTSIDE)
    for name, test in tests.items():
        free = (part == OUTSIDE) & (template.regions["face"].numpy() > 0.5)
        part[free & test] = FACE_PARTS.index(name)
    return part
