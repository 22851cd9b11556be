"""Paints detail finer than the mesh on a map of the face: brows, pores, freckles, moles, stubble and wrinkles.

The map unrolls the face on a cylinder around the head. It holds factors of the smooth vertex colours.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import avg_pool2d, grid_sample, normalize

from fmlfast.renderer import render, vertex_normals
from fmlfast.template.face_template import FaceTemplate
from fmlfast.template.regions import polyline_distance, smoothstep

Array = NDArray[np.floating]

_RADIUS, _AXIS = 100.0, -90.0  # of the cylinder and its z, mm
_LEFT, _WIDTH = -105.0, 210.0  # mm along the cylinder, 0 in the middle of the face
_LOW, _HEIGHT = -110.0, 210.0  # y in mm
_MARGIN = 10.0  # mm at the map's edges over which detail fades
_TILE = 256  # texels, side of the noise tiles
_TRUTH_BLUR = 3.0  # mm, over which a vertex's reflectance averages


def periodic_noise(texel: float, length: float, seed: int) -> NDArray[np.float32]:
    """Computes a periodic Gaussian field [256, 256] of variance 1 and length scale `length` mm."""
    white = np.random.default_rng(seed).normal(size=(_TILE, _TILE))
    frequency = np.fft.fftfreq(_TILE, texel)
    fall = np.exp(-((np.pi * length) ** 2) * (frequency[:, None] ** 2 + frequency[None] ** 2))
    field = np.fft.ifft2(np.fft.fft2(white) * fall).real
    return ((field - field.mean()) / field.std()).astype(np.float32)


class SkinDetail:
    """Draws detail maps for a template; data that depend on the template alone are computed once."""

    def __init__(self, template: FaceTemplate, masks: dict[str, Array], texel: float) -> None:
        """Unrolls the template and its masks [V] by name (freckled, beard, lips, folds, crows, skin). texel: mm."""
        self._texel = texel
        self._rows, self._columns = round(_HEIGHT / texel), round(_WIDTH / texel)
        x, y, z = template.vertices.T
        along = _RADIUS * torch.atan2(x, z - _AXIS)
        place = torch.stack([(along - _LEFT) / _WIDTH, (y - _LOW) / _HEIGHT], dim=-1)  # [V, 2] of the map, 0..1
        self.coordinates = 2.0 * place - 1.0  # [V, 2] as grid_sample takes them
        normals = vertex_normals(template.vertices[None], template.triangles)[0]
        outward = normalize(torch.stack([x, z - _AXIS], dim=-1), dim=-1)
        flat = smoothstep((normals[:, ::2] * outward).sum(dim=-1), 0.45, 0.85)  # the map is stretched elsewhere
        inside = torch.minimum(place, 1.0 - place) * torch.tensor([_WIDTH, _HEIGHT])  # mm from its edges
        flat = (flat * smoothstep(inside, 0.0, _MARGIN).prod(dim=-1)).numpy()
        self._masks = self._unroll(template, place, {name: mask * flat for name, mask in masks.items()})
        self._u = _LEFT + (np.arange(self._columns, dtype=np.float32) + 0.5) * texel
        self._v = _LOW + (np.arange(self._rows, dtype=np.float32) + 0.5) * texel
        marks = template.landmarks(template.vertices).numpy()
        flat = np.stack([_RADIUS * np.arctan2(marks[:, 0], marks[:, 2] - _AXIS), marks[:, 1], 0.0 * marks[:, 0]], -1)
        self._brows = [self._brow(flat[21:16:-1], -1.0), self._brow(flat[22:27], 1.0)]
        top = flat[17:27, 1].mean()
        self._forehead = (
            smoothstep(self._v, top + 6.0, top + 14.0)[:, None] * smoothstep(np.abs(self._u), 46.0, 24.0)[None]
        ).astype(np.float32)
        self._pores, self._spots, self._blotches = (
            np.pad(periodic_noise(texel, length, seed), ((0, self._rows), (0, self._columns)), "wrap")
            for seed, length in enumerate((0.55, 0.9, 4.0))
        )

    def _unroll(self, template: FaceTemplate, place: Tensor, masks: dict[str, Array]) -> dict[str, NDArray[np.float32]]:
        """Renders masks [V] as seen from outside the cylinder, [rows, columns] each."""
        depth = 1000.0 - torch.hypot(template.vertices[:, 0], template.vertices[:, 2] - _AXIS)
        size = torch.tensor([self._columns, self._rows])
        points = torch.cat([place * size * depth[:, None], depth[:, None]], dim=1)[None].float().contiguous()
        values = torch.from_numpy(np.stack(list(masks.values()), axis=-1).astype(np.float32))[None]
        eye = torch.eye(4)[None]
        picture = render(
            points, template.triangles, values, eye, eye[:, :3, :3], self._rows, self._columns, antialiased=False
        )
        return dict(zip(masks, picture.image[0].movedim(-1, 0).numpy(), strict=True))

    def _brow(self, line: Array, side: float) -> tuple[tuple[slice, slice], Array, Array, Array]:
        """Computes where a brow may be: a window of the map, the place along it (0 at the nose), mm above and beyond.

        line [5, 3]: its upper edge from the nose outwards. side: -1 or 1, of u.
        """
        inside = (self._u * side > 0.0) & (np.abs(self._u) < np.abs(line[:, 0]).max() + 14.0)
        near = (self._v > line[:, 1].min() - 16.0) & (self._v < line[:, 1].max() + 10.0)
        columns, rows = np.flatnonzero(inside), np.flatnonzero(near)
        window = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        v, u = np.meshgrid(self._v[window[0]], self._u[window[1]], indexing="ij")
        away, along = polyline_distance(np.stack([u, v, 0.0 * u], -1).reshape(-1, 3), line)
        order = np.argsort(line[:, 0])
        above = v - np.interp(u, line[order, 0], line[order, 1])
        beyond = np.sqrt(np.maximum(away.reshape(u.shape) ** 2 - above**2, 0.0))
        return window, along.reshape(u.shape), above, beyond

    def _noise(self, rng: np.random.Generator, tile: NDArray[np.float32]) -> NDArray[np.float32]:
        """Shifts a tile at random, [rows, columns]."""
        row, column = rng.integers(_TILE, size=2)
        return tile[row : row + self._rows, column : column + self._columns]

    def sample(
        self, rng: np.random.Generator, ink: Array, skin: Array, age: float, masculine: float, stubble: float
    ) -> NDArray[np.float32]:
        """Draws a map of factors [rows, columns, 3].

        ink, skin [3]: linear albedo of the brows' hair and the skin. age: 0..1 (20 to 75 years). stubble: strength of
        the beard's grain.
        """
        pores = self._noise(rng, self._pores)
        blotches = rng.uniform(0.015, 0.05) * self._noise(rng, self._blotches)
        log = (rng.uniform(0.02, 0.07) * pores + blotches) * self._masks["skin"]
        log -= stubble * min(1.0, 0.5 / self._texel) * self._masks["beard"] * (0.5 + pores)  # no hairs of a millimetre
        log += rng.uniform(0.05, 0.15) * self._masks["lips"] * self._noise(rng, self._spots)
        log -= self._wrinkles(rng, age)
        factor = np.exp(log)[..., None] * np.ones(3, np.float32)
        lightness = float(skin.mean())
        if rng.random() < 0.35 * smoothstep(np.array(lightness), 0.12, 0.35):
            strength = rng.uniform(0.15, 0.5) * np.clip(self._masks["freckled"], 0.0, 1.0)
            spots = strength * smoothstep(self._noise(rng, self._spots), rng.uniform(0.7, 1.5), 2.0)
            factor *= 1.0 - spots[..., None] * np.array([0.6, 0.85, 1.0], np.float32)
        self._paint_moles(rng, factor, rng.poisson(2.0 + 4.0 * age))
        self._paint_brows(rng, factor, np.minimum(ink / skin, 0.7), masculine)
        return factor.astype(np.float32)

    def _wrinkles(self, rng: np.random.Generator, age: float) -> Array:
        """Draws log darkening of lines across the forehead, at the eyes and beside the mouth."""
        old = max(0.0, age - 0.2) / 0.8
        wobble = self._noise(rng, self._blotches)
        phase = 2.0 * np.pi / np.float32(rng.uniform(7.0, 10.0)) * self._v[:, None] + np.float32(0.9) * wobble
        lines = self._forehead * np.exp(4.0 * (np.cos(phase) - 1.0)) * smoothstep(wobble, -1.2, 0.6)
        depth = (rng.uniform(0.0, 0.35, 3) * np.array([old, old, 0.3 + old])).astype(np.float32)
        return depth[0] * lines + depth[1] * self._masks["crows"] + depth[2] * self._masks["folds"]

    def _paint_moles(self, rng: np.random.Generator, factor: Array, count: int) -> None:
        reach = int(np.ceil(3.0 / self._texel))
        for _ in range(count):
            row, column = (int(rng.integers(reach, size - reach)) for size in factor.shape[:2])
            window = slice(row - reach, row + reach + 1), slice(column - reach, column + reach + 1)
            v, u = np.mgrid[-reach : reach + 1, -reach : reach + 1] * self._texel
            spot = (
                smoothstep(np.hypot(u, v), 1.0, 0.4 * 0.5)
                if rng.random() < 0.6
                else smoothstep(np.hypot(u, v), 2.0, 1.0)
            )
            spot = spot * rng.uniform(0.2, 0.75) * self._masks["skin"][window]
            factor[window] *= 1.0 - spot[..., None] * np.array([0.8, 0.95, 1.0])

    def _paint_brows(self, rng: np.random.Generator, factor: Array, ratio: Array, masculine: float) -> None:
        """Multiplies in both brows, hair by hair; ratio [3]: albedo of hair over that of skin."""
        half = rng.uniform(2.5, 3.8) + 1.3 * masculine * rng.uniform(0.1, 1.0)  # mm; landmarks lie on the upper edge
        drop, arch, tail = rng.normal(-half, 0.5), rng.normal(0.0, 0.8), rng.uniform(0.3, 0.6)
        density, edge = rng.uniform(0.8, 1.0), rng.uniform(0.6, 0.9)
        pitch, slant = rng.uniform(1.1, 1.9), rng.uniform(0.4, 1.1)
        hairs = self._noise(rng, self._pores)
        for window, along, above, beyond in self._brows:
            middle = drop + rng.normal(0.0, 0.3) + arch * np.sin(np.pi * along)
            profile = (
                half
                * (tail + (1.0 - tail) * smoothstep(along, 1.05, 0.45))
                * (0.75 + 0.25 * smoothstep(along, 0.0, 0.2))
            )
            across = np.hypot(above - middle, beyond) / profile
            lean = 48.0 * along - slant * above * (0.3 + along)  # mm across the slanted hairs
            strands = 0.5 + 0.5 * np.cos(2.0 * np.pi / pitch * lean + 1.2 * hairs[window])
            body = smoothstep(across + 0.22 * hairs[window] * (0.6 + 0.4 * across), 1.2, edge)
            alpha = (
                density
                * body
                * (1.0 - 0.4 * strands * smoothstep(across, 0.0, 1.0))
                * (0.65 + 0.35 * smoothstep(along, 0.0, 0.2))
            )
            factor[window] *= 1.0 - np.clip(alpha, 0.0, 1.0)[..., None] * (1.0 - ratio)

    def at_vertices(self, detail: NDArray[np.float32]) -> NDArray[np.float32]:
        """Averages a map around each vertex of the template, [V, 3]."""
        planes = torch.from_numpy(detail).movedim(-1, 0)[None].contiguous()
        mean = avg_pool2d(planes, round(_TRUTH_BLUR / self._texel), ceil_mode=True)
        return sample_map(mean, self.coordinates[None, None])[0, 0].numpy()


def sample_map(planes: Tensor, places: Tensor) -> Tensor:
    """Samples planes [1, C, rows, columns] at places [F, H, W, 2] of `coordinates`, bilinearly: [F, H, W, C]."""
    frames = len(places)
    sampled = grid_sample(
        planes, places.reshape(1, frames * places.shape[1], -1, 2), padding_mode="border", align_corners=False
    )
    return sampled[0].movedim(0, -1).reshape(*places.shape[:3], -1)
