"""Draws random natural light as nine spherical harmonics coefficients per channel, in the camera frame (y down)."""

from functools import cache

import numpy as np
from numpy.typing import NDArray

# Norms of the real spherical harmonics behind H = [1, x, y, z, xy, xz, yz, x^2-y^2, 3z^2-1], and the Lambert
# convolution (1, 2/3, 1/4) of Ramamoorthi & Hanrahan 2001, already divided by pi: constant radiance 1 shades to 1.
_NORMS = np.array([0.282095] + [0.488603] * 3 + [1.092548] * 3 + [0.546274, 0.315392])
_LAMBERT = np.array([1.0] + [2.0 / 3.0] * 3 + [0.25] * 5)
LUMINANCE = np.array([0.2126, 0.7152, 0.0722])
_WHITE_BALANCE = 0.65  # share of the light's (log) colour that a camera removes
_FLOOR = 0.04  # the darkest shading, as a share of the mean: real rooms have no black side


@cache
def sphere_directions(count: int = 1024) -> NDArray[np.float64]:
    """Computes unit directions [count, 3] spread evenly over the sphere (a Fibonacci lattice)."""
    index = np.arange(count) + 0.5
    z = 1.0 - 2.0 * index / count
    angle = np.pi * (1.0 + 5.0**0.5) * index
    radius = np.sqrt(1.0 - z * z)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), z], axis=-1)


def sh_terms(normals: NDArray[np.floating]) -> NDArray[np.floating]:
    """Evaluates the harmonics H(n) [..., 9] of unit normals [..., 3], ordered as in `sh_basis`."""
    x, y, z = np.moveaxis(normals, -1, 0)
    return np.stack([np.ones_like(x), x, y, z, x * y, x * z, y * z, x * x - y * y, 3 * z * z - 1], axis=-1)


@cache
def _projection() -> NDArray[np.float64]:
    directions = sphere_directions()  # [N, 3]
    solid_angle = 4.0 * np.pi / len(directions)
    return (_NORMS**2 * _LAMBERT * solid_angle)[:, None] * sh_terms(directions).T  # [9, N]


def shade_environment(radiance: NDArray[np.floating]) -> NDArray[np.float64]:
    """Projects environment light to coefficients gamma [9, 3]: H(n) @ gamma shades a white Lambertian surface.

    radiance [N, 3] is the light arriving from each of `sphere_directions(N)` (N = 1024). Shading is non-negative
    everywhere: where three bands ring below zero, the higher bands are scaled down.
    """
    gamma = _projection() @ radiance  # [9, 3]
    rest = sh_terms(sphere_directions()) @ gamma - gamma[:1]  # [N, 3], what the bands above the constant add
    keep = np.min((1.0 - _FLOOR) * gamma[0] / np.maximum(-rest.min(axis=0), 1e-9))
    gamma[1:] *= min(1.0, keep)
    return gamma


def _tint(rng: np.random.Generator, spread: float) -> NDArray[np.float64]:
    """Draws a light colour of luminance 1, mostly between warm and cold, slightly between green and magenta."""
    warm, green = rng.normal(0.0, spread), rng.normal(0.0, 0.25 * spread)
    colour = np.exp(np.array([warm, green, -1.25 * warm]))
    return colour / (colour @ LUMINANCE)


def _area_light(rng: np.random.Generator, directions: NDArray[np.float64], key: bool) -> NDArray[np.float64]:
    """Draws a soft light lobe [N, 3]; key lights are on the camera's side and mostly above, others anywhere."""
    offset = np.array([0.0, -0.55, -0.95]) if key else np.array([0.0, -0.3, -0.3])
    toward = rng.normal(0.0, 0.75, 3) + offset
    toward /= np.linalg.norm(toward)
    sharpness = np.exp(rng.uniform(np.log(2.0), np.log(25.0)))
    lobe = np.exp(sharpness * (directions @ toward - 1.0)) * sharpness / 2.0  # equal power whatever the width
    power = rng.uniform(0.5, 2.4) if key else rng.uniform(0.1, 0.9)
    return power * lobe[:, None] * _tint(rng, 0.10)


def random_light(rng: np.random.Generator, exposure: float = 1.0) -> NDArray[np.float32]:
    """Draws SH light [9, 3] of a random room or sky.

    It is a sky-ground gradient with one to three area lights and a tint. It is white balanced as by a camera, and
    scaled so that surfaces facing the camera, weighted by the cosine, receive a mean luminance of `exposure`.
    """
    directions = sphere_directions()
    up = -directions[:, 1:2]  # the camera's y axis points down
    sky, ground = 0.9 * _tint(rng, 0.08), rng.uniform(0.15, 0.7) * _tint(rng, 0.10)
    horizon = 1.0 / (1.0 + np.exp(-up * rng.uniform(1.5, 6.0)))
    radiance = rng.uniform(0.25, 1.0) * (horizon * sky + (1.0 - horizon) * ground)  # [N, 3]
    for index in range(rng.integers(1, 4)):
        radiance += _area_light(rng, directions, key=index == 0)
    gamma = shade_environment(radiance)
    tint = gamma[0] / (gamma[0] @ LUMINANCE)
    gamma *= tint**-_WHITE_BALANCE
    facing = np.maximum(-directions[:, 2], 0.0)
    mean = facing @ (sh_terms(directions) @ gamma @ LUMINANCE) / facing.sum()
    return (gamma * (exposure / mean)).astype(np.float32)
