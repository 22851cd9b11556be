"""Looks: colours in range, different between people, in the right places."""

from dataclasses import replace

import numpy as np
import pytest

from fmlfast.data.synthetic.people import PeopleSampler, Person
from fmlfast.data.synthetic.skin import FaceAppearance, Look, polyline_distance, smooth_basis
from fmlfast.data.synthetic.tones import random_hair_color, random_skin, skin_color
from fmlfast.template.face_template import FaceTemplate

LUMINANCE = np.array([0.2126, 0.7152, 0.0722])


@pytest.fixture(scope="module")
def template() -> FaceTemplate:
    return FaceTemplate.default(0)


@pytest.fixture(scope="module")
def people() -> list[Person]:
    sampler = PeopleSampler()
    return [sampler.sample(np.random.default_rng([8, seed])) for seed in range(60)]


@pytest.fixture(scope="module")
def looks(template: FaceTemplate, people: list[Person]) -> list[Look]:
    appearance = FaceAppearance(template, texel=1.0)
    return [appearance.sample(np.random.default_rng([9, seed]), person) for seed, person in enumerate(people)]


def mean_color(look: Look, template: FaceTemplate, region: str) -> np.ndarray:
    return look.colors[template.regions[region].numpy() > 0.8].mean(axis=0)


def test_colors_are_reflectances_of_the_template(template: FaceTemplate, looks: list[Look]) -> None:
    for look in looks:
        assert look.colors.shape == (len(template.vertices), 3) and look.colors.dtype == np.float32
        assert 0.0 < look.colors.min() and look.colors.max() < 1.0


def test_skin_spans_the_tones_of_people(template: FaceTemplate, looks: list[Look]) -> None:
    skins = np.array([mean_color(look, template, "face") for look in looks])
    light = skins @ LUMINANCE
    assert light.min() < 0.12 and light.max() > 0.3
    assert (skins[:, 0] > skins[:, 1]).all() and (skins[:, 1] > skins[:, 2]).all()  # red over green over blue
    brightness = [skin_color(tone) @ LUMINANCE for tone in np.linspace(0.0, 1.0, 23)]
    assert (np.diff(brightness) > 0.0).all()


def test_tones_cover_the_range_evenly() -> None:
    """By the log luminance of the skin: as many in each fifth of the range, up to chance (200 draws, 4 deviations)."""
    skins = np.array([random_skin(np.random.default_rng([10, seed]))[1] for seed in range(200)])
    ends = np.log([skin_color(tone) @ LUMINANCE for tone in (0.0, 1.0)])
    place = (np.log(skins @ LUMINANCE) - ends[0]) / (ends[1] - ends[0])
    counts = np.histogram(np.clip(place, 0.0, 1.0 - 1e-9), bins=5, range=(0.0, 1.0))[0]
    assert (np.abs(counts - 40) < 4.0 * (40 * 0.8) ** 0.5).all()
    np.testing.assert_allclose(
        np.diff(np.log([skin_color(tone) @ LUMINANCE for tone in np.linspace(0.0, 1.0, 9)])),
        (ends[1] - ends[0]) / 8,
        atol=0.05,
    )


def test_grey_and_white_hair_has_no_hue() -> None:
    """At an absurd age nearly all hair is grey or white."""
    colors = np.array([random_hair_color(np.random.default_rng([12, seed]), 0.5, age=50.0) for seed in range(100)])
    assert np.quantile(colors.max(axis=1) / colors.min(axis=1), 0.9) < 1.12


def test_the_tone_says_nothing_of_the_shape(template: FaceTemplate, people: list[Person]) -> None:
    """The same random numbers give the same tone to every shape."""
    appearance = FaceAppearance(template, texel=1.0)
    first, second = (replace(person, age=30.0, gender=0.2) for person in people[:2])
    assert np.abs(first.vertices - second.vertices).mean() > 0.5 and (first.ethnicity != second.ethnicity).any()
    one, two = (appearance.sample(np.random.default_rng([9, 5]), person) for person in (first, second))
    np.testing.assert_array_equal(one.colors, two.colors)


