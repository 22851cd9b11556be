"""Draws colours of skin, hair and irises: linear albedo, even over the tones of people of all continents.

The tone of skin is melanin (from light to dark, which also makes it redder) and, independent of it, blood and a yellow
pigment. Nothing here knows the face's shape, so that nobody can learn a tone from a nose.
"""

import numpy as np
from numpy.typing import NDArray

from fmlfast.data.synthetic.random_light import LUMINANCE
from fmlfast.template.regions import smoothstep

# Linear albedo of facial skin from the darkest to the lightest; the second and the fourth are as bright as the "dark
# skin" and "light skin" patches of the ColorChecker chart, and redder and less yellow, as measured faces are.
_MELANIN = np.array(
    [[0.088, 0.044, 0.032], [0.186, 0.090, 0.062], [0.374, 0.190, 0.134], [0.545, 0.298, 0.226], [0.665, 0.402, 0.320]]
)
_LIGHTNESS = np.log(_MELANIN @ LUMINANCE)  # [5] ascending
BLOOD = np.array([0.35, -0.55, -0.40])  # log-colour of more blood under the skin
_YELLOW = np.array([0.03, 0.0, -0.08])  # log-colour of more carotene and pheomelanin, a standard deviation
_HAIR = {  # linear albedo
    "black": (0.013, 0.011, 0.010),
    "dark": (0.030, 0.019, 0.013),
    "brown": (0.075, 0.042, 0.023),
    "light": (0.150, 0.092, 0.048),
    "blond": (0.340, 0.235, 0.120),
    "red": (0.230, 0.080, 0.028),
    "grey": (0.300, 0.290, 0.280),
    "white": (0.550, 0.540, 0.520),
}
_IRIS = np.array(
    [[0.045, 0.022, 0.012], [0.095, 0.050, 0.024], [0.130, 0.095, 0.040], [0.110, 0.135, 0.080], [0.095, 0.150, 0.210]]
)


def skin_color(tone: float) -> NDArray[np.float64]:
    """Interpolates the linear albedo [3] of skin; its log luminance is linear in tone, 0 (darkest) to 1 (lightest)."""
    lightness = _LIGHTNESS[0] + tone * (_LIGHTNESS[-1] - _LIGHTNESS[0])
    return np.exp([np.interp(lightness, _LIGHTNESS, np.log(channel)) for channel in _MELANIN.T])


def random_skin(rng: np.random.Generator) -> tuple[float, NDArray[np.float64]]:
    """Draws a tone, even over 0..1, and the linear albedo [3] of a person's skin of that tone."""
    tone = float(rng.uniform())
    variation = rng.normal(0.0, 0.09) * BLOOD + rng.normal() * _YELLOW + rng.normal(0.0, 0.02, 3)
    return tone, skin_color(tone) * np.exp(variation)


def random_hair_color(rng: np.random.Generator, tone: float, age: float) -> NDArray[np.float64]:
    """Draws the linear albedo [3] of hair; softly lighter with the skin, grey and white with age (0..1)."""
    light = smoothstep(np.array(tone), 0.5, 1.0)
    share = {"black": 1.3 - light, "dark": 1.0, "brown": 0.1 + 0.9 * light, "light": 0.7 * light, "blond": 0.5 * light}
    share |= {"red": 0.02 + 0.13 * light, "grey": 6.0 * max(0.0, age - 0.6), "white": 5.0 * max(0.0, age - 0.72)}
    weights = np.array(list(share.values()))
    name = list(share)[rng.choice(len(share), p=weights / weights.sum())]
    hue = 0.01 if name in ("grey", "white") else 0.03  # hair without pigment is not green or blue
    return np.array(_HAIR[name]) * np.exp(rng.normal(0.0, 0.2) + rng.normal(0.0, hue, 3))


def random_iris(rng: np.random.Generator, tone: float) -> NDArray[np.float64]:
    """Draws the linear albedo [3] of an iris: brown, with lighter skin also hazel, green and blue."""
    light = float(smoothstep(np.array(tone), 0.6, 1.0))
    kind = int(rng.choice(5, p=[1.0 - 0.7 * light, *(light * np.array([0.25, 0.15, 0.1, 0.2]))]))
    return _IRIS[kind] * np.exp(rng.normal(0.0, 0.25) + rng.normal(0.0, 0.08, 3))
