"""Generates procedural reflectance of faces: skin tones, brows, lips, eyes, beards, freckles, age.

All features are soft masks on the template's vertices, so a look takes a few milliseconds and fits every person.
Reflectance is linear RGB in 0..1, with the ambient occlusion of the face (eye sockets, nostrils) baked in.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fmlfast.data.synthetic.people import Person
from fmlfast.template.face_template import FaceTemplate
from fmlfast.template.regions import polyline_distance, smoothstep

Array = NDArray[np.float32]

# Linear albedo of facial skin from the darkest to the lightest; the second and the fourth are close to the "dark skin"
# and "light skin" patches of the ColorChecker chart.
_SKIN_STOPS = np.array([0.0, 0.25, 0.5, 0.75, 1.0])
_SKIN = np.array(
    [[0.085, 0.045, 0.032], [0.180, 0.092, 0.058], [0.360, 0.195, 0.118], [0.520, 0.305, 0.212], [0.640, 0.410, 0.315]]
)
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
_TONES = np.array([0.16, 0.66, 0.84])  # mean tone by PeopleSampler's ETHNICITIES
_SCLERA = np.array([0.52, 0.48, 0.45])
_BLOOD = np.array([0.35, -0.55, -0.40])  # log-colour of more blood under the skin


@dataclass(frozen=True)
class Look:
    """One person's reflectance, linear RGB."""

    colors: Array  # [V, 3] of the template's vertices
    skin: Array  # [3] average skin
    hair: Array  # [3]


def skin_color(tone: float) -> NDArray[np.float64]:
    """Interpolates the linear albedo [3] of skin, tone 0 (darkest) to 1 (lightest)."""
    return np.exp([np.interp(tone, _SKIN_STOPS, np.log(channel)) for channel in _SKIN.T])


def smooth_basis(points: NDArray[np.floating], length: float, count: int, seed: int) -> Array:
    """Computes random Fourier features [V, count] of a Gaussian process on points [V, 3] (Rahimi and Recht 2007).

    `basis @ normal(count)` is a smooth random field of variance 1 with length scale `length`.
    """
    rng = np.random.default_rng(seed)
    frequencies = rng.normal(0.0, 1.0 / length, (3, count))
    phases = rng.uniform(0.0, 2.0 * np.pi, count)
    return (np.cos(points @ frequencies + phases) * (2.0 / count) ** 0.5).astype(np.float32)


