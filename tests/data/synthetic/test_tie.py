"""The tie of the face detector's points to a template's surface."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from fmlfast.camera import project
from fmlfast.data.mediapipe478 import MIRROR_POINTS, NUM_POINTS
from fmlfast.data.synthetic import tie
from fmlfast.data.synthetic.calibrate import surface_text
from fmlfast.data.synthetic.motion import rotation_from_angles
from fmlfast.data.synthetic.tie import ENOUGH, SKIN_POINTS, Hits, Tie, find_hits, tie_points
from fmlfast.template.face_template import FaceTemplate
from fmlfast.template.folder import DETECTOR_POINTS
from fmlfast.template.surface import closest_points, points_at

SIZE = 128
YAWS = (-60.0, -40.0, -20.0, -5.0, 5.0, 20.0, 40.0, 60.0)
PITCHES = (-25.0, -8.0, 8.0, 25.0)


def posed(vertices: Tensor, template: FaceTemplate) -> tuple[Tensor, Tensor, Tensor]:
    """Faces of the template in 32 poses, camera space, their Ks, and the images of the shipped tie."""
    angles = np.array([(yaw, pitch, 0.3 * yaw) for yaw in YAWS for pitch in PITCHES])
    turns = torch.from_numpy(rotation_from_angles(angles)).float()
    camera = (vertices @ turns.mT + torch.tensor([6.0, -9.0, 700.0])).contiguous()
    Ks = torch.tensor([[3.0 * SIZE, 0.0, SIZE / 2], [0.0, 3.0 * SIZE, SIZE / 2], [0.0, 0.0, 1.0]]).repeat(32, 1, 1)
    return camera, Ks, project(template.surface_points(camera, torch.arange(NUM_POINTS)), Ks)


def error(template: FaceTemplate, tied: Tie) -> np.ndarray:
    """Distances [478] in mm from the template's own points."""
    vertices, triangles = template.vertices.double().numpy(), template.triangles.long().numpy()
    truth = template.surface_points(template.vertices, torch.arange(NUM_POINTS)).numpy()
    return np.linalg.norm(points_at(vertices, triangles, tied.triangles, tied.barycentrics) - truth, axis=1)


@pytest.fixture(scope="module")
def base() -> FaceTemplate:
    return FaceTemplate.default(0)


@pytest.fixture(scope="module")
def hits() -> Hits:
    """Hits on another face than the template's, with its jaw a little open, at level 1."""
    template = FaceTemplate.default(1)
    shape = template.vertices * torch.tensor([1.1, 0.95, 1.0])
    shape = shape + 0.2 * template.expressions[template.expression_names.index("jawOpen")]
    return find_hits(template, *posed(shape, template), SIZE)


def test_the_points_of_known_places_are_tied_to_them(base: FaceTemplate, hits: Hits) -> None:
    tied = tie_points(base, hits, symmetric=True)
    gap = error(base, tied)
    assert np.median(gap) < 0.3, "mm; a pixel spans 1.8 mm"
    assert np.quantile(gap, 0.97) < 2.0
    assert np.nanmedian(tied.scatter) < 1.0
    assert tied.triangles.shape == (NUM_POINTS,) and tied.barycentrics.min() >= 0
    assert np.allclose(tied.barycentrics.sum(1), 1.0)
    corners = base.triangles.long()[torch.from_numpy(tied.triangles)]
    assert bool((base.regions["eyes"][corners[SKIN_POINTS:]] > 0.5).all()), "the irises' rings, half under the lids"
    assert bool((base.regions["mouth_bag"][corners[:SKIN_POINTS]] <= 0.5).all())


