"""Generates procedural reflectance of faces: skin, lips, eyes, beards, age, and the detail of `skin_detail` over them.

All features are soft masks on the template's vertices, so a look takes a few milliseconds and fits every person.
Reflectance is linear RGB in 0..1; occlusion and highlights are left to the light (`shading`).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fmlfast.data.synthetic.people import Person
from fmlfast.data.synthetic.skin_detail import SkinDetail
from fmlfast.data.synthetic.tones import BLOOD, random_hair_color, random_iris, random_skin
from fmlfast.template.face_template import FaceTemplate
from fmlfast.template.regions import polyline_distance, smoothstep

Array = NDArray[np.float32]
Colors = NDArray[np.floating]  # [..., 3]

_SCLERA = np.array([0.46, 0.42, 0.39])


@dataclass(frozen=True)
class Look:
    """One person's reflectance, linear RGB."""

    colors: Array  # [V, 3] of the template's vertices, the detail averaged around each
    smooth: Array  # [V, 3] the same without detail
    detail: Array  # [rows, columns, 3] factors of `smooth`, a map of SkinDetail
    skin: Array  # [3] average skin
    hair: Array  # [3]


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

    def __init__(self, template: FaceTemplate, texel: float) -> None:
        """Computes the masks; texel: of the map of detail, mm."""
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
        self._wide = smooth_basis(points, 32.0, 48, seed=1)
        self._middle = smooth_basis(points, 9.0, 96, seed=2)
        self._place_blood(points, marks)
        self._place_beard(points, marks)
        self._place_age(points, marks)
        masks = {"skin": self._skin * (1.0 - self._lips), "lips": self._lips, "beard": self._beard}
        masks |= {"freckled": self._freckled, "folds": self._folds**3, "crows": self._crows**2}
        self.detail = SkinDetail(template, masks, texel)

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

    def sample(self, rng: np.random.Generator, person: Person) -> Look:
        """Draws a look; it depends on the person's age and gender, but not on the shape of the face."""
        age, male = (person.age - 20.0) / 55.0, person.gender > 0.5
        tone, skin = random_skin(rng)
        hair = random_hair_color(rng, tone, age)
        plain = np.repeat(skin[None].astype(np.float32), len(self._points), axis=0)  # [V, 3]
        color = self._paint_skin(rng, plain, tone)
        makeup = not male and rng.random() < 0.45
        color = self._paint_lips(rng, color, skin, makeup)
        color = self._paint_age(rng, color, age, makeup)
        stubble = 0.0
        if male and rng.random() < 0.6:
            color, stubble = self._paint_beard(rng, color, hair)
        color = self._paint_eyes(rng, color, random_iris(rng, tone))
        color = self._paint_mouth(rng, color)
        color = self._paint_lashes(rng, color, hair, makeup)
        ink = hair * rng.uniform(0.4, 0.9)  # brows are darker than the hair of the head
        detail = self.detail.sample(rng, ink, skin, age, person.gender, stubble)
        smooth = np.clip(color, 0.004, 0.95).astype(np.float32)
        true = np.clip(smooth * self.detail.at_vertices(detail), 0.004, 0.95)
        return Look(true, smooth, detail, skin.astype(np.float32), np.asarray(hair, np.float32))

    def _field(self, rng: np.random.Generator, basis: Array, channels: int = 1) -> NDArray[np.floating]:
        """Draws a smooth random field [V, channels] of variance 1."""
        return basis @ rng.normal(size=(basis.shape[1], channels)).astype(np.float32)

    def _paint_skin(self, rng: np.random.Generator, color: Colors, tone: float) -> Colors:
        shade = self._field(rng, self._wide, 4) @ np.array([[0.06, 0.06, 0.06], *(0.03 * np.eye(3))])
        mottled, flushed = self._field(rng, self._middle, 2).T
        shade = shade + rng.uniform(0.015, 0.045) * mottled[:, None]
        flush = rng.uniform(0.15, 0.85) * self._blood * (0.35 + 0.65 * tone)
        flush = flush * (1.0 + 0.35 * flushed)
        return color * np.exp(shade + 0.5 * flush[:, None] * BLOOD)

    def _paint_lips(self, rng: np.random.Generator, color: Colors, skin: Colors, makeup: bool) -> Colors:
        if makeup:
            paint = np.array([[0.42, 0.04, 0.05], [0.40, 0.13, 0.14], [0.22, 0.03, 0.06], [0.45, 0.20, 0.18]])
            lips, amount = paint[rng.integers(len(paint))] * rng.uniform(0.7, 1.2), rng.uniform(0.4, 0.9)
        else:
            lips = skin * np.array([0.95, 0.62, 0.68]) * np.exp(rng.normal(0.0, 0.10, 3))
            amount = rng.uniform(0.45, 0.95)
        alpha = (amount * self._lips)[:, None]
        return color + alpha * (lips - color)

    def _paint_age(self, rng: np.random.Generator, color: Colors, age: float, makeup: bool) -> Colors:
        """Darkens eye sockets, bags, the upper lashes' roots and wrinkles."""
        old = max(0.0, age - 0.3) / 0.7
        dark = rng.uniform(0.05, 0.3) * self._sockets + (rng.uniform(0.0, 0.18) + 0.12 * old) * self._bags
        dark = dark + rng.uniform(0.5, 1.1 if not makeup else 1.9) * self._lash_roots
        dark = dark + (0.04 + 0.25 * old * rng.uniform(0.3, 1.0)) * self._folds
        dark = dark + 0.25 * old * rng.uniform(0.2, 1.0) * self._crows
        return color * np.exp(-(dark * self._skin)[:, None] * np.array([0.85, 1.0, 1.0]))

    def _paint_beard(self, rng: np.random.Generator, color: Colors, hair: Colors) -> tuple[Colors, float]:
        """Returns the colours with a beard, and the strength of its grain."""
        kind = rng.choice(5, p=[0.25, 0.30, 0.22, 0.13, 0.10])  # shadow, stubble, full, chin and upper lip, moustache
        mask = (self._beard, self._beard, self._beard, self._goatee, self._moustache)[kind]
        low, high = ((0.08, 0.22), (0.25, 0.55), (0.8, 0.97), (0.7, 0.95), (0.8, 0.97))[kind]
        patchy = 1.0 + 0.12 * self._field(rng, self._middle)[:, 0]
        alpha = np.clip(rng.uniform(low, high) * mask * patchy, 0.0, 0.97)[:, None]
        shadow = color * 0.35 * np.array([0.9, 1.0, 1.1])  # short hair in skin looks bluish
        ink = shadow if kind < 2 else 0.7 * hair
        return color + alpha * (ink - color), float(rng.uniform(0.15, 0.4))

    def _paint_eyes(self, rng: np.random.Generator, color: Colors, iris: Colors) -> Colors:
        ball = np.repeat((_SCLERA * rng.uniform(0.85, 1.15))[None], len(color), axis=0)  # [V, 3]
        ring = iris * (0.4 + 0.6 * self._iris**2)[:, None]  # darker towards its rim
        ball = ball + self._iris[:, None] * (ring - ball)
        ball = ball + (self._pupil ** rng.uniform(0.6, 1.8))[:, None] * (0.006 - ball)
        return color + self._eyes[:, None] * (ball - color)

    def _paint_mouth(self, rng: np.random.Generator, color: Colors) -> Colors:
        """Paints teeth, gums, tongue and the mouth's walls in the template's colours, teeth whiter or yellower."""
        ivory = rng.uniform(0.8, 1.2) * np.array([1.0, 0.97, 0.88]) ** rng.uniform(-0.8, 1.8)
        flesh = np.exp(rng.normal(0.0, 0.15) + rng.normal(0.0, 0.05, 3))
        inside = self._mouth_color * (flesh + self._teeth[:, None] * (ivory - flesh))
        return color + self._mouth[:, None] * (inside - color)

    def _paint_lashes(self, rng: np.random.Generator, color: Colors, hair: Colors, makeup: bool) -> Colors:
        """Paints lashes: black with makeup, else darker than the hair."""
        ink = np.array([0.008, 0.007, 0.007]) if makeup else np.minimum(0.5 * hair, 0.1) * rng.uniform(0.6, 1.2)
        return color + self._lashes[:, None] * (ink - color)
