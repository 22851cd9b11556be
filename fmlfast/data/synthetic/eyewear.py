"""Generates glasses and sunglasses: frames of many kinds, and lenses that tint what is behind and mirror the light."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from fmlfast.data.synthetic.mesh_parts import Array, Part, tube
from fmlfast.data.synthetic.random_light import Light
from fmlfast.renderer import render, vertex_normals
from fmlfast.template.regions import smoothstep

_FRAMES = np.array(  # linear albedo: black, tortoise, steel, gold, red, clear, blue
    [
        [0.012, 0.012, 0.013],
        [0.06, 0.03, 0.015],
        [0.22, 0.22, 0.23],
        [0.30, 0.21, 0.09],
        [0.1, 0.02, 0.02],
        [0.45, 0.42, 0.38],
        [0.02, 0.04, 0.12],
    ]
)
_RINGS = 4  # of a lens's mesh


@dataclass(frozen=True)
class Lenses:
    """A pair of lenses around the mean face: what they let through, and the window that they mirror."""

    part: Part  # their mesh
    transmission: Array  # [3]
    mirror: float  # reflectance
    window: Array  # [4] centre and half size, x and y of the mirrored direction
    brightness: float  # of the window, relative to white in the same light


def glasses(rng: np.random.Generator, marks: Array) -> tuple[list[Part], Lenses]:
    """Draws glasses: two rims, a bridge, two temples, two lenses; marks [68, 3]: landmarks of the mean face."""
    color = _FRAMES[rng.choice(len(_FRAMES), p=[0.36, 0.16, 0.16, 0.12, 0.06, 0.07, 0.07])]
    sunglasses = rng.random() < 0.15
    thin = rng.random() < 0.4 and not sunglasses
    thick = rng.uniform(0.6, 1.0) if thin else rng.uniform(1.1, 2.6)
    wide, tall = rng.uniform(23.0, 27.5), rng.uniform(16.0, 23.0)
    half_rim = rng.random() < 0.15  # only above
    turn = np.linspace(0.0, 2 * np.pi, 29)
    power = 2.0 / rng.uniform(2.0, 4.5)  # round to rectangular
    drop = rng.uniform(0.0, 0.25)  # aviators are narrower below
    parts, ends, lenses = [], [], []
    for side, eye in ((-1.0, slice(36, 42)), (1.0, slice(42, 48))):
        cosine, sine = (np.sign(f) * np.abs(f) ** power for f in (np.cos(turn), np.sin(turn)))
        x = side * 33.0 + wide * cosine * (1.0 + drop * np.minimum(sine, 0.0))
        y = marks[eye, 1].mean() - 2.0 + tall * sine
        z = marks[27, 2] + 10.0 - 0.0045 * x**2
        outline = np.stack([x, y, z], -1)
        radius = np.where(sine < -0.1, 0.3, thick) if half_rim else thick * (1.0 + 0.3 * np.maximum(sine, 0.0))
        parts.append(tube(outline, radius, color))
        lenses.append(outline[:-1])
        outer = np.array([side * (33.0 + wide), y[0] + 5.0, marks[27, 2] + 10.0 - 0.0045 * (33.0 + wide) ** 2])
        ear = np.array([side * 75.0, marks[36, 1] + 6.0, -88.0])
        parts.append(tube(np.linspace(outer, ear, 8), thick, color))
        ends.append([side * (33.0 - wide), y[0] + 3.0, marks[27, 2] + 10.0])
    arch = np.array([[0, 0, 0], [0, 2, 1], [0, 3, 1.5], [0, 2, 1], [0, 0, 0]])
    parts.append(tube(np.linspace(ends[0], ends[1], 5) + arch, thick, color))
    if sunglasses:
        transmission = rng.uniform(0.03, 0.22) * np.exp(rng.normal(0.0, 0.2, 3))
    else:
        transmission = rng.uniform(0.86, 0.95) * np.exp(rng.normal(0.0, 0.015, 3))
    window = np.concatenate([rng.normal([0.0, -0.25], [0.35, 0.25]), rng.uniform(0.05, 0.3, 2)])
    bright = rng.uniform(1.0, 6.0) if rng.random() < 0.6 else 0.0
    mirror = rng.uniform(0.01, 0.04) * (1.6 if sunglasses else 1.0)
    return parts, Lenses(_lens_mesh(lenses), np.clip(transmission, 0.0, 1.0), mirror, window, bright)


def _lens_mesh(outlines: list[Array]) -> Part:
    """Fills outlines [K, 3] with rings of triangles."""
    points, triangles = [], []
    share = np.linspace(1.0, 0.02, _RINGS + 1)[:, None, None]
    for outline in outlines:
        middle = outline.mean(axis=0)
        filled = middle + share * (outline - middle)
        filled[..., 2] += 1.5 * (1.0 - share[..., 0] ** 2)  # lenses bulge
        start, count = sum(len(p) for p in points), len(outline)
        ring, place = np.meshgrid(np.arange(_RINGS), np.arange(count), indexing="ij")
        a, b = start + ring * count + place, start + ring * count + (place + 1) % count
        triangles.append(np.stack([a, b, a + count, b, b + count, a + count], -1).reshape(-1, 3))
        points.append(filled.reshape(-1, 3))
    vertices = np.concatenate(points)
    return Part(vertices, np.concatenate(triangles).astype(np.int32), np.ones_like(vertices), np.zeros(len(vertices)))


def mirrored(lenses: Lenses, light: Light, points: Tensor) -> Tensor:
    """Computes the light that lenses at points [M, N, 3], camera space, mirror to the camera, [M, N, 3]."""
    normals = vertex_normals(points, torch.from_numpy(lenses.part.triangles))
    view = normalize(points, dim=-1)
    cosine = (normals * view).sum(dim=-1, keepdim=True)
    direction = view - 2.0 * cosine * normals  # where the mirrored light comes from
    fresnel = lenses.mirror + (1.0 - lenses.mirror) * (1.0 - cosine.abs().clamp(max=1.0)) ** 5
    around = torch.from_numpy(light.ambient[0] + 0.5 * light.key).float()
    sky = 0.35 + 0.5 * (0.5 - direction[..., 1:2]).clamp(0.0, 1.0)  # brighter above
    off = (direction[..., :2] - torch.from_numpy(lenses.window[:2]).float()).abs()
    edge = off / torch.from_numpy(lenses.window[2:]).float()
    window = smoothstep(edge, 1.15, 0.85).prod(dim=-1, keepdim=True)
    return fresnel * (sky + lenses.brightness * window) * around


def look_through(
    image: Tensor,  # [M, H, W, 3]
    depth: Tensor,  # [M, H, W]
    lenses: Lenses,
    points: Tensor,  # [M, N, 3]
    light: Light,
    Ks: Tensor,  # [M, 3, 3]
) -> Tensor:  # [M, H, W, 3]
    """Puts lenses before a rendered image, where nothing hides them; points: theirs, in camera space, mm."""
    frames, height, width, _ = image.shape
    colors, eye = mirrored(lenses, light, points), torch.eye(4).expand(frames, 4, 4)
    drawn = render(points, torch.from_numpy(lenses.part.triangles), colors, eye, Ks, height, width, antialiased=False)
    seen = ((drawn.mask > 0.5) & (drawn.depth < depth))[..., None]
    return torch.where(seen, image * torch.from_numpy(lenses.transmission).float() + drawn.image, image)
