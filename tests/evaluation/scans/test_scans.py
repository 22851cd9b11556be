"""The scan-to-mesh protocol on exact cases: what must be zero, what is known, and what must not matter."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fmlfast.data.synthetic.people import PeopleSampler
from fmlfast.evaluation.scans import protocol as scans
from fmlfast.evaluation.scans.alignment import MeshToScan, align_landmarks, register_robust
from fmlfast.evaluation.scans.datasets import NOW_POINTS, Scan, read_scans
from fmlfast.evaluation.scans.face_regions import FACE_PARTS, OUTSIDE, face_parts
from fmlfast.evaluation.scans.protocol import evaluate_scans, face_disc, scan_to_mesh
from fmlfast.mesh_io import write_mesh
from fmlfast.model.fml import FML
from fmlfast.reconstruction.pipeline import Reconstruction
from fmlfast.template.face_template import FaceTemplate

pytest.importorskip("scipy")
closest_point = pytest.importorskip("fmlfast.evaluation.scans.closest_point")

TEMPLATE = FaceTemplate.default(0)
VERTICES = TEMPLATE.vertices.double().numpy()
TRIANGLES = TEMPLATE.triangles.numpy()
LANDMARKS = TEMPLATE.landmarks(TEMPLATE.vertices).double().numpy()[list(NOW_POINTS)]
FACE = (TEMPLATE.regions["face"] > 0.5).numpy()
TURN = torch.linalg.matrix_exp(torch.tensor([[0, -0.4, 0.2], [0.4, 0, -0.7], [-0.2, 0.7, 0]], dtype=torch.float64))
MOVE = MeshToScan(1.3, TURN.numpy(), np.array([40.0, -25.0, 700.0]))


def wobble(landmarks: np.ndarray, sigma: float = 2.0) -> np.ndarray:
    """Landmarks as a person marks them, off by a few mm."""
    return landmarks + np.random.default_rng(3).normal(0, sigma, landmarks.shape)


def samples(count: int, seed: int = 0) -> np.ndarray:
    """Random points on the surface of the template's face, which are no vertices."""
    rng = np.random.default_rng(seed)
    inside = np.nonzero(FACE[TRIANGLES].all(1))[0]
    corners = VERTICES[TRIANGLES[rng.choice(inside, count)]]
    weights = rng.dirichlet([1, 1, 1], count)
    return (weights[:, :, None] * corners).sum(1)


# ------------------------------------------------------------------------------------------------- closest points


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


# ------------------------------------------------------------------------------------------------------- alignment


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


# ---------------------------------------------------------------------------------------------------- the protocol


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


def test_landmarks_of_other_people_fit_and_swapped_ones_do_not():
    swapped = [3, 2, 1, 0, 4, 6, 5]
    for seed in range(40):
        marks = TEMPLATE.landmarks(deformed(seed))[list(NOW_POINTS)].double().numpy()
        for order, fits in ((slice(None), True), (swapped, False)):
            target = marks[order]
            rest = align_landmarks(LANDMARKS, target).apply(LANDMARKS) - target
            misfit = np.sqrt((rest**2).sum() / ((target - target.mean(0)) ** 2).sum())
            assert misfit < 0.8 * scans.LANDMARK_MISFIT if fits else misfit > 1.1 * scans.LANDMARK_MISFIT


# --------------------------------------------------------------------------------------------------------- regions


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


# ------------------------------------------------------------------------------------------------------ evaluation


@cache
def deformed(seed: int) -> torch.Tensor:
    """A random person on the base mesh."""
    return torch.from_numpy(PeopleSampler().sample(np.random.default_rng(seed)).vertices)


