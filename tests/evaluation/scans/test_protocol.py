"""The scan-to-mesh protocol on exact cases: what must be zero, what is known, and what must not matter."""

import numpy as np
import pytest

from fmlfast.evaluation.scans import protocol as scans
from fmlfast.evaluation.scans.datasets import NOW_POINTS, STEADY_POINTS, Scan
from fmlfast.evaluation.scans.protocol import face_disc, scan_to_mesh
from fmlfast.ibug68 import MIRROR
from fmlfast.template.face_template import FaceTemplate
from tests.helpers.scan_scenes import FACE, LANDMARKS, MOVE, TEMPLATE, TRIANGLES, VERTICES, deformed, samples, wobble

pytest.importorskip("scipy")
closest_point = pytest.importorskip("fmlfast.evaluation.scans.closest_point")


def test_identical_meshes_are_zero_apart():
    errors = scan_to_mesh(VERTICES, VERTICES, TRIANGLES, LANDMARKS, LANDMARKS)
    assert errors.distances.max() < 1e-9 and errors.converged
    np.testing.assert_allclose([errors.median, errors.mean, errors.std], 0, atol=1e-9)
    np.testing.assert_array_equal(errors.curve([0.1, 1.0]), 1.0)


def test_a_known_scale_rotation_and_offset_is_recovered():
    errors = scan_to_mesh(MOVE.apply(samples(2000)), VERTICES, TRIANGLES, wobble(MOVE.apply(LANDMARKS)), LANDMARKS)
    assert abs(errors.alignment.scale - MOVE.scale) < 1e-4
    np.testing.assert_allclose(errors.alignment.rotation, MOVE.rotation, atol=1e-4)
    moved, true = errors.alignment.apply(VERTICES[FACE]), MOVE.apply(VERTICES[FACE])
    assert np.abs(moved - true).max() < 1e-4  # mm
    assert errors.distances.max() < 1e-4


def test_distances_are_in_the_scans_unit():
    # A plate of 100 mm, and a scan of it at twice the size whose points hover 3 mm above and below it in turn.
    grid = np.stack(np.meshgrid(np.linspace(-50, 50, 21), np.linspace(-50, 50, 21)), -1).reshape(-1, 2)
    bumps = 5 * np.cos(grid[:, 0] / 12) * np.cos(grid[:, 1] / 9)
    vertices = np.column_stack([grid, bumps])
    cells = np.arange(441).reshape(21, 21)
    a, b, c, d = (cells[i : i + 20, j : j + 20].ravel() for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)))
    triangles = np.concatenate([np.stack([a, b, c], 1), np.stack([b, d, c], 1)])
    mesh = closest_point.ClosestPoint(vertices, triangles)
    inner = np.abs(vertices[triangles].mean(1)[:, :2]).max(1) < 45
    centroids, normals = vertices[triangles].mean(1)[inner], mesh.normals[inner]
    scan = 2 * (centroids + 0.15 * np.where(np.arange(inner.sum()) % 2, 1, -1)[:, None] * normals)
    marks = vertices[[0, 20, 420, 440, 220, 110, 330]]
    errors = scan_to_mesh(scan, vertices, triangles, 2 * marks, marks)
    np.testing.assert_allclose(errors.median, 0.3, atol=0.01)
    np.testing.assert_allclose(errors.alignment.scale, 2, atol=1e-3)


def test_another_topology_gives_the_distance_between_the_surfaces():
    fine = FaceTemplate.default(1)
    points = fine.vertices[fine.regions["face"] > 0.5].double().numpy()[::4]
    coarse = closest_point.ClosestPoint(VERTICES, TRIANGLES)(points).distance  # what no alignment has touched
    errors = scan_to_mesh(points, VERTICES, TRIANGLES, LANDMARKS, LANDMARKS)
    assert 0.03 < coarse.mean() < 0.2  # Loop subdivision rounds the base mesh off
    assert abs(errors.mean - coarse.mean()) < 0.01 and abs(errors.median - np.median(coarse)) < 0.01
    back = scan_to_mesh(VERTICES[FACE][::2], fine.vertices.numpy(), fine.triangles.numpy(), LANDMARKS, LANDMARKS)
    assert 0.03 < back.mean < 0.2


def test_noise_of_known_sigma_comes_out_as_its_normal_part():
    sigma, count = 0.5, 4000
    scan = samples(count) + np.random.default_rng(1).normal(0, sigma, (count, 3))
    errors = scan_to_mesh(scan, VERTICES, TRIANGLES, LANDMARKS, LANDMARKS)
    # Of isotropic noise a smooth surface sees the part along its normal: a folded normal distribution.
    np.testing.assert_allclose(errors.mean, sigma * np.sqrt(2 / np.pi), rtol=0.06)
    np.testing.assert_allclose(errors.median, 0.6745 * sigma, rtol=0.06)
    np.testing.assert_allclose(errors.std, sigma * np.sqrt(1 - 2 / np.pi), rtol=0.08)
    assert np.abs(errors.alignment.apply(VERTICES[FACE]) - VERTICES[FACE]).max() < 0.25


def test_half_a_scan_aligns_as_the_whole():
    points = samples(3000)
    scan = MOVE.apply(points[points[:, 0] > -5])  # one side of the face
    errors = scan_to_mesh(scan, VERTICES, TRIANGLES, wobble(MOVE.apply(LANDMARKS)), LANDMARKS)
    assert errors.distances.max() < 1e-4
    assert np.abs(errors.alignment.apply(VERTICES[FACE]) - MOVE.apply(VERTICES[FACE])).max() < 1e-3


