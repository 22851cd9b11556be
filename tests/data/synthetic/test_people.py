"""The sampler of synthetic people."""

import numpy as np
import pytest

from fmlfast.data.synthetic.people import PeopleSampler, Person, align_rigid
from fmlfast.template.face_template import FaceTemplate


@pytest.fixture(scope="module")
def sampler() -> PeopleSampler:
    return PeopleSampler()


@pytest.fixture(scope="module")
def people(sampler: PeopleSampler) -> list[Person]:
    rng = np.random.default_rng(41)
    return [sampler.sample(rng) for _ in range(150)]


def face_deviation(vertices: np.ndarray) -> float:
    template = FaceTemplate.default(0)
    face = template.regions["face"].numpy() > 0.5
    return float(np.linalg.norm(vertices - template.vertices.numpy(), axis=1)[face].mean())


def test_equal_seeds_give_equal_people(sampler: PeopleSampler) -> None:
    first, second, other = (sampler.sample(np.random.default_rng(seed)) for seed in (7, 7, 8))
    assert np.array_equal(first.vertices, second.vertices) and np.array_equal(first.details, second.details)
    assert (first.age, first.gender, first.weight) == (second.age, second.gender, second.weight)
    assert np.abs(first.vertices - other.vertices).max() > 1.0


def test_people_differ_and_their_mean_is_the_template(people: list[Person]) -> None:
    shapes = np.stack([person.vertices for person in people])
    assert shapes.dtype == np.float32 and np.isfinite(shapes).all()
    spread = np.array([face_deviation(shape) for shape in shapes])
    assert 2.0 < spread.mean() < 6.0 and spread.max() < 14.0, "mm"
    assert face_deviation(shapes.mean(0)) < 0.15 * spread.mean()


def test_attributes(people: list[Person], sampler: PeopleSampler) -> None:
    assert len(sampler.detail_names) == 206 == len(people[0].details)
    for person in people:
        assert 20.0 <= person.age <= 75.0
        assert min(person.gender, person.muscle, person.weight) >= 0.0
        assert max(person.gender, person.muscle, person.weight) <= 1.0
        assert person.ethnicity.sum() == pytest.approx(1.0) and np.abs(person.details).max() <= 1.0
    ages = [person.age for person in people]
    assert min(ages) < 27.0 and max(ages) > 60.0
    left = sampler.detail_names.index("l-cheek-volume-incr")
    right = sampler.detail_names.index("r-cheek-volume-incr")
    sides = np.array([[person.details[left], person.details[right]] for person in people])
    assert np.corrcoef(sides.T)[0, 1] > 0.9 and np.abs(sides[:, 0] - sides[:, 1]).min() > 0.0


def near_landmarks(ids: list[int]) -> np.ndarray:
    """A vertex of the triangle that each landmark lies on."""
    template = FaceTemplate.default(0)
    return template.triangles[template.landmark_triangles[ids], 0].numpy()


def test_macro_attributes_shape_the_face(sampler: PeopleSampler) -> None:
    """Of two otherwise equal people the heavier one has the wider jaw; ages differ; genders blend."""
    jaw = near_landmarks([4, 12])
    ethnicity, details = np.full(3, 1 / 3), np.zeros(206)

    def face(gender: float = 0.5, age: float = 30.0, weight: float = 0.5) -> np.ndarray:
        return sampler.shape(ethnicity, gender, age, 0.3, weight, details)

    def width(shape: np.ndarray) -> float:
        return float(np.diff(shape[jaw, 0])[0])

    assert width(face(weight=0.98)) > width(face(weight=0.02)) + 0.5, "mm"
    assert np.abs(face(age=75.0) - face(age=30.0)).max() > 2.0
    between = 0.5 * (face(gender=0.0) + face(gender=1.0))
    assert np.abs(face(gender=0.5) - between).max() < 1.0 < np.abs(face(gender=0.0) - face(gender=1.0)).max()


def test_a_detail_moves_its_own_part_both_ways(sampler: PeopleSampler) -> None:
    ethnicity = np.full(3, 1 / 3)
    chin = near_landmarks([8])
    k = sampler.detail_names.index("chin-height-incr")
    heights = []
    for amount in (-0.8, 0.0, 0.8):
        details = np.zeros(206)
        details[k] = amount
        heights.append(sampler.shape(ethnicity, 0.5, 30.0, 0.5, 0.5, details)[chin, 1].item())
    assert heights[0] > heights[1] + 1.0 and heights[1] > heights[2] + 1.0, "a higher chin reaches further down"


def test_people_lie_on_the_template(people: list[Person], sampler: PeopleSampler) -> None:
    for person in people[:5]:
        again = align_rigid(person.vertices, sampler.reference, sampler.align_weights)
        assert np.abs(again - person.vertices).max() < 1e-2


def test_rigid_alignment_recovers_a_motion_and_never_reflects() -> None:
    rng = np.random.default_rng(2)
    points, weights = rng.normal(size=(40, 3)), rng.uniform(0.1, 1.0, 40)
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    turn *= np.sign(np.linalg.det(turn))
    assert np.allclose(align_rigid(points @ turn.T + [3.0, -2.0, 9.0], points, weights), points)
    mirrored = align_rigid(points * [-1.0, 1.0, 1.0], points, weights)
    assert not np.allclose(mirrored, points, atol=0.1)
    distances = np.linalg.norm(points[:1] - points, axis=1)
    assert np.allclose(np.linalg.norm(mirrored[:1] - mirrored, axis=1), distances), "the size is kept"