def skin_of(vertices: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The skin of a head as a mesh of its own, for no scanner sees the inside of the mouth, and points of shoulders."""
    inside = (TEMPLATE.regions["skin"] > 0.5).numpy()
    triangles = TRIANGLES[inside[TRIANGLES].all(1)]
    used, triangles = np.unique(triangles, return_inverse=True)
    shoulders = np.random.default_rng(0).uniform(-200, -150, (100, 3))
    return np.vstack([vertices.numpy()[used], shoulders]), triangles.reshape(-1, 3)


@pytest.fixture
def scan_folder(tmp_path: Path) -> Path:
    """Two people in the plain layout with two photos each, anna's `b` with a scan of its own moment."""
    for seed, name in enumerate(("anna", "ben")):
        home = tmp_path / "scans" / name
        home.mkdir(parents=True)
        vertices = deformed(seed)
        write_mesh(home / "scan.ply", *skin_of(vertices))
        np.savetxt(home / "landmarks.txt", TEMPLATE.landmarks(vertices))
        for photo in "ab":
            Image.new("RGB", (40, 40), (seed, ord(photo), 0)).save(home / f"{photo}.png")
    posed = deformed(0) + TEMPLATE.expressions[TEMPLATE.expression_names.index("jawOpen")]
    write_mesh(tmp_path / "scans/anna/b.obj", *skin_of(posed))
    np.savetxt(tmp_path / "scans/anna/b.txt", TEMPLATE.landmarks(posed)[list(NOW_POINTS)])
    return tmp_path / "scans"


@pytest.fixture
def reconstructions(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], int]]:
    """Replaces reconstruction by one whose shapes are known: alone the mean face, jointly half way to the truth, with
    refinement the truth. Returns the calls."""
    calls: list[tuple[list[str], int]] = []

    def fake(images: list[Path], checkpoint: Path, *, refine: int) -> Reconstruction:
        calls.append(([path.name for path in images], refine))
        if any(path.name == "faceless.png" for path in images):
            raise ValueError("faceless.png: no face found")
        share = 0.0 if len(images) == 1 else 1.0 if refine else 0.5
        name = images[0].parent.name
        truth = deformed(0 if name == "anna" else 1)
        neutral = torch.lerp(TEMPLATE.vertices, truth, share)
        opened = share * TEMPLATE.expressions[TEMPLATE.expression_names.index("jawOpen")]
        posed = torch.stack([neutral + opened * (path.name == "b.png") for path in images])
        result = object.__new__(Reconstruction)
        for field, value in {"template": TEMPLATE, "neutral": neutral, "vertices": posed}.items():
            object.__setattr__(result, field, value)
        return result

    monkeypatch.setattr(scans, "reconstruct", fake)
    monkeypatch.setattr("fmlfast.evaluation.scans.alignment.MAX_POINTS", 300)
    return calls


@pytest.fixture
def run(tmp_path: Path, model: FML) -> Path:
    model.save(tmp_path / "run")
    return tmp_path / "run"