def test_pictures_in_which_a_place_turns_away_do_not_count(base: FaceTemplate, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen from the left, a point on the right edge of the jaw lies on the cheek before it."""
    template = FaceTemplate.default(1)
    found = find_hits(template, *posed(template.vertices, template), SIZE)
    assert np.quantile(error(base, tie_points(base, found)), 0.98) < 1.3
    monkeypatch.setattr(tie, "_TURNS", 0)
    assert np.quantile(error(base, tie_points(base, found)), 0.98) > 1.8


def test_rare_points_are_mirrored_and_missing_ones_named(base: FaceTemplate, hits: Hits) -> None:
    left = next(k for k in range(SKIN_POINTS) if base.surface_points(base.vertices, torch.tensor([k]))[0, 0] > 30)
    right = MIRROR_POINTS[left]

    def without(*points: int) -> Hits:
        keep = ~torch.isin(hits.point, torch.tensor(points))
        few = [torch.nonzero(hits.point == point)[: ENOUGH - 1, 0] for point in points]
        keep[torch.cat(few)] = True
        return Hits(hits.point[keep], hits.place[keep], hits.toward[keep])

    tied = tie_points(base, without(left))
    assert np.isnan(tied.scatter[left]) and np.isfinite(tied.scatter).sum() == NUM_POINTS - 1
    assert error(base, tied)[left] < 1.5
    with pytest.raises(ValueError, match="2 of the detector's 478 points have fewer than 5 hits"):
        tie_points(base, without(left, right))


def test_points_off_the_picture_and_on_other_parts_hit_nothing(base: FaceTemplate) -> None:
    camera, Ks, points = posed(base.vertices, base)
    everywhere = find_hits(base, camera, Ks, points, SIZE)
    lost = points.clone()
    lost[:, 5], lost[:, 6], lost[:, 7] = -20.0, SIZE + 3.0, torch.nan
    lost[:, 8] = points[:, 468]  # the middle of an iris
    left = torch.bincount(find_hits(base, camera, Ks, lost, SIZE).point, minlength=NUM_POINTS)
    before = torch.bincount(everywhere.point, minlength=NUM_POINTS)
    assert left[5:8].tolist() == [0, 0, 0] and int(left[8]) < int(before[468]) / 2 and torch.equal(left[9:], before[9:])
    assert torch.allclose(everywhere.toward.norm(dim=1), torch.ones(len(everywhere.point)), atol=1e-5)
    assert bool((everywhere.toward[:, 2] > 0).all()), "the camera is in front of the face"


def test_a_template_without_eyes_takes_the_skin(base: FaceTemplate) -> None:
    corners = base.triangles.long()
    skin = (base.regions["eyes"][corners] < 0.5).all(1)
    blind = replace(
        base,
        triangles=base.triangles[skin].contiguous(),
        regions=base.regions | {"eyes": torch.zeros(len(base.vertices))},
    )
    camera, Ks, points = posed(base.vertices, base)
    points[:, SKIN_POINTS:] = points[:, 4:5]  # the nose
    tied = tie_points(blind, find_hits(blind, camera, Ks, points, SIZE))
    place = points_at(base.vertices.numpy(), blind.triangles.long().numpy(), tied.triangles, tied.barycentrics)
    nose = base.surface_points(base.vertices, torch.tensor([4])).numpy()
    assert np.linalg.norm(place[SKIN_POINTS:] - nose, axis=1).max() < 2.0


def test_the_base_mesh_is_asked_for(hits: Hits) -> None:
    with pytest.raises(ValueError, match="at level 0, not 1"):
        tie_points(FaceTemplate.default(1), hits)


def test_closest_points_agree_with_a_dense_sample() -> None:
    rng = np.random.default_rng(3)
    vertices, triangles = rng.normal(size=(12, 3)), rng.integers(0, 12, (15, 3))
    triangles[0] = (1, 2, 2)  # without area
    points = 2.0 * rng.normal(size=(40, 3))
    found, barycentrics = closest_points(points, vertices, triangles)
    assert barycentrics.min() >= 0 and np.allclose(barycentrics.sum(1), 1)
    distance = np.linalg.norm(points_at(vertices, triangles, found, barycentrics) - points, axis=1)
    grid = np.array([(i, j, 60 - i - j) for i in range(61) for j in range(61 - i)]) / 60
    sample = np.einsum("gc,tcx->tgx", grid, vertices[triangles]).reshape(-1, 3)
    dense = np.linalg.norm(points[:, None] - sample, axis=2).min(1)
    assert (distance <= dense + 1e-9).all() and (dense - distance < 0.05).all()


def test_the_file_of_a_tie(tmp_path: Path) -> None:
    assert DETECTOR_POINTS == NUM_POINTS
    weights = np.tile([0.5, 0.25, 0.25], (NUM_POINTS, 1))
    text = surface_text(Tie(np.arange(NUM_POINTS), weights, np.ones(NUM_POINTS)), "a note")
    lines = text.splitlines()
    assert all(line.startswith("#") for line in lines[:2]) and "a note" in text
    assert lines[2:5] == [f"{k} 0.500000 0.250000 0.250000" for k in range(3)] and len(lines) == NUM_POINTS + 2
