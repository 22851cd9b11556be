"""The detector's points and scores: their mirror tables, against the symmetric template and the iBUG landmarks."""

import numpy as np
import pytest
import torch

from fmlfast.data.mediapipe478 import MIRROR_POINTS, MIRROR_SCORES, NUM_POINTS, NUM_SCORES, SCORE_NAMES, TO_IBUG68
from fmlfast.ibug68 import INNER, MIRROR
from fmlfast.template.face_template import FaceTemplate

FLIP = torch.tensor([-1.0, 1, 1])


def surface(level: int = 0) -> torch.Tensor:
    template = FaceTemplate.default(level)
    return template.surface_points(template.vertices, torch.arange(NUM_POINTS))


@pytest.mark.parametrize(("table", "count"), [(MIRROR_POINTS, NUM_POINTS), (MIRROR_SCORES, NUM_SCORES)])
def test_a_mirror_of_a_mirror_is_nothing(table: tuple[int, ...], count: int) -> None:
    assert len(table) == count and sorted(table) == list(range(count))
    assert [table[place] for place in table] == list(range(count))
    still = sum(place == index for index, place in enumerate(table))
    assert 0 < still < count / 4


def test_the_templates_surface_points_are_symmetric() -> None:
    points = surface()
    mirrored = points[list(MIRROR_POINTS)] * FLIP
    assert (mirrored - points).norm(dim=1).max() < 1.0  # mm
    paired = torch.tensor([place != index for index, place in enumerate(MIRROR_POINTS)])
    assert (points[paired] * FLIP - points[paired]).norm(dim=1).median() > 30
    assert points[~paired, 0].abs().max() < 0.5


def test_the_reduction_to_landmarks_is_mirrored_alike() -> None:
    assert TO_IBUG68.shape == (68, NUM_POINTS)
    np.testing.assert_allclose(TO_IBUG68.sum(axis=1), 1)
    np.testing.assert_array_equal(TO_IBUG68[list(MIRROR)][:, list(MIRROR_POINTS)], TO_IBUG68)


def test_scores_change_sides_by_name() -> None:
    assert len(set(SCORE_NAMES)) == NUM_SCORES == len(SCORE_NAMES)
    for index, name in enumerate(SCORE_NAMES):
        other = SCORE_NAMES[MIRROR_SCORES[index]]
        if name.endswith("Left"):
            assert other == name[:-4] + "Right"
        elif name.endswith("Right"):
            assert other == name[:-5] + "Left"
        else:
            assert other == name
    assert SCORE_NAMES[0] == "_neutral" and list(SCORE_NAMES[1:]) == sorted(SCORE_NAMES[1:])
    assert set(FaceTemplate.default(0).expression_names) <= set(SCORE_NAMES)


def test_surface_points_lie_where_the_landmarks_lie_that_average_them() -> None:
    template, points = FaceTemplate.default(0), surface()
    averaged = torch.from_numpy(TO_IBUG68).float() @ points
    distance = (averaged - template.landmarks(template.vertices)).norm(dim=1)
    assert distance[INNER].mean() < 3 and distance[INNER].max() < 8  # mm


def test_surface_points_keep_their_places_on_every_level_and_on_the_part_around_landmarks() -> None:
    points, template = surface(), FaceTemplate.default(1)
    assert (surface(1) - points).norm(dim=1).max() < 2  # mm, Loop's subdivision shrinks
    ids = torch.tensor([3, 477, 0, 3])
    moved = template.vertices + torch.randn(2, *template.vertices.shape, generator=torch.Generator().manual_seed(0))
    found = template.surface_points(moved, ids)
    for point, place in enumerate(ids.tolist()):
        corners = template.triangles[template.surface_triangles[place]].tolist()
        weights = template.surface_barycentrics[place].tolist()
        expected = sum(w * moved[:, v].double() for w, v in zip(weights, corners, strict=True))
        torch.testing.assert_close(found[:, point].double(), expected, atol=1e-4, rtol=0)
    part, everything = template.landmark_part(), torch.arange(NUM_POINTS)
    assert len(part.vertices) < 0.5 * len(template.vertices)
    torch.testing.assert_close(part.surface_points(part.vertices, everything), surface(1))