def test_a_run_is_measured_against_scans(scan_folder, run, reconstructions):
    for name in ("c", "faceless"):
        Image.new("RGB", (40, 40)).save(scan_folder / "ben" / f"{name}.png")
    table = evaluate_scans(run, scan_folder, refine=7)
    assert table["layout"] == "folder" and table["people"] == 2 and table["photos"] == 5
    assert list(table["failed"].values()) == ["faceless.png: no face found"]
    assert (["a.png", "b.png"], 7) in reconstructions and (["a.png", "b.png"], 0) in reconstructions
    mean, alone, joint, refined = (table[row] for row in ("mean_face", "frames_1", "frames_4", "frames_4_refined"))
    assert alone == mean  # the fake sees no more than the template in one photo
    for metric in ("posed_median_mm", "posed_mean_mm", "neutral_median_mm", "neutral_mean_mm"):
        assert 0.4 < mean[metric] and 0.3 * mean[metric] < joint[metric] < 0.75 * mean[metric]
        assert refined[metric] < 0.02 * mean[metric]
    assert abs(table["ratios"]["frames_4"]["posed_mean_mm"] - joint["posed_mean_mm"] / mean["posed_mean_mm"]) < 1e-3
    assert set(table["person_means"]["frames_4"]["neutral"]) == {"anna", "ben"}
    assert set(table["person_means"]["frames_4"]["posed"]) == {"anna"}
    people = list(table["person_means"]["mean_face"]["neutral"].values())
    assert abs(table["spread"]["mean_face"]["neutral_mean_mm"] - abs(people[0] - people[1]) / 2) < 1e-3
    assert set(table["parts"]["frames_1"]["neutral"]) == set(FACE_PARTS)
    curve = table["curves"]["mean_face"]["neutral"]
    assert len(curve) == len(table["curves"]["mm"]) and curve == sorted(curve) and curve[-1] > 0.95
    at_median = np.interp(mean["neutral_median_mm"], table["curves"]["mm"], curve)
    assert abs(at_median - 0.5) < 0.02
    alone = table["person_means"]["mean_face"]["neutral"]
    weights = [n * face_disc(p.scans[0].read()).sum() for n, p in zip((2, 3), read_scans(scan_folder), strict=True)]
    pooled = np.average([alone["anna"], alone["ben"]], weights=weights)
    assert abs(mean["neutral_mean_mm"] - pooled) < 1e-3  # every photo counts with its points
    assert table["not_converged"] == 0
    assert json.loads((run / "scans.json").read_text()) == table
    assert Image.open(run / "scans.png").size[0] > 1000  # a panel for each kind of geometry


def test_a_set_without_refinement_or_several_photos_has_fewer_rows(scan_folder, run, reconstructions):
    for name in ("anna", "ben"):
        (scan_folder / name / "b.png").unlink()
    table = evaluate_scans(run, scan_folder, refine=0)
    assert {"mean_face", "frames_1"} == {row for row in table if row == "mean_face" or row.startswith("frames")}
    assert not any(name.startswith("posed") for name in table["frames_1"])


def test_a_person_without_landmarks_is_named(scan_folder, run, reconstructions):
    (scan_folder / "ben" / "landmarks.txt").unlink()
    with pytest.raises(ValueError, match=r"ben.landmarks\.txt .*is missing: the 7 or 68 landmarks of scan\.ply"):
        evaluate_scans(run, scan_folder, refine=0)
    assert reconstructions == [] and not (run / "scans.json").exists()


def test_landmarks_in_another_order_are_named(scan_folder, run, reconstructions):
    marks = np.loadtxt(scan_folder / "ben" / "landmarks.txt")[list(NOW_POINTS)]
    np.savetxt(scan_folder / "ben" / "landmarks.txt", marks[[3, 2, 1, 0, 4, 6, 5]])
    with pytest.raises(ValueError, match=r"ben.landmarks\.txt: the landmarks .* do not fit"):
        evaluate_scans(run, scan_folder, refine=0)
    assert reconstructions == []  # found before the work


def test_a_scan_in_another_frame_than_its_landmarks_is_named(scan_folder, run, reconstructions):
    vertices, triangles = skin_of(deformed(1))
    write_mesh(scan_folder / "ben" / "scan.ply", vertices + 1000, triangles)
    with pytest.raises(ValueError, match=r"ben.landmarks\.txt: 0 scan points .* share one frame"):
        evaluate_scans(run, scan_folder, refine=0)


def test_no_usable_photo_and_no_run_are_errors(scan_folder, run, reconstructions, tmp_path):
    for name in ("anna", "ben"):
        (scan_folder / name / "a.png").rename(scan_folder / name / "faceless.png")
        (scan_folder / name / "b.png").unlink()
    with pytest.raises(ValueError, match="no photo could be reconstructed.*no face found"):
        evaluate_scans(run, scan_folder, refine=0)
    with pytest.raises(ValueError, match="not a finished run"):
        evaluate_scans(tmp_path / "nothing", scan_folder, refine=0)
