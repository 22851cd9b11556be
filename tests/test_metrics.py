"""Metrics on cases with known answers."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from fmlfast import metrics


def random_rotations(n: int, seed: int) -> Tensor:
    q, _ = torch.linalg.qr(torch.randn(n, 3, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))
    return q * torch.linalg.det(q)[:, None, None].sign()  # determinant +1


def axis_rotation(axis: int, degrees: float) -> Tensor:
    generator = torch.zeros(3, 3, dtype=torch.float64)
    i, j = (axis + 1) % 3, (axis + 2) % 3
    generator[j, i], generator[i, j] = 1.0, -1.0
    return torch.linalg.matrix_exp(math.radians(degrees) * generator)[None]


@pytest.fixture
def points() -> Tensor:
    return torch.randn(3, 57, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64) * 40


@pytest.fixture
def weights() -> Tensor:
    return torch.rand(57, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def test_identical_shapes_have_no_error(points: Tensor, weights: Tensor) -> None:
    assert metrics.vertex_error(points, points, weights).max() < 1e-12
    normals = torch.nn.functional.normalize(points, dim=-1)
    assert metrics.normal_error(normals, normals, torch.eye(3).expand(3, 3, 3), weights).max() < 1e-6


@pytest.mark.parametrize("seed", [0, 1])
def test_a_known_similarity_is_recovered(points: Tensor, weights: Tensor, seed: int) -> None:
    rotation = random_rotations(3, seed)
    scale = torch.tensor([0.3, 1.0, 7.0], dtype=torch.float64)
    shift = torch.tensor([[3.0, -200.0, 5.0], [0.0, 0.0, 0.0], [1e3, 1.0, -1.0]], dtype=torch.float64)
    target = scale[:, None, None] * points @ rotation.mT + shift[:, None]
    found = metrics.similarity_align(points, target, weights)
    torch.testing.assert_close(found.rotation, rotation, atol=1e-9, rtol=0)
    torch.testing.assert_close(found.scale, scale, atol=1e-9, rtol=0)
    torch.testing.assert_close(found.translation, shift, atol=1e-8, rtol=0)
    assert metrics.vertex_error(points, target, weights).max() < 1e-9
    assert metrics.vertex_error(points.float(), target.float(), weights.float()).max() < 1e-3


def test_the_alignment_is_the_best_there_is(points: Tensor, weights: Tensor) -> None:
    noise = torch.randn(points.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    target = points @ random_rotations(3, 3).mT + 5 * noise

    def cost(alignment: metrics.Similarity) -> Tensor:
        return (weights[:, None] * (alignment.apply(points) - target).square()).sum((1, 2))

    best = metrics.similarity_align(points, target, weights)
    for change in (axis_rotation(0, 0.3), axis_rotation(1, -0.3), axis_rotation(2, 0.3)):
        assert (cost(metrics.Similarity(best.scale, change @ best.rotation, best.translation)) > cost(best)).all()
    for factor in (0.99, 1.01):
        assert (cost(metrics.Similarity(factor * best.scale, best.rotation, best.translation)) > cost(best)).all()
    assert (cost(metrics.Similarity(best.scale, best.rotation, best.translation + 0.1)) > cost(best)).all()


def test_a_mirror_image_is_not_reached(points: Tensor, weights: Tensor) -> None:
    mirrored = points * torch.tensor([-1.0, 1.0, 1.0], dtype=torch.float64)
    found = metrics.similarity_align(points, mirrored, weights)
    torch.testing.assert_close(torch.linalg.det(found.rotation), torch.ones(3, dtype=torch.float64))
    assert metrics.vertex_error(points, mirrored, weights).min() > 5


@pytest.mark.parametrize("kind", ["plane", "line", "point"])
def test_flat_sources_still_align(points: Tensor, weights: Tensor, kind: str) -> None:
    kept = {"plane": 2, "line": 1, "point": 0}[kind]
    flat = points.clone()
    flat[..., kept:] = 12.5
    target = 2.0 * flat @ random_rotations(3, 9).mT + 3.0
    found = metrics.similarity_align(flat, target, weights)
    torch.testing.assert_close(torch.linalg.det(found.rotation), torch.ones(3, dtype=torch.float64))
    assert metrics.vertex_error(flat, target, weights).max() < 1e-6
    if kind != "point":
        torch.testing.assert_close(found.scale, torch.full((3,), 2.0, dtype=torch.float64))


def test_what_lies_outside_the_region_does_not_count(points: Tensor, weights: Tensor) -> None:
    weights = torch.where(torch.arange(57) < 20, 0.0, weights)
    spoiled = points.clone()
    spoiled[:, :20] += 1e4
    assert metrics.vertex_error(spoiled, points, weights).max() < 1e-9
    distances, _ = metrics.vertex_distances(spoiled, points, weights)
    assert distances.shape == (3, 57) and distances[:, :20].min() > 1e3


def test_a_known_offset_is_measured() -> None:
    square = torch.tensor([[1.0, 1], [1, -1], [-1, -1], [-1, 1]])
    box = torch.cat([torch.cat([square, torch.full((4, 1), z)], 1) for z in (1.0, -1.0)])[None]
    alternate = torch.tensor([1.0, -1, 1, -1, -1, 1, -1, 1])
    shifted = box.clone()
    shifted[..., 2] += 0.5 * alternate  # orthogonal to translation, rotation and scale
    torch.testing.assert_close(metrics.vertex_error(box, shifted, torch.ones(8)), torch.tensor([0.5]).double())
    distances, alignment = metrics.vertex_distances(box, shifted, torch.ones(8))
    torch.testing.assert_close(alignment.scale, torch.ones(1).double())
    torch.testing.assert_close(distances, torch.full((1, 8), 0.5).double())


def test_normals_are_turned_by_the_alignment(weights: Tensor) -> None:
    generator = torch.Generator().manual_seed(2)
    normals = torch.nn.functional.normalize(torch.randn(1, 57, 3, generator=generator, dtype=torch.float64), dim=-1)
    turn = random_rotations(1, 6)
    assert metrics.normal_error(normals, normals @ turn.mT, turn, weights).max() < 1e-6
    up = torch.tensor([0.0, 0.0, 1.0]).expand(1, 57, 3)
    tilted = up.double() @ axis_rotation(0, 30.0).mT
    half = torch.where((torch.arange(57) < 20)[None, :, None], tilted, up.double())
    expected = 30.0 * weights[:20].sum() / weights.sum()
    torch.testing.assert_close(metrics.normal_error(half, up, torch.eye(3)[None], weights)[0], expected)


def test_landmark_error_is_a_share_of_the_eye_distance() -> None:
    target = torch.rand(2, 68, 2, generator=torch.Generator().manual_seed(0)) * 100
    target[:, 36], target[:, 45] = torch.tensor([30.0, 40.0]), torch.tensor([90.0, 120.0])  # 100 px apart
    shifted = target + torch.tensor([3.0, 4.0])
    torch.testing.assert_close(metrics.landmark_nme(shifted, target), torch.full((2,), 5.0).double())
    corners = target.clone()
    corners[:, [60, 64]] += 50.0
    assert metrics.landmark_nme(corners, target).max() == 0
    jaw = target.clone()
    jaw[0, 3] += torch.tensor([0.0, 66.0])
    torch.testing.assert_close(metrics.landmark_nme(jaw, target), torch.tensor([1.0, 0.0]).double())
    unsure = torch.ones(2, 68)
    unsure[0, 3] = 0.0
    assert metrics.landmark_nme(jaw, target, unsure).max() == 0


def test_photometric_error_counts_masked_pixels_only() -> None:
    target = torch.rand(2, 5, 7, 3, generator=torch.Generator().manual_seed(1)) * 0.5
    mask = torch.zeros(2, 5, 7, dtype=torch.bool)
    mask[0, 1:3, 2:6] = True
    image = torch.where(mask[..., None], target + torch.tensor([0.1, -0.2, 0.0]), 1.0)
    error = metrics.photometric_error(image, target, mask)
    torch.testing.assert_close(error[0], torch.tensor(25.5).double(), atol=1e-4, rtol=0)
    assert error[1] == 255  # nothing was rendered


def test_rotation_error_ignores_the_models_own_frame() -> None:
    true, gauge = random_rotations(1, 1), random_rotations(1, 2)
    assert metrics.rotation_error(true @ gauge, true, gauge).max() < 1e-6
    turned = true @ gauge @ axis_rotation(1, 7.25)
    torch.testing.assert_close(metrics.rotation_error(turned, true, gauge), torch.tensor([7.25]).double())
    half_turn = true @ gauge @ axis_rotation(2, 180.0)
    torch.testing.assert_close(metrics.rotation_error(half_turn, true, gauge), torch.tensor([180.0]).double())


def fake_template(vertices: int = 90, nodes: int = 9, seed: int = 0) -> Any:
    generator = torch.Generator().manual_seed(seed)
    skin = torch.rand(vertices, 3, generator=generator)
    indices = torch.stack([torch.randperm(nodes, generator=generator)[:3] for _ in range(vertices)])
    return SimpleNamespace(
        vertices=torch.randn(vertices, 3, generator=generator) * 50,
        nodes=torch.zeros(nodes, 3),
        skin_indices=indices.int(),
        skin_weights=skin / skin.sum(1, keepdim=True),
    )


def skinned(template: Any, moves: Tensor) -> Tensor:
    """Vertices [N,V,3] for node displacements [N,G,3]."""
    gathered = moves[:, template.skin_indices.long()]  # [N,V,K,3]
    return template.vertices.double() + (template.skin_weights.double()[..., None] * gathered).sum(2)


def test_shapes_of_the_graph_have_no_floor_and_others_do() -> None:
    template = fake_template()
    generator = torch.Generator().manual_seed(8)
    moves = torch.randn(2, 9, 3, generator=generator, dtype=torch.float64)
    shapes = 1.2 * skinned(template, moves) @ random_rotations(2, 4).mT + 30.0
    weights = torch.ones(90)
    assert metrics.skinning_floor(template, shapes, weights, ridge=1e-9).max() < 0.1  # 0: but for the prior alignment
    rough = shapes + torch.randn(shapes.shape, generator=generator)
    assert metrics.skinning_floor(template, rough, weights).min() > 0.5


def test_the_complement_floor_is_the_constrained_least_squares_fit() -> None:
    template = fake_template(seed=3)
    generator = torch.Generator().manual_seed(1)
    q, _ = torch.linalg.qr(torch.randn(27, 5, generator=generator, dtype=torch.float64))
    moves = torch.randn(2, 27, generator=generator, dtype=torch.float64)
    shapes = skinned(template, moves.view(2, 9, 3))
    weights = torch.rand(90, generator=generator)
    free = metrics.skinning_floor(template, shapes, weights)
    held = metrics.skinning_floor(template, shapes, weights, q)
    assert (held > 2 * free).all()
    inside = moves - moves @ q @ q.mT
    allowed = skinned(template, inside.view(2, 9, 3))
    # The brute-force fit over an explicit basis of the complement gives the same error.
    basis = torch.linalg.qr(torch.cat([q, torch.randn(27, 22, generator=generator).double()], 1))[0][:, 5:]
    unit = (skinned(template, basis.mT.reshape(-1, 9, 3)) - template.vertices.double()).flatten(1).mT  # [3V,22]
    w = (weights / weights.sum()).double().repeat_interleave(3)[:, None]
    aligned = metrics.similarity_align(shapes, template.vertices.expand_as(shapes), weights).apply(shapes)
    goal = (aligned - template.vertices).flatten(1).mT
    system = unit.mT @ (w * unit) + 1e-4 / 9 * torch.eye(22, dtype=torch.float64)
    fit = (unit @ torch.linalg.solve(system, unit.mT @ (w * goal))).mT.view_as(shapes) + template.vertices
    torch.testing.assert_close(held, metrics.vertex_error(fit, shapes, weights))
    assert (metrics.skinning_floor(template, allowed, weights, q) < 0.5 * held).all()


@pytest.mark.parametrize(
    ("source", "target", "weights", "message"),
    [
        (torch.zeros(1, 4, 3), torch.zeros(1, 5, 3), torch.ones(4), "need two"),
        (torch.zeros(4, 3), torch.zeros(4, 3), torch.ones(4), "need two"),
        (torch.full((1, 4, 3), torch.nan), torch.zeros(1, 4, 3), torch.ones(4), "finite"),
        (torch.zeros(1, 4, 3), torch.zeros(1, 4, 3), torch.zeros(4), "empty"),
        (torch.zeros(1, 4, 3), torch.zeros(1, 4, 3), -torch.ones(4), "at least 0"),
        (torch.zeros(1, 4, 3), torch.zeros(1, 4, 3), torch.ones(5), "broadcast"),
    ],
)
def test_bad_input_is_refused(source: Tensor, target: Tensor, weights: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        metrics.vertex_error(source, target, weights)


def test_bad_landmarks_and_images_are_refused() -> None:
    with pytest.raises(ValueError, match="68"):
        metrics.landmark_nme(torch.zeros(1, 66, 2), torch.zeros(1, 66, 2))
    with pytest.raises(ValueError, match="coincide"):
        metrics.landmark_nme(torch.zeros(1, 68, 2), torch.zeros(1, 68, 2))
    with pytest.raises(ValueError, match="agree"):
        metrics.photometric_error(torch.zeros(1, 4, 4, 3), torch.zeros(1, 4, 4, 3), torch.zeros(1, 4, 5).bool())


def test_the_cumulative_curve_counts_what_is_at_most_a_limit() -> None:
    errors = torch.tensor([3.0, 1.0, 2.0, 2.0])
    shares = metrics.cumulative_shares(errors, torch.tensor([0.5, 1.0, 1.9, 2.0, 9.0]))
    assert shares.tolist() == [0.0, 0.25, 0.25, 0.75, 1.0]
    with pytest.raises(ValueError, match="at least one error"):
        metrics.cumulative_shares(torch.zeros(0), torch.ones(1))
    with pytest.raises(ValueError, match="numbers only"):
        metrics.cumulative_shares(torch.tensor([math.nan]), torch.ones(1))


def test_tone_is_the_logarithm_of_the_mean_colour_and_pattern_what_a_gain_leaves(weights: Tensor) -> None:
    skin = torch.rand(2, 57, 3, generator=torch.Generator().manual_seed(6), dtype=torch.float64) + 0.1
    gain = torch.tensor([1.5, 0.8, 1.2], dtype=torch.float64)
    expected = gain.log().square().mean().sqrt().expand(2)
    torch.testing.assert_close(metrics.tone_error(skin * gain, skin, weights), expected)
    assert metrics.pattern_error(skin * gain, skin, weights).max() < 1e-12
    spot = skin.clone()
    spot[:, 3] += 0.5
    error = metrics.pattern_error(spot, skin, weights)
    share = weights[3] / weights.sum()
    assert (error < 0.5 * share.sqrt()).all() and (error > 0.3 * share.sqrt()).all()
