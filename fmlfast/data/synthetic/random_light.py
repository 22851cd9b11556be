"""Draws random natural light: an environment as nine spherical harmonics a channel, and a lamp.

Directions are in the camera frame, y down.
"""

from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
from numpy.typing import NDArray

from fmlfast.template.ambient_occlusion import sphere_directions

# Norms of the real spherical harmonics behind H = [1, x, y, z, xy, xz, yz, x^2-y^2, 3z^2-1], and the Lambert
# convolution (1, 2/3, 1/4) of Ramamoorthi & Hanrahan 2001, already divided by pi: constant radiance 1 shades to 1.
_NORMS = np.array([0.282095] + [0.488603] * 3 + [1.092548] * 3 + [0.546274, 0.315392])
_LAMBERT = np.array([1.0] + [2.0 / 3.0] * 3 + [0.25] * 5)
LUMINANCE = np.array([0.2126, 0.7152, 0.0722])
_FLOOR = 0.04  # the darkest shading, as a share of the mean: real rooms have no black side


def sh_terms(normals: NDArray[np.floating]) -> NDArray[np.floating]:
    """Evaluates the harmonics H(n) [..., 9] of unit normals [..., 3], ordered as in `sh_basis`."""
    x, y, z = np.moveaxis(normals, -1, 0)
    return np.stack([np.ones_like(x), x, y, z, x * y, x * z, y * z, x * x - y * y, 3 * z * z - 1], axis=-1)


@cache
def _projection() -> NDArray[np.float64]:
    directions = sphere_directions()  # [N, 3]
    solid_angle = 4.0 * np.pi / len(directions)
    return (_NORMS**2 * _LAMBERT * solid_angle)[:, None] * sh_terms(directions).T  # [9, N]


def _without_ringing(gamma: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scales the upper bands of gamma [9, 3] down until it shades no direction darker than a share of the mean."""
    rest = sh_terms(sphere_directions()) @ gamma - gamma[:1]  # [N, 3], what the bands above the constant add
    keep = np.min((1.0 - _FLOOR) * gamma[0] / np.maximum(-rest.min(axis=0), 1e-9))
    return np.concatenate([gamma[:1], min(1.0, keep) * gamma[1:]])


def shade_environment(radiance: NDArray[np.floating]) -> NDArray[np.float64]:
    """Projects environment light to coefficients gamma [9, 3]: H(n) @ gamma shades a white Lambertian surface.

    radiance [N, 3] is the light arriving from each of `sphere_directions(N)` (N = 1024). Shading is non-negative
    everywhere: where three bands ring below zero, the higher bands are scaled down.
    """
    return _without_ringing(_projection() @ radiance)


@dataclass(frozen=True)
class Light:
    """The light of a scene: what comes from all around, and one lamp (the key) that casts shadows."""

    ambient: NDArray[np.float64]  # [9, 3]: H(n) @ ambient shades a white Lambertian surface
    key: NDArray[np.float64]  # [3] what a white surface facing the lamp gets from it; 0 for no lamp
    toward: NDArray[np.float64]  # [3] unit direction to the lamp
    width: float  # of the lamp: half the range of cosines over which its light begins

    @cached_property
    def sh(self) -> NDArray[np.float64]:
        """The whole light without shadows, as far as nine terms go: least squares over the sphere, [9, 3].

        H(n) @ sh is what a white convex surface would show. Where the fit rings below zero, its upper bands are scaled
        down.
        """
        directions = sphere_directions()
        lit = lamp_cosine(directions @ self.toward, self.width)[:, None] * self.key
        solid_angle = 4.0 * np.pi / len(directions)
        return _without_ringing(self.ambient + (_NORMS**2 * solid_angle)[:, None] * (sh_terms(directions).T @ lit))

    @cached_property
    def facing(self) -> NDArray[np.float64]:
        """The mean light [3] on surfaces towards the camera, weighted by the cosine."""
        directions = sphere_directions()
        weights = np.maximum(-directions[:, 2], 0.0)
        return weights @ (sh_terms(directions) @ self.sh) / weights.sum()


def lamp_cosine(cosine: NDArray[np.floating], width: float) -> NDArray[np.floating]:
    """Smooths the clamped cosine of Lambert's law over +-width: max(0, c) averaged over a box around c."""
    rising = np.clip(cosine + width, 0.0, 2.0 * width) ** 2 / (4.0 * width)
    return np.where(cosine > width, cosine, rising)


def _tint(rng: np.random.Generator, spread: float) -> NDArray[np.float64]:
    """Draws a light colour of luminance 1, mostly between warm and cold, slightly between green and magenta."""
    warm, green = rng.normal(0.0, spread), rng.normal(0.0, 0.25 * spread)
    colour = np.exp(np.array([warm, green, -1.25 * warm]))
    return colour / (colour @ LUMINANCE)


def _toward(rng: np.random.Generator, offset: tuple[float, float, float]) -> NDArray[np.float64]:
    toward = rng.normal(0.0, 0.75, 3) + offset
    return toward / np.linalg.norm(toward)


def _area_light(rng: np.random.Generator, directions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Draws a soft light lobe [N, 3] anywhere, such as a window, a bright wall or a second lamp."""
    toward = _toward(rng, (0.0, -0.3, -0.4))
    sharpness = np.exp(rng.uniform(np.log(2.0), np.log(25.0)))
    lobe = np.exp(sharpness * (directions @ toward - 1.0)) * sharpness / 2.0  # equal power whatever the width
    return rng.uniform(0.1, 1.2) * lobe[:, None] * _tint(rng, 0.10)


def random_light(rng: np.random.Generator) -> Light:
    """Draws the light of a random room or sky, in arbitrary units: the camera's exposure and white balance come later.

    It is a sky-ground gradient with none to two area lights and a tint, and mostly a lamp or the sun on the camera's
    side, mostly above.
    """
    directions = sphere_directions()
    up = -directions[:, 1:2]  # the camera's y axis points down
    sky, ground = 0.9 * _tint(rng, 0.08), rng.uniform(0.15, 0.7) * _tint(rng, 0.10)
    horizon = 1.0 / (1.0 + np.exp(-up * rng.uniform(1.5, 6.0)))
    radiance = rng.uniform(0.2, 0.8) * (horizon * sky + (1.0 - horizon) * ground)  # [N, 3]
    for _ in range(rng.integers(0, 3)):
        radiance = radiance + _area_light(rng, directions)
    ambient = shade_environment(radiance * _tint(rng, 0.12))
    power = np.exp(rng.uniform(np.log(0.25), np.log(3.0))) if rng.random() < 0.85 else 0.0
    key = power * _tint(rng, 0.16)
    toward = _toward(rng, (0.0, -0.55, -0.95))
    return Light(ambient, key, toward, width=float(np.exp(rng.uniform(np.log(0.06), np.log(0.5)))))
