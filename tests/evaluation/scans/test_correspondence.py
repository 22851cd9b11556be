"""Corresponding points, where the truth is known: people of the generator, scanned on another mesh."""

import numpy as np
import pytest
import torch

from fmlfast.evaluation.scans.alignment import MeshToScan, align_landmarks
from fmlfast.evaluation.scans.datasets import NOW_POINTS, STEADY_POINTS, Scan
from fmlfast.evaluation.scans.face_regions import face_parts
from fmlfast.evaluation.scans.protocol import face_disc, scan_to_mesh
from fmlfast.template.face_template import FaceTemplate
from tests.helpers.scan_scenes import FACE, MOVE, TEMPLATE, TRIANGLES, VERTICES, deformed

pytest.importorskip("scipy")
correspondence = pytest.importorskip("fmlfast.evaluation.scans.correspondence")

FINE = FaceTemplate.default(1)
SHOWN = TRIANGLES[~TEMPLATE.mouth_and_lashes[TEMPLATE.triangles.long()].all(1).numpy()]
REGISTER = correspondence.Correspondence(TEMPLATE, SHOWN, face_parts(TEMPLATE))


def landmarks(vertices: np.ndarray, numbers: tuple[int, ...]) -> np.ndarray:
    return TEMPLATE.landmarks(torch.from_numpy(vertices))[list(numbers)].numpy()


def scanned(vertices: np.ndarray, numbers: tuple[int, ...] = STEADY_POINTS, move: MeshToScan = MOVE) -> Scan:
    """Random points of a head's surface, none a vertex, in a frame and a size of their own."""
    rng = np.random.default_rng(0)
    corners = vertices[SHOWN]
    areas = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    chosen = corners[rng.choice(len(SHOWN), 30000, p=areas / areas.sum())]
    points = (rng.dirichlet([1, 1, 1], len(chosen))[:, :, None] * chosen).sum(1)
    scan = Scan(move.apply(points), move.apply(landmarks(vertices, numbers)), numbers)
    return Scan(scan.points[face_disc(scan)], scan.landmarks, numbers)


def measure(vertices: np.ndarray, scan: Scan) -> tuple[float, float]:
    """Mean distances, mm, to the closest and to the corresponding point."""
    marks = landmarks(vertices, scan.numbers)
    closest = scan_to_mesh(scan.points, vertices, SHOWN, scan.landmarks, marks)
    return closest.mean, REGISTER(vertices, scan, scan.points, closest.alignment).mean


def slid(vertices: np.ndarray, number: int, reach: float, shift: tuple[float, float, float]) -> np.ndarray:
    """The same surface, with what lies around a landmark moved along it."""
    middle = landmarks(vertices, (number,))[0]
    fade = np.exp(-0.5 * ((vertices - middle) ** 2).sum(1) / reach**2)[:, None]
    surface = correspondence.ClosestPoint(vertices, SHOWN)
    moved = surface(vertices + fade * np.array(shift)).point
    return np.where(fade > 0.02, moved, vertices)


@pytest.mark.parametrize(("numbers", "bound"), [(STEADY_POINTS, 1.0), (NOW_POINTS, 1.4)])
def test_a_strangers_vertices_are_found_on_another_mesh(numbers, bound):
    medians = []
    for seed in (100, 101, 102):
        truth = deformed(seed).double().numpy()
        scan = scanned(truth, numbers)
        start = align_landmarks(landmarks(VERTICES, numbers), scan.landmarks)
        found = start.apply(REGISTER.register(VERTICES, scan, scan.points, start))
        apart = np.linalg.norm(found - MOVE.apply(truth), axis=1)[FACE] / MOVE.scale
        before = np.linalg.norm(start.apply(VERTICES) - MOVE.apply(truth), axis=1)[FACE] / MOVE.scale
        assert np.median(apart) < 0.7 * np.median(before)
        medians.append(np.median(apart))
    assert np.mean(medians) < bound


def test_the_true_shape_is_nearly_zero_apart_whatever_its_frame():
    truth = deformed(200).double().numpy()
    closest, corresponding = measure(truth, scanned(truth))
    assert closest < 0.01 and corresponding < 0.1


@pytest.mark.parametrize(
    ("number", "reach", "shift"),
    [(33, 14.0, (6.0, 0.0, 0.0)), (48, 10.0, (-6.0, 0.0, 0.0)), (19, 12.0, (0.0, -5.0, 0.0))],
    ids=["the nose beside its place", "a mouth too wide", "a brow too low"],
)
def test_features_slid_along_the_surface_are_counted(number, reach, shift):
    truth = deformed(201).double().numpy()
    wrong, scan = slid(truth, number, reach, shift), scanned(truth, move=MeshToScan(1.0, MOVE.rotation, np.zeros(3)))
    true = np.linalg.norm(wrong - truth, axis=1)[FACE].mean()
    closest, corresponding = measure(wrong, scan)
    assert closest < 0.25 * true and corresponding > max(0.55 * true, 5 * closest)


def test_the_corresponding_distance_follows_the_true_one_more_closely():
    truth = deformed(202).double().numpy()
    scan = scanned(truth, move=MeshToScan(1.0, MOVE.rotation, np.zeros(3)))
    shapes = [VERTICES, (VERTICES + truth) / 2, (deformed(302).double().numpy() + truth) / 2]
    for vertices in shapes:
        aligned = align_landmarks(vertices[FACE], truth[FACE]).apply(vertices)
        true = np.linalg.norm(aligned - truth, axis=1)[FACE].mean()
        closest, corresponding = measure(vertices, scan)
        assert abs(corresponding - true) < 0.6 * abs(closest - true)


def test_points_off_the_face_have_no_counterpart():
    truth = deformed(203).double().numpy()
    scan = scanned(truth)
    start = align_landmarks(landmarks(VERTICES, scan.numbers), scan.landmarks)
    hair = scan.points + MOVE.rotation @ np.array([0, 0, 60.0])
    errors = REGISTER(VERTICES, scan, np.vstack([scan.points, hair[:300]]), start)
    assert 0.6 * len(scan.points) < len(errors.distances) <= len(scan.points) + 30
    with pytest.raises(ValueError, match="no part of the scan could be registered"):
        REGISTER(VERTICES, scan, scan.points + 1000, start)


def test_registration_repeats_to_the_last_bit():
    scan = scanned(deformed(204).double().numpy())
    start = align_landmarks(landmarks(VERTICES, scan.numbers), scan.landmarks)
    first, second = (REGISTER(VERTICES, scan, scan.points, start).distances for _ in range(2))
    np.testing.assert_array_equal(first, second)
