"""Random light: projection of environments onto spherical harmonics, and what comes out of the generator."""

import numpy as np
import pytest
import torch

from fmlfast.data.synthetic.random_light import (
    LUMINANCE,
    Light,
    lamp_cosine,
    random_light,
    sh_terms,
    shade_environment,
    sphere_directions,
)
from fmlfast.renderer import sh_basis


def test_terms_are_those_of_the_renderer() -> None:
    directions = sphere_directions(257)
    np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1.0, atol=1e-12)
    np.testing.assert_allclose(sh_terms(directions), sh_basis(torch.from_numpy(directions)).numpy(), atol=1e-12)


def test_an_even_sky_shades_everything_the_same() -> None:
    gamma = shade_environment(np.full((1024, 3), 0.7))
    np.testing.assert_allclose(sh_terms(sphere_directions(99)) @ gamma, 0.7, atol=2e-3)


def test_shading_is_the_lambert_integral_of_a_smooth_environment() -> None:
    """Light of bands 0 to 2 is projected without loss: compare with the integral over the sphere, done by hand."""
    rng = np.random.default_rng(5)
    directions, normals = sphere_directions(), sphere_directions(31)
    radiance = 3.0 + sh_terms(directions) @ rng.normal(0.0, 0.3, (9, 3))  # positive
    cosine = np.maximum(normals @ directions.T, 0.0)  # [31, N]
    expected = cosine @ radiance * (4.0 / len(directions))
    np.testing.assert_allclose(sh_terms(normals) @ shade_environment(radiance), expected, rtol=2e-2)


def test_a_lamp_lights_the_side_it_is_on() -> None:
    directions = sphere_directions()
    toward = np.array([0.6, -0.48, -0.64])
    radiance = np.exp(20.0 * (directions @ toward - 1.0))[:, None] * np.ones(3)
    shading = sh_terms(directions) @ shade_environment(radiance)
    assert directions[shading[:, 1].argmax()] @ toward > 0.99
    assert shading.min() > 0.0


def test_random_light_is_never_negative_and_mostly_from_above() -> None:
    directions = sphere_directions(1500)
    lights = [random_light(np.random.default_rng([1, seed])) for seed in range(200)]
    for light in lights:
        assert light.sh.shape == (9, 3)
        assert (sh_terms(directions) @ light.ambient).min() > 0.0 and (sh_terms(directions) @ light.sh).min() > 0.0
        assert np.linalg.norm(light.toward) == pytest.approx(1.0)
    above = np.mean([light.sh[2] @ LUMINANCE < 0.0 for light in lights])  # y points down: brighter from above
    assert 0.75 < above < 1.0
    assert np.std([light.sh[1] @ LUMINANCE / (light.sh[0] @ LUMINANCE) for light in lights]) > 0.1  # from either side
    lamps = np.mean([light.key.any() for light in lights])
    assert 0.7 < lamps < 0.95


def test_the_whole_light_is_the_environment_plus_the_lamp() -> None:
    """Nine terms hold a lamp's clamped cosine up to some percent (Ramamoorthi and Hanrahan 2001)."""
    light = Light(
        shade_environment(np.full((1024, 3), 0.7)), np.array([1.0, 0.8, 0.5]), np.array([0.0, -0.6, -0.8]), 0.1
    )
    normals = sphere_directions(500)
    expected = 0.7 + lamp_cosine(normals @ light.toward, light.width)[:, None] * light.key
    np.testing.assert_allclose(sh_terms(normals) @ light.sh, expected, atol=0.09)
    facing = np.maximum(-normals[:, 2:], 0.0)
    np.testing.assert_allclose(light.facing, (facing * expected).sum(axis=0) / facing.sum(), rtol=0.03)


def test_lamp_cosine_is_the_clamped_cosine_averaged_over_its_width() -> None:
    around = np.linspace(-0.3, 0.3, 20001)
    for cosine in (-0.5, -0.2, 0.0, 0.25, 0.9):
        average = np.maximum(cosine + around, 0.0).mean()
        assert lamp_cosine(np.array(cosine), 0.3) == pytest.approx(average, abs=1e-4)


def test_random_light_repeats_by_seed() -> None:
    first, again, other = (random_light(np.random.default_rng(seed)).sh for seed in (4, 4, 5))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.01
