"""Alignment of a mesh to a scan whose position is known."""

import numpy as np
import pytest

from fmlfast.evaluation.scans.alignment import align_landmarks, register_robust
from tests.helpers.scan_scenes import LANDMARKS, MOVE, TRIANGLES, VERTICES, samples, wobble

pytest.importorskip("scipy")
closest_point = pytest.importorskip("fmlfast.evaluation.scans.closest_point")


def test_landmarks_recover_a_similarity():
    found = align_landmarks(LANDMARKS, MOVE.apply(LANDMARKS))
    np.testing.assert_allclose(found.scale, MOVE.scale, rtol=1e-12)
    np.testing.assert_allclose(found.rotation, MOVE.rotation, atol=1e-12)
    np.testing.assert_allclose(found.translation, MOVE.translation, atol=1e-9)
    np.testing.assert_allclose(found.undo(found.apply(VERTICES)), VERTICES, atol=1e-9)


@pytest.mark.parametrize(
    ("mesh", "scan", "message"),
    [
        (LANDMARKS[:2], LANDMARKS[:2], "K >= 3"),
        (LANDMARKS, LANDMARKS[:6], "same K"),
        (np.arange(21.0).reshape(7, 3), LANDMARKS, "on a line"),
        (LANDMARKS, np.float32(1000 + np.arange(7)[:, None] * [0.1, 0.7, 0.3]), "on a line"),  # but for its rounding
        (np.tile([0.1, 0.2, 0.3], (7, 1)), LANDMARKS, "coincide"),
    ],
)
def test_landmarks_are_checked(mesh, scan, message):
    with pytest.raises(ValueError, match=message):
        align_landmarks(mesh, scan)


def test_refinement_ends_where_it_would_not_move():
    mesh = closest_point.ClosestPoint(VERTICES, TRIANGLES)
    scan = MOVE.apply(samples(1500))
    first = register_robust(mesh, scan, align_landmarks(LANDMARKS, wobble(MOVE.apply(LANDMARKS))))
    again = register_robust(mesh, scan, first.alignment)
    assert first.converged and again.converged and again.iterations <= 2
    np.testing.assert_allclose(again.alignment.translation, first.alignment.translation, atol=1e-4)