class FaceAppearance:
    """Draws looks for a template; data that depend on the template alone are computed once."""

    def __init__(self, template: FaceTemplate, occlusion: NDArray[np.floating] | None = None) -> None:
        """Computes the masks; occlusion [V]: share of the sky that each vertex sees, 0..1 (None: 1)."""
        points = template.vertices.numpy().astype(np.float32)  # [V, 3]
        marks = template.landmarks(template.vertices).numpy()  # [68, 3]
        region = {name: mask.numpy() for name, mask in template.regions.items()}
        self._points = points
        self._eyes, self._iris, self._pupil = region["eyes"], region["iris"], region["pupil"]
        self._lips = region["lips"]
        self._teeth, self._lashes, self._ears = region["teeth"], region["lashes"], region["ears"]
        self._mouth = np.clip(region["mouth_bag"] + region["teeth"] + region["tongue"], 0.0, 1.0)
        self._mouth_color = template.colors.numpy()
        self._skin = np.clip(1.0 - self._eyes - self._mouth - self._lashes, 0.0, 1.0)
        self._occlusion = np.ones(len(points), np.float32) if occlusion is None else occlusion.astype(np.float32)
        self._wide = smooth_basis(points, 32.0, 48, seed=1)
        self._middle = smooth_basis(points, 9.0, 96, seed=2)
        self._fine = smooth_basis(points, 3.0, 192, seed=3)
        self._place_brows(points, marks)
        self._place_blood(points, marks)
        self._place_beard(points, marks)
        self._place_age(points, marks)

    def _place_brows(self, points: Array, marks: Array) -> None:
        """Computes brow coordinates of nearby vertices: along it from the nose (0..1), above and beyond it (mm)."""
        left = points[:, 0] > 0
        along, above, away = np.zeros((3, len(points)), np.float32)
        for line, side in ((marks[21:16:-1], ~left), (marks[22:27], left)):
            away[side], along[side] = polyline_distance(points[side], line)
            order = np.argsort(line[:, 0])
            above[side] = points[side, 1] - np.interp(points[side, 0], line[order, 0], line[order, 1])
        self._brow = near = np.flatnonzero((away < 14.0) & (self._skin > 0.0))
        self._brow_left, self._brow_along, self._brow_above = left[near], along[near], above[near]
        self._brow_beyond = np.sqrt(np.maximum(away**2 - above**2, 0.0))[near]
        self._brow_fine = self._fine[near]

    def _place_blood(self, points: Array, marks: Array) -> None:
        def spot(center: Array, radius: float) -> NDArray[np.floating]:
            return np.exp(-(((points - center) / radius) ** 2).sum(axis=1))

        cheeks = [(0.45 * marks[a] + 0.55 * marks[b]) for a, b in ((2, 31), (14, 35))]
        self._cheeks = spot(cheeks[0], 19.0) + spot(cheeks[1], 19.0)
        self._blood = 0.8 * self._cheeks + 0.8 * spot(marks[30], 11.0) + 0.35 * spot(marks[8], 14.0) + 0.7 * self._ears
        self._blood += 0.4 * (spot(marks[31], 5.0) + spot(marks[35], 5.0))
        self._freckled = (
            self._cheeks + spot(marks[29], 16.0) + 0.12 * smoothstep(points[:, 1], marks[33, 1], marks[19, 1])
        )

    def _place_beard(self, points: Array, marks: Array) -> None:
        """Computes beard masks below a line from under the nose over the mouth corners to the ears."""
        mouth = np.concatenate([marks[48:60], marks[48:49]])
        self._mouth_distance = polyline_distance(points, mouth)[0]
        half = np.abs(points[:, 0])
        corner, nose, jaw = np.abs(marks[[48, 33, 3]])[:, 0], marks[[48, 33, 31], 1], marks[2]
        line_x = [0.0, corner[1] + 6.0, corner[0], 0.6 * corner[0] + 0.4 * abs(jaw[0]), abs(jaw[0])]
        line_y = [nose[1] - 3.0, nose[1] - 4.0, 0.45 * nose[0] + 0.55 * nose[2], 0.75 * nose[0] + 0.25 * jaw[1], jaw[1]]
        under = np.interp(half, line_x, line_y) - points[:, 1]
        neck = smoothstep(points[:, 1], marks[8, 1] - 38.0, marks[8, 1] - 4.0)
        lips = smoothstep(self._mouth_distance, 0.8, 3.0) * (1.0 - self._lips)
        self._beard = smoothstep(under, -2.5, 4.0) * neck * lips * (1.0 - self._ears) * self._skin
        corner_x = corner[0]
        self._moustache = self._beard * smoothstep(points[:, 1], marks[48, 1] - 3.0, marks[48, 1] + 3.0)
        self._moustache *= smoothstep(half, corner_x + 5.0, corner_x)
        chin = smoothstep(half, corner_x + 3.0, corner_x - 6.0) * smoothstep(
            points[:, 1], marks[48, 1], marks[48, 1] - 5.0
        )
        self._goatee = np.maximum(self._moustache, self._beard * chin)

    def _place_age(self, points: Array, marks: Array) -> None:
        def fold(line: NDArray[np.floating], width: float) -> NDArray[np.floating]:
            return np.exp(-((polyline_distance(points, line)[0] / width) ** 2))

        sides = ((31, 48, 5, 36, -1.0, slice(36, 42)), (35, 54, 11, 45, 1.0, slice(42, 48)))
        folds, crows = np.zeros(len(points)), np.zeros(len(points))
        sockets, bags, roots = np.zeros(len(points)), np.zeros(len(points)), np.zeros(len(points))
        for wing, corner, jaw, outer, sign, eye in sides:
            nasolabial = np.stack(
                [
                    marks[wing] + [sign * 4, 3, -2],
                    marks[corner] + [sign * 7, 9, 0],
                    marks[corner] + [sign * 6, -1, 0],
                    0.75 * marks[corner] + 0.25 * marks[jaw] + [sign * 3, -5, 0],
                ]
            )
            folds += fold(nasolabial, 2.6)
            for rise in (-4.0, 0.5, 5.0):
                crows += fold(
                    np.stack([marks[outer] + [sign * 4, rise * 0.3, -1], marks[outer] + [sign * 15, rise, -6]]), 1.3
                )
            rim = marks[eye]
            loop = np.concatenate([rim, rim[:1]])
            distance = polyline_distance(points, loop)[0]
            below = points[:, 1] < rim[:, 1].mean()
            sockets += np.exp(-((distance / 7.0) ** 2))
            bags += np.exp(-(((distance - 7.0) / 4.0) ** 2)) * below
            roots += np.exp(-((polyline_distance(points, rim[:4])[0] / 1.3) ** 2))
        self._folds, self._crows, self._sockets, self._bags = folds, crows, sockets, bags
        self._lash_roots = roots * self._skin
        brow = marks[17:27, 1].mean()
        band = smoothstep(points[:, 1], brow + 8.0, brow + 18.0) * smoothstep(np.abs(points[:, 0]), 48.0, 25.0)
        self._forehead = band * (0.5 + 0.5 * np.cos(2.0 * np.pi * (points[:, 1] - brow) / 8.5)) ** 2

    def sample(self, rng: np.random.Generator, person: Person) -> Look:
        """Draws a look; its probabilities depend on the person's age, gender and ethnicity."""
        age, male = (person.age - 20.0) / 55.0, person.gender > 0.5
        tone = float(np.clip(person.ethnicity @ _TONES + rng.normal(0.0, 0.15), 0.0, 1.0))
        skin = skin_color(tone) * np.exp(rng.normal(0.0, 0.05) * _BLOOD + rng.normal(0.0, [0.05, 0.03, 0.06]))
        hair = self._hair_color(rng, tone, age)
        color = np.repeat(skin[None], len(self._points), axis=0)  # [V, 3]
        color = self._paint_skin(rng, color, tone, age)
        makeup = not male and rng.random() < 0.45
        color = self._paint_lips(rng, color, tone, makeup)
        color = self._paint_age(rng, color, age, makeup)
        if male and rng.random() < 0.6:
            color = self._paint_beard(rng, color, hair)
        color = self._paint_brows(rng, color, hair, person.gender)
        color *= np.exp((self._occlusion - 1.0)[:, None] * np.array([0.9, 1.15, 1.25]))  # blood warms the shadows
        color = self._paint_eyes(rng, color, tone)
        color = self._paint_mouth(rng, color)
        color = self._paint_lashes(rng, color, hair, makeup)
        return Look(
            np.clip(color, 0.004, 0.95).astype(np.float32), skin.astype(np.float32), np.asarray(hair, np.float32)
        )

    def _field(self, rng: np.random.Generator, basis: Array, channels: int = 1) -> NDArray[np.floating]:
        """Draws a smooth random field [V, channels] of variance 1."""
        return basis @ rng.normal(size=(basis.shape[1], channels)).astype(np.float32)

    def _hair_color(self, rng: np.random.Generator, tone: float, age: float) -> NDArray[np.floating]:
        light = smoothstep(np.array(tone), 0.45, 0.95)
        share = {"black": 1.3 - light, "dark": 1.0, "brown": 0.9 * light, "light": 0.7 * light, "blond": 0.55 * light}
        share |= {"red": 0.15 * light, "grey": 6.0 * max(0.0, age - 0.6), "white": 5.0 * max(0.0, age - 0.72)}
        weights = np.array(list(share.values()))
        name = list(share)[rng.choice(len(share), p=weights / weights.sum())]
        return np.array(_HAIR[name]) * np.exp(rng.normal(0.0, 0.2) + rng.normal(0.0, 0.05, 3))

    def _paint_skin(
        self, rng: np.random.Generator, color: NDArray[np.floating], tone: float, age: float
    ) -> NDArray[np.floating]:
        shade = self._field(rng, self._wide, 4) @ np.array([[0.06, 0.06, 0.06], *(0.03 * np.eye(3))])
        shade = shade + rng.uniform(0.015, 0.045) * self._field(rng, self._middle)
        shade = shade + rng.uniform(0.015, 0.05) * self._field(rng, self._fine)
        shade = shade + rng.normal(0.0, rng.uniform(0.008, 0.03), (len(color), 1))  # pores
        flush = rng.uniform(0.15, 0.75) * self._blood * (0.35 + 0.65 * tone)
        flush = flush * (1.0 + 0.35 * self._field(rng, self._middle)[:, 0])
        shade = shade + 0.5 * flush[:, None] * _BLOOD
        color = color * np.exp(shade)
        if rng.random() < 0.3 * smoothstep(np.array(tone), 0.4, 0.9):
            chance = rng.uniform(0.1, 0.45) * np.clip(self._freckled, 0.0, 1.0)
            spots = (rng.random(len(color)) < chance) * rng.uniform(0.1, 0.45, len(color))
            color = color * (1.0 - spots[:, None] * self._skin[:, None] * np.array([0.55, 0.8, 1.0]))
        moles = rng.integers(0, len(color), rng.poisson(2.5 + 4.0 * age))
        color[moles] *= rng.uniform(0.25, 0.7, (len(moles), 1)) * np.array([1.0, 0.85, 0.8])
        return color

    def _paint_lips(
        self, rng: np.random.Generator, color: NDArray[np.floating], tone: float, makeup: bool
    ) -> NDArray[np.floating]:
        if makeup:
            paint = np.array([[0.42, 0.04, 0.05], [0.40, 0.13, 0.14], [0.22, 0.03, 0.06], [0.45, 0.20, 0.18]])
            lips, amount = paint[rng.integers(len(paint))] * rng.uniform(0.7, 1.2), rng.uniform(0.4, 0.9)
        else:
            lips = skin_color(tone) * np.array([0.95, 0.62, 0.68]) * np.exp(rng.normal(0.0, 0.10, 3))
            amount = rng.uniform(0.45, 0.95)
        alpha = (amount * self._lips)[:, None]
        return color + alpha * (lips * (1.0 + 0.07 * self._field(rng, self._fine)) - color)

    def _paint_age(
        self, rng: np.random.Generator, color: NDArray[np.floating], age: float, makeup: bool
    ) -> NDArray[np.floating]:
        """Darkens eye sockets, bags, the upper lashes' roots and wrinkles."""
        old = max(0.0, age - 0.3) / 0.7
        dark = rng.uniform(0.05, 0.3) * self._sockets + (rng.uniform(0.0, 0.18) + 0.12 * old) * self._bags
        dark = dark + rng.uniform(0.3, 0.75 if not makeup else 1.4) * self._lash_roots
        dark = dark + (0.04 + 0.25 * old * rng.uniform(0.3, 1.0)) * self._folds
        dark = dark + 0.25 * old * rng.uniform(0.2, 1.0) * self._crows
        dark = dark + 0.3 * old * rng.uniform(0.0, 1.0) * self._forehead
        return color * np.exp(-(dark * self._skin)[:, None] * np.array([0.85, 1.0, 1.0]))

    def _paint_beard(
        self, rng: np.random.Generator, color: NDArray[np.floating], hair: NDArray[np.floating]
    ) -> NDArray[np.floating]:
        kind = rng.choice(4, p=[0.30, 0.38, 0.20, 0.12])  # shadow, stubble, full, chin and upper lip
        mask = (self._beard, self._beard, self._beard, self._goatee)[kind]
        density = (rng.uniform(0.06, 0.18), rng.uniform(0.18, 0.45), rng.uniform(0.65, 0.92), rng.uniform(0.5, 0.9))[
            kind
        ]
        patchy = 1.0 + 0.25 * self._field(rng, self._middle)[:, 0] + rng.normal(0.0, 0.25, len(color))
        alpha = np.clip(density * mask * patchy, 0.0, 0.95)[:, None]
        shadow = color * 0.35 * np.array([0.9, 1.0, 1.1])  # short hair in skin looks bluish
        ink = shadow if kind < 2 else hair * 0.9
        return color + alpha * (ink - color)

    def _paint_brows(
        self, rng: np.random.Generator, color: NDArray[np.floating], hair: NDArray[np.floating], masculine: float
    ) -> NDArray[np.floating]:
        along, above = self._brow_along, self._brow_above
        half = rng.uniform(1.9, 3.0) + 1.1 * masculine * rng.uniform(0.2, 1.0)  # mm; landmarks lie on the upper edge
        rise = rng.normal(-half, 0.6) + rng.normal(0.0, 0.3) * np.where(self._brow_left, 1.0, -1.0)
        rise = rise + rng.normal(0.0, 0.8) * np.sin(np.pi * along)
        profile = half * (0.55 + 0.6 * np.sin(np.pi * np.clip(0.25 + 0.72 * along, 0.0, 1.0)))
        across = np.hypot(above - rise, self._brow_beyond)
        lean = 48.0 * along - rng.uniform(0.5, 1.2) * above  # mm across the slanted hairs
        waves = 2 * np.pi / rng.uniform(2.0, 4.5, (6, 1))
        hairs = 1.0 + 0.11 * np.cos(waves * lean + rng.uniform(0.0, 6.0, (6, 1))).sum(axis=0)
        hairs = hairs + 0.15 * self._field(rng, self._brow_fine)[:, 0]
        density = rng.uniform(0.5, 0.95) * hairs * smoothstep(across / profile, 1.35, 0.55)
        alpha = np.clip(density * self._skin[self._brow], 0.0, 0.97)[:, None]
        under = color[self._brow]
        ink = np.minimum(hair * rng.uniform(0.5, 1.0), 0.45 * under)
        color[self._brow] = under + alpha * (ink - under)
        return color

    def _paint_eyes(self, rng: np.random.Generator, color: NDArray[np.floating], tone: float) -> NDArray[np.floating]:
        light = np.clip((tone - 0.55) / 0.45, 0.0, 1.0)
        kind = int(rng.choice(5, p=[1.0 - 0.7 * light, *(light * np.array([0.25, 0.15, 0.1, 0.2]))]))
        iris = _IRIS[kind] * np.exp(rng.normal(0.0, 0.25) + rng.normal(0.0, 0.08, 3))
        ball = np.repeat((_SCLERA * rng.uniform(0.8, 1.1))[None], len(color), axis=0)  # [V, 3]
        ring = iris * (0.5 + 0.5 * self._iris**2)[:, None]  # darker towards its rim
        ball = ball + self._iris[:, None] * (ring - ball)
        ball = ball + (self._pupil ** rng.uniform(0.6, 1.8))[:, None] * (0.006 - ball)
        return color + self._eyes[:, None] * (ball * (0.35 + 0.65 * self._occlusion[:, None]) - color)

    def _paint_mouth(self, rng: np.random.Generator, color: NDArray[np.floating]) -> NDArray[np.floating]:
        """Paints teeth, gums, tongue and the mouth's walls in the template's colours, teeth whiter or yellower."""
        ivory = rng.uniform(0.75, 1.15) * np.array([1.0, 0.96, 0.85]) ** rng.uniform(-0.5, 2.0)
        flesh = np.exp(rng.normal(0.0, 0.15) + rng.normal(0.0, 0.05, 3))
        inside = self._mouth_color * (flesh + self._teeth[:, None] * (ivory - flesh))
        return color + self._mouth[:, None] * (inside - color)

    def _paint_lashes(
        self, rng: np.random.Generator, color: NDArray[np.floating], hair: NDArray[np.floating], makeup: bool
    ) -> NDArray[np.floating]:
        """Paints lashes: black with makeup, else darker than the hair."""
        ink = np.array([0.008, 0.007, 0.007]) if makeup else np.minimum(0.5 * hair, 0.1) * rng.uniform(0.6, 1.2)
        return color + self._lashes[:, None] * (ink - color)
