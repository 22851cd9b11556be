"""Simulates a camera: exposure, white balance, blur and sensor noise."""

import numpy as np
from numpy.typing import NDArray

from fmlfast.data.synthetic.random_light import LUMINANCE

Array = NDArray[np.floating]

_MIDDLE = 0.26  # linear value that the metered light gets
_WORLD = 0.20  # mean albedo of what people are photographed in
_BRIGHTEST = 0.55  # and that the brightest parts of the face should not exceed
_PREFERRED = (0.07, 0.0, 0.0)  # log-gain: cameras leave indoor light warm, and people rosy


def camera_gains(
    rng: np.random.Generator,
    frames: Array,  # [M, H, W, 3]
    face: NDArray[np.bool_],  # [M, H, W]
    facing: Array,  # [3]
) -> NDArray[np.float32]:
    """Draws how a camera exposes and balances a clip: gains [M, 3] of its linear frames.

    facing: the light on surfaces towards the camera. The meter reads the whole picture, of which the frames are only a
    part (the rest of a usual albedo under the same light), and the face, weighted at random: a dark face comes out
    darker than a light one in the same room, but by less than its albedo. White balance removes a part of the light's
    colour, and takes a part of the picture's for it.
    """
    inner = frames.mean(axis=(0, 1, 2))
    room = _WORLD * facing * np.exp(rng.normal(0.0, 0.18))
    whole = room + rng.uniform(0.1, 0.5) * (inner - room)
    some = frames[:, ::2, ::2]  # enough of the face, and faster
    chosen = face[:, ::2, ::2]
    shown = (some[chosen] if chosen.any() else some.reshape(-1, 3)) @ LUMINANCE
    priority = rng.uniform(0.1, 0.6)
    metered = (whole @ LUMINANCE) ** (1.0 - priority) * shown.mean() ** priority
    exposure = _MIDDLE * np.exp(rng.normal(0.0, 0.14)) / metered
    allowed = _BRIGHTEST * np.exp(abs(rng.normal(0.0, 0.25))) / np.quantile(shown, 0.95)
    exposure = min(exposure, allowed)
    light = facing / (facing @ LUMINANCE)
    cast = whole / (whole @ LUMINANCE) / light
    error = rng.normal(_PREFERRED, 0.05)
    balance = light ** -rng.uniform(0.3, 0.9) * cast ** -rng.uniform(0.0, 0.2) * np.exp(error)
    drift = np.exp(rng.normal(0.0, 0.02, (len(frames), 1)))
    return (exposure * drift * balance / (light * balance @ LUMINANCE)).astype(np.float32)


def blur(image: Array, sigma: float) -> Array:
    """Applies a Gaussian blur of `sigma` pixels to images [..., H, W, 3]."""
    reach = max(1, int(np.ceil(2.5 * sigma)))
    offsets = np.arange(-reach, reach + 1)
    weights = np.exp(-0.5 * (offsets / sigma) ** 2)
    weights /= weights.sum()
    for axis in (-3, -2):
        padding = [(0, 0)] * image.ndim
        padding[axis] = (reach, reach)
        padded = np.pad(image, padding, mode="edge")
        length = image.shape[axis]
        shifted = [w * np.take(padded, range(k, k + length), axis=axis) for k, w in enumerate(weights)]
        image = np.sum(shifted, axis=0)
    return image


def sensor_noise(rng: np.random.Generator, image: Array, gain: float) -> Array:
    """Adds sensor noise to linear images: shot noise, whose variance grows with light, and read noise.

    gain: 0 for none, 1 for a phone at night.
    """
    spread = np.sqrt(gain * (3.5e-4 * np.clip(image, 0.0, None) + 6.0e-6))
    return image + spread * rng.standard_normal(image.shape, dtype=np.float32)
