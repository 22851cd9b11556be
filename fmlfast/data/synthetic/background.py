"""Generates random backgrounds."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fmlfast.template.regions import smoothstep

Array = NDArray[np.floating]


def _resize(image: Array, size: int) -> Array:
    """Scales [h, w, C] to [size, size, C]."""
    planes = [Image.fromarray(plane.astype(np.float32)) for plane in np.moveaxis(image, 2, 0)]
    return np.stack([np.asarray(plane.resize((size, size), Image.Resampling.BICUBIC)) for plane in planes], axis=-1)


def _palette(rng: np.random.Generator, count: int) -> Array:
    """Draws linear colours [count, 3] of similar hue and various tones, with a few accents."""
    base = np.exp(rng.normal(np.log(0.22), 0.55)) * np.exp(rng.normal(0.0, 0.13, 3))
    colors = base * np.exp(rng.normal(0.0, 0.55, (count, 1)) + rng.normal(0.0, 0.10, (count, 3)))
    accent = rng.random(count) < 0.12
    colors[accent] *= np.exp(rng.normal(0.0, 0.6, (int(accent.sum()), 3)))
    return colors


def _rectangles(rng: np.random.Generator, size: int) -> Array:
    """Draws upright boxes over a plain wall, such as shelves, windows and door frames."""
    image = np.broadcast_to(_palette(rng, 1), (size, size, 3)).copy()
    for color in _palette(rng, int(rng.integers(3, 16))):
        tall = rng.random() < 0.6
        width, height = rng.uniform(0.02, 0.35), rng.uniform(0.25, 1.0)
        width, height = (width, height) if tall else (height, width)
        x, y = rng.uniform(-0.2, 1.0, 2)
        x0, x1, y0, y1 = (int(np.clip(v, 0.0, 1.0) * size) for v in (x, x + width, y, y + height))
        image[y0:y1, x0:x1] = color
    return image


def _discs(rng: np.random.Generator, size: int) -> Array:
    """Draws discs, such as lights and leaves out of focus."""
    y, x = np.mgrid[0:size, 0:size] / size
    image = np.exp(_resize(np.log(_palette(rng, 9)).reshape(3, 3, 3), size))
    for color in _palette(rng, int(rng.integers(6, 22))) * rng.uniform(0.8, 3.0):
        radius = rng.uniform(0.02, 0.12)
        disc = np.hypot(x - rng.random(), y - rng.random()) < radius
        image[disc] += rng.uniform(0.3, 1.0) * (color - image[disc])
    return image


def _soft(rng: np.random.Generator, size: int) -> Array:
    cells = int(rng.integers(2, 7))
    return np.exp(_resize(np.log(_palette(rng, cells * cells)).reshape(cells, cells, 3), size))


def _stripes(rng: np.random.Generator, size: int) -> Array:
    """Draws stripes, such as curtains, blinds and panelling."""
    y, x = np.mgrid[0:size, 0:size] / size
    angle = rng.choice([0.0, np.pi / 2]) + rng.normal(0.0, 0.06)
    wave = np.cos(2 * np.pi * rng.uniform(4.0, 18.0) * (x * np.cos(angle) + y * np.sin(angle)) + rng.uniform(0.0, 6.0))
    depth = rng.uniform(0.1, 0.6) * (wave if rng.random() < 0.5 else np.sign(wave))
    return _palette(rng, 1)[0] * np.exp(depth)[..., None]


def random_backdrop(rng: np.random.Generator, size: int) -> NDArray[np.float32]:
    """Draws the albedo [size, size, 3] of a background, up to 1: plain, soft, boxes, discs or stripes, unevenly lit."""
    kind = rng.choice(5, p=[0.16, 0.24, 0.30, 0.14, 0.16])
    if kind == 0:
        image = np.broadcast_to(_palette(rng, 1), (size, size, 3))
    else:
        image = (_soft, _rectangles, _discs, _stripes)[kind - 1](rng, size)
        cells = max(2, int(size / np.exp(rng.uniform(np.log(1.5), np.log(14.0)))))  # out of focus, more or less
        image = np.exp(_resize(_resize(np.log(image), cells), size))  # of logarithms: no negative overshoot
    light = 0.35 * _resize(rng.normal(size=(3, 3, 1)), size)
    grain = rng.uniform(0.0, 0.05) * _resize(rng.normal(size=(size // 4, size // 4, 1)), size)
    return np.minimum(image * np.exp(light + grain), 1.0).astype(np.float32)


def light_backdrop(rng: np.random.Generator, albedo: Array, facing: Array) -> NDArray[np.float32]:
    """Lights a background [size, size, 3] by the light that the face gets, `facing` [3], mostly weaker; or a window."""
    size = len(albedo)
    lit = albedo * facing * np.exp(rng.normal(-0.15, 0.3) + rng.normal(0.0, 0.05, 3))
    if rng.random() < 0.12:  # a window or the sky, brighter than all that it lights
        bright = facing.mean() * rng.uniform(0.8, 2.5) * np.exp(rng.normal(0.0, 0.05, 3) + np.array([-0.06, 0.0, 0.1]))
        x, y = np.sort(rng.uniform(-0.3, 1.3, (2, 2)), axis=1)
        row = smoothstep(np.arange(size) / size, y[0], y[0] + 0.04) * smoothstep(
            np.arange(size) / size, y[1], y[1] - 0.04
        )
        column = smoothstep(np.arange(size) / size, x[0], x[0] + 0.04) * smoothstep(
            np.arange(size) / size, x[1], x[1] - 0.04
        )
        lit = lit + (row[:, None] * column[None])[..., None] * (bright * (0.5 + albedo) - lit)
    return lit.astype(np.float32)