def test_features_are_where_the_template_says(template: FaceTemplate, looks: list[Look]) -> None:
    brows, lips = (template.regions[name].numpy() for name in ("brows", "lips"))
    skin = np.flatnonzero((template.regions["face"].numpy() > 0.9) & (brows + lips < 0.1))
    darkening = [look.colors[brows > 0.6].mean() / look.colors[skin].mean() for look in looks]
    assert max(darkening) < 1.1 and np.mean(darkening) < 0.75
    for look in looks:
        pupil, sclera = (look.colors[template.regions[name].numpy() > 0.95] for name in ("pupil", "eyes"))
        assert pupil.mean() < 0.03 < sclera.max()
        assert mean_color(look, template, "mouth_bag").mean() < min(0.1, mean_color(look, template, "teeth").mean())
        assert mean_color(look, template, "lashes").mean() < 0.15
    redder = [np.divide(*mean_color(k, template, "lips")[:2]) > np.divide(*k.skin[:2]) for k in looks]
    assert np.mean(redder) > 0.7


def test_people_differ_and_seeds_repeat(template: FaceTemplate, people: list[Person], looks: list[Look]) -> None:
    appearance = FaceAppearance(template, texel=1.0)
    again = appearance.sample(np.random.default_rng([9, 3]), people[3])
    np.testing.assert_array_equal(again.colors, looks[3].colors)
    other = appearance.sample(np.random.default_rng([9, 1000]), people[3])
    assert np.abs(other.colors - looks[3].colors).mean() > 0.005


def test_colors_are_the_smooth_colors_times_the_detail_around_each_vertex(template: FaceTemplate) -> None:
    appearance = FaceAppearance(template, texel=1.0)
    person = PeopleSampler().sample(np.random.default_rng(1))
    look = appearance.sample(np.random.default_rng(2), person)
    brows = template.regions["brows"].numpy() > 0.7
    assert (look.colors[brows] < 0.9 * look.smooth[brows]).mean() > 0.5
    plain = appearance.detail.at_vertices(np.ones_like(look.detail))
    np.testing.assert_allclose(plain, 1.0, atol=1e-6)
    half = look.detail.copy()
    half[:, half.shape[1] // 2 :] *= 0.5  # the map's right half is the subject's left side
    changed = appearance.detail.at_vertices(half) / appearance.detail.at_vertices(look.detail)
    x = template.vertices[:, 0].numpy()
    np.testing.assert_allclose(changed[x > 8.0], 0.5, atol=1e-4)
    np.testing.assert_allclose(changed[x < -8.0], 1.0, atol=1e-4)


def test_smooth_basis_makes_fields_of_variance_one_and_the_given_length() -> None:
    rng = np.random.default_rng(3)
    start = rng.uniform(-80.0, 80.0, (400, 3))
    direction = rng.normal(size=(400, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    points = np.concatenate([start, start + 9.0 * direction, start + 60.0 * direction])
    fields = (smooth_basis(points, 9.0, 512, seed=0) @ rng.normal(size=(512, 300))).reshape(3, 400, 300)
    near, far = ((fields[0] * fields[k]).mean() for k in (1, 2))
    assert (fields**2).mean() == pytest.approx(1.0, abs=0.1)
    assert near == pytest.approx(np.exp(-0.5), abs=0.1) and abs(far) < 0.1


def test_polyline_distance_by_hand() -> None:
    line = np.array([[0.0, 0.0, 0.0], [4.0, 0.0, 0.0], [4.0, 6.0, 0.0]])
    points = np.array([[1.0, -3.0, 0.0], [6.0, 3.0, 0.0], [-3.0, -4.0, 0.0], [4.0, 9.0, 4.0]], np.float32)
    distance, along = polyline_distance(points, line)
    np.testing.assert_allclose(distance, [3.0, 2.0, 5.0, 5.0], atol=1e-5)
    np.testing.assert_allclose(along, [0.125, 0.75, 0.0, 1.0], atol=1e-6)