def test_outliers_do_not_move_the_result():
    clean = samples(2000)
    rng = np.random.default_rng(5)
    scan = np.vstack([clean + rng.normal(0, 0.3, clean.shape), rng.uniform(-120, 120, (400, 3))])
    errors = scan_to_mesh(scan, VERTICES, TRIANGLES, wobble(LANDMARKS), LANDMARKS)
    alone = scan_to_mesh(scan[:2000], VERTICES, TRIANGLES, wobble(LANDMARKS), LANDMARKS)
    difference = errors.alignment.apply(VERTICES[FACE]) - alone.alignment.apply(VERTICES[FACE])
    assert np.abs(difference).max() < 0.15
    np.testing.assert_allclose(np.median(errors.distances[:2000]), alone.median, atol=0.01)


def test_two_runs_agree_to_the_last_bit():
    scan = MOVE.apply(samples(6000))  # more than refinement looks at
    first, second = (
        scan_to_mesh(scan, VERTICES, TRIANGLES, wobble(MOVE.apply(LANDMARKS)), LANDMARKS) for _ in range(2)
    )
    np.testing.assert_array_equal(first.distances, second.distances)


def test_only_measured_points_count():
    points = np.vstack([samples(500), samples(500) + [0, 0, 40.0]])
    measured = np.arange(1000) < 500
    errors = scan_to_mesh(points, VERTICES, TRIANGLES, LANDMARKS, LANDMARKS, measured)
    assert len(errors.distances) == len(errors.nearest) == 500 and errors.distances.max() < 1e-6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scan_points": np.zeros((5, 2))}, r"\[P, 3\]"),
        ({"scan_points": np.zeros((5, 3))}, "too few"),
        ({"measured": np.zeros(3, bool)}, "measured must be"),
        ({"measured": np.zeros(len(VERTICES), bool)}, "too few"),
        ({"scan_landmarks": LANDMARKS[[3, 2, 1, 0, 4, 6, 5]]}, "do not fit"),  # left and right swapped
    ],
)
def test_the_protocol_says_what_is_wrong(change, message):
    arguments = {
        "scan_points": VERTICES,
        "vertices": VERTICES,
        "triangles": TRIANGLES,
        "scan_landmarks": LANDMARKS,
        "mesh_landmarks": LANDMARKS,
    }
    with pytest.raises(ValueError, match=message):
        scan_to_mesh(**(arguments | change))


EXPRESSIONS = (
    {},
    {"jawOpen": 1.0},
    {"jawOpen": 1.0, "mouthFunnel": 1.0},
    {"mouthPucker": 1.0, "mouthLeft": 1.0},
    {"mouthSmileLeft": 1.0, "mouthSmileRight": 1.0, "cheekSquintLeft": 1.0, "cheekSquintRight": 1.0, "jawOpen": 0.5},
    {"browInnerUp": 1.0, "browOuterUpLeft": 1.0, "browOuterUpRight": 1.0, "jawOpen": 1.0},
)
SWAPPED, TURNED, EYES_EXCHANGED = [3, 2, 1, 0, 4, 6, 5], [6, 5, 4, 3, 2, 1, 0], [3, 2, 1, 0, 4, 5, 6]


@pytest.mark.parametrize("shown", EXPRESSIONS, ids=lambda shown: "+".join(shown) or "neutral")
def test_landmarks_of_other_people_fit_with_any_expression_and_wrong_orders_do_not(shown):
    rng = np.random.default_rng(0)
    change = sum(a * TEMPLATE.expressions[TEMPLATE.expression_names.index(name)] for name, a in shown.items())
    for seed in range(20):
        marks = TEMPLATE.landmarks(deformed(seed) + change).double().numpy()
        for numbers in (NOW_POINTS, STEADY_POINTS):
            mesh = TEMPLATE.landmarks(TEMPLATE.vertices).double().numpy()[list(numbers)]
            scan = marks[list(numbers)] + rng.normal(0, 1.5, (len(numbers), 3))
            scans._checked_start(mesh, scan)
            swapped = [numbers.index(MIRROR[number]) for number in numbers]
            with pytest.raises(ValueError, match="left and right are swapped|do not fit"):
                scans._checked_start(mesh, scan[swapped])
        for order in (TURNED, EYES_EXCHANGED):
            with pytest.raises(ValueError, match="do not fit"):
                scans._checked_start(LANDMARKS, marks[list(NOW_POINTS)][order])


def test_flat_landmarks_have_no_sides():
    flat = np.array([[0.0, 0, 0], [1, 0, 0], [2, 1, 0], [0, 3, 0]])
    scans._checked_start(flat, flat @ MOVE.rotation.T)


def test_the_measured_disc_is_that_of_now():
    scan = Scan(VERTICES, LANDMARKS, NOW_POINTS)
    inside = face_disc(scan)
    eyes = np.linalg.norm(LANDMARKS[0] - LANDMARKS[3])
    bridge = (LANDMARKS[1] + LANDMARKS[2]) / 2
    radius = 0.7 * (eyes + np.linalg.norm(bridge - LANDMARKS[4]))
    center = 0.7 * LANDMARKS[4] + 0.3 * bridge
    far = np.linalg.norm(VERTICES - center, axis=1)
    assert far[inside].max() <= radius < far[~inside].min()
    assert 70 < radius < 100 and not inside[VERTICES[:, 1] < -100].any()
