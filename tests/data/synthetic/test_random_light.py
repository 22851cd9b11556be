"""Random light: projection of environments onto spherical harmonics, and what comes out of the generator."""

import numpy as np
import pytest
import torch

from fmlfast.data.synthetic.random_light import LUMINANCE, random_light, sh_terms, shade_environment, sphere_directions
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


@pytest.mark.parametrize("exposure", [0.3, 1.7])
def test_random_light_is_never_negative_and_exposed_as_asked(exposure: float) -> None:
    directions = sphere_directions(1500)
    facing = np.maximum(-directions[:, 2], 0.0)
    lights = [random_light(np.random.default_rng([1, seed]), exposure) for seed in range(200)]
    for gamma in lights:
        assert gamma.shape == (9, 3) and gamma.dtype == np.float32
        shading = sh_terms(directions) @ gamma
        assert shading.min() > 0.0
        assert facing @ (shading @ LUMINANCE) / facing.sum() == pytest.approx(exposure, rel=0.02)
    above = np.mean([gamma[2] @ LUMINANCE < 0.0 for gamma in lights])  # y points down: brighter from above
    assert 0.75 < above < 1.0
    assert np.std([gamma[1] @ LUMINANCE for gamma in lights]) > 0.1 * exposure  # and from either side


def test_random_light_repeats_by_seed() -> None:
    first, again, other = (random_light(np.random.default_rng(seed)) for seed in (4, 4, 5))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.01
