"""Closest points on a mesh against other solvers, and over triangles of all sizes."""

import numpy as np
import pytest

from tests.helpers.scan_scenes import TRIANGLES, VERTICES

pytest.importorskip("scipy")
closest_point = pytest.importorskip("fmlfast.evaluation.scans.closest_point")


def brute_force(points: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Least distance [P] over all triangles, each searched by projecting onto its points by convex optimisation."""
    from scipy.optimize import nnls

    result = []
    for point in points:
        distances = []
        for triangle in corners:
            weight = 1e6  # the barycentrics sum to 1
            system = np.vstack([triangle.T, weight * np.ones(3)])
            _, residual = nnls(system, np.append(point, weight))
            distances.append(residual)
        result.append(min(distances))
    return np.array(result)


def test_distance_to_a_triangle_agrees_with_another_solver():
    rng = np.random.default_rng(0)
    corners = rng.normal(size=(40, 3, 3))
    points = rng.normal(size=(20, 3)) * 2
    mesh = closest_point.ClosestPoint(corners.reshape(-1, 3), np.arange(120).reshape(-1, 3))
    np.testing.assert_allclose(mesh(points).distance, brute_force(points, corners), atol=1e-6)


def test_normals_are_zero_where_only_rounding_makes_an_area():
    rng = np.random.default_rng(1)
    along = rng.uniform(size=(50, 3, 1)) * rng.normal(size=(50, 1, 3)) + rng.normal(size=(50, 1, 3)) * 600
    lines = along.astype(np.float32)
    plane = np.array([[0, 0, 600.0], [1, 0, 600], [0, 0.01, 600]])[None]
    mesh = closest_point.ClosestPoint(np.concatenate([lines, plane]).reshape(-1, 3), np.arange(153).reshape(-1, 3))
    assert not mesh.normals[:50].any()
    np.testing.assert_allclose(mesh.normals[50], [0, 0, 1])


@pytest.mark.parametrize("seed", range(4))
def test_closest_points_are_exact_among_triangles_of_all_sizes(seed):
    rng = np.random.default_rng(seed)
    vertices = rng.normal(size=(60, 3)) * np.exp(rng.normal(0, 3, (60, 1)))  # edges from 1e-3 to 1e3
    triangles = rng.integers(0, 60, (300, 3))  # slivers, and some with two equal corners
    points = rng.normal(size=(200, 3)) * np.exp(rng.normal(0, 2, (200, 1)))
    found = closest_point.ClosestPoint(vertices, triangles)(points)
    corners = vertices[triangles]
    every = closest_point.closest_on_triangles(np.repeat(points, 300, 0), np.tile(corners, (200, 1, 1)))
    least = np.linalg.norm(every.reshape(200, 300, 3) - points[:, None], axis=2).min(1)
    np.testing.assert_allclose(found.distance, least, rtol=1e-12, atol=0)
    np.testing.assert_allclose(np.linalg.norm(found.point - points, axis=1), found.distance, rtol=1e-12)


def test_a_large_triangle_far_from_its_centroid_is_found():
    plate = [[-1000.0, -1000, 0], [1000, -1000, 0], [0, 2000, 0]]
    dust = np.random.default_rng(0).normal(size=(300, 3)) + [900, -900, 5]
    mesh = closest_point.ClosestPoint(np.vstack([plate, dust]), np.arange(303).reshape(-1, 3))
    found = mesh(np.array([[-900.0, -950, 0.5]]))
    np.testing.assert_allclose(found.distance, 0.5)
    assert found.triangle[0] == 0


def test_closest_points_are_the_same_however_many_are_asked_for(monkeypatch):
    points = np.random.default_rng(0).normal(0, 60, (500, 3))
    mesh = closest_point.ClosestPoint(VERTICES, TRIANGLES)
    whole = mesh(points)
    monkeypatch.setattr(closest_point, "_POINTS", 7)
    parts = mesh(points)
    np.testing.assert_array_equal(whole.distance, parts.distance)
    np.testing.assert_array_equal(whole.triangle, parts.triangle)


@pytest.mark.parametrize(
    ("vertices", "triangles", "message"),
    [
        (np.zeros((3, 2)), np.array([[0, 1, 2]]), "vertices must be"),
        (np.full((3, 3), np.nan), np.array([[0, 1, 2]]), "finite"),
        (np.zeros((3, 3)), np.array([[0, 1, 3]]), "index the 3 vertices"),
        (np.zeros((3, 3)), np.zeros((0, 3), int), "T > 0"),
        (np.zeros((3, 3)), np.zeros((1, 3)), "integers"),
    ],
)
def test_meshes_are_checked(vertices, triangles, message):
    with pytest.raises(ValueError, match=message):
        closest_point.ClosestPoint(vertices, triangles)
