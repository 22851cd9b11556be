"""Makes what benchmarks and tests draw: faces and spheres in front of cameras, and soups of triangles of one size."""

import math
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from torch import Tensor

from benchmarks.harness.case import Inputs
from fmlfast.template.face_template import FaceTemplate

DISTANCE = 600.0
"""mm from the camera to the middle of a mesh."""
FOCAL = 2.2
"""Focal length in sides of the image: a face then fills most of it."""
RADIUS = 100.0
"""mm, of spheres."""
SPHERE_AREA = 0.5
"""Mean area in pixels of a sphere's visible triangles, however many there are."""
FACE_VERTICES = {0: 4_615, 1: 17_460, 2: 68_152}
FACE_TRIANGLES = {0: 8_334, 1: 33_336, 2: 133_344}


class Random:
    """Random float32 numbers of one seed, made on the device."""

    def __init__(self, device: str, seed: int) -> None:
        self.device = device
        self.generator = torch.Generator(device).manual_seed(seed)

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Draws uniform numbers from `low` to `high`."""
        return torch.rand(shape, generator=self.generator, device=self.device) * (high - low) + low

    def normal(self, *shape: int, scale: float = 1.0) -> Tensor:
        """Draws normal numbers around 0."""
        return torch.randn(shape, generator=self.generator, device=self.device) * scale

    def rotations(self, count: int, angle: float = 0.4) -> Tensor:  # [count, 3, 3]
        """Draws rotations by up to `angle` radians about each axis."""
        a = self.uniform(count, 3, low=-angle, high=angle)
        generators = torch.zeros(count, 3, 3, device=self.device)
        for k, (i, j) in enumerate(((1, 2), (2, 0), (0, 1))):
            generators[:, j, i], generators[:, i, j] = a[:, k], -a[:, k]
        return torch.linalg.matrix_exp(generators)


@dataclass(frozen=True)
class Mesh:
    """The face at a level of subdivision, or a sphere of so many cells to a cube's half edge: made when asked for."""

    kind: Literal["face", "sphere"]
    detail: int

    @property
    def vertices(self) -> int:
        """V."""
        return FACE_VERTICES[self.detail] if self.kind == "face" else 24 * self.detail**2 + 2

    @property
    def triangles(self) -> int:
        """T."""
        return FACE_TRIANGLES[self.detail] if self.kind == "face" else 48 * self.detail**2

    def on(self, device: str) -> tuple[Tensor, Tensor]:  # [V, 3] float32, [T, 3] int32
        """Vertices around the origin in the axes of a camera that looks at them, mm, and triangles; always the same."""
        return _mesh(self, device)


def face(level: int) -> Mesh:
    """The template's face at a level of subdivision, 0 to 2."""
    return Mesh("face", level)


def sphere_of(vertices: int) -> Mesh:
    """The sphere with about so many vertices."""
    return Mesh("sphere", round(math.sqrt((vertices - 2) / 24)))


@dataclass(frozen=True)
class Scene:
    """Subjects, each in so many frames, seen by cameras with square images; and where it stands in the suites."""

    subjects: int
    frames: int
    mesh: Mesh
    image: int
    """Side in pixels."""
    suites: str = "gpu"
    """Names with spaces in between."""
    sweep: str = ""
    x: float = 0.0

    @property
    def count(self) -> int:
        """F, frames of all subjects."""
        return self.subjects * self.frames

    @property
    def pixels(self) -> int:
        """Pixels of all frames."""
        return self.count * self.image**2

    def __str__(self) -> str:
        return f"{self.subjects} x {self.frames}, {self.mesh.vertices:,} vertices, {self.image} px"

    def views(self, random: Random) -> Inputs:
        """Draws meshes in random poses.

        Vertices [F, V, 3] in camera space, triangles [T, 3], Ks [F, 3, 3], height, width.
        """
        points, triangles = self.mesh.on(random.device)
        vertices = points @ random.rotations(self.count).transpose(1, 2)
        vertices += random.uniform(self.count, 1, 3, low=-10.0, high=10.0)
        vertices[..., 2] += DISTANCE
        Ks = camera(self.image, random.device).repeat(self.count, 1, 1)
        return {"vertices": vertices, "triangles": triangles, "Ks": Ks, "height": self.image, "width": self.image}


def camera(size: int, device: str) -> Tensor:  # [3, 3]
    """Returns the intrinsics of a square image."""
    return torch.tensor([[FOCAL * size, 0, size / 2], [0, FOCAL * size, size / 2], [0, 0, 1]], device=device)


def sphere_image(mesh: Mesh) -> int:
    """Returns the image's side for which a sphere's visible triangles, half of them, are SPHERE_AREA large."""
    disk = math.pi * (FOCAL * RADIUS / DISTANCE) ** 2  # shares of the image
    return max(1, round(math.sqrt(SPHERE_AREA * mesh.triangles / 2 / disk)))


def soup(random: Random, frames: int, triangles: int, area: float, size: int) -> Inputs:
    """Draws equilateral triangles of `area` pixels, anywhere, turned and tilted; returned as by `Scene.views`."""
    radius = math.sqrt(area * 4 / (3 * math.sqrt(3)))
    angle = random.uniform(frames, triangles, 1, high=2 * math.pi)
    angle = angle - torch.arange(3, device=random.device) * (2 * math.pi / 3)
    corners = radius * torch.stack([angle.cos(), angle.sin()], -1)  # [F, T, 3, 2]
    at = random.uniform(frames, triangles, 1, 2, high=float(size)) + corners
    depth = DISTANCE + random.uniform(frames, triangles, 1, 1, low=-100.0, high=100.0)
    depth = depth + random.uniform(frames, triangles, 3, 1, low=-5.0, high=5.0)
    vertices = torch.cat([(at - size / 2) / (FOCAL * size) * depth, depth], -1).flatten(1, 2)
    return {
        "vertices": vertices,
        "triangles": torch.arange(3 * triangles, dtype=torch.int32, device=random.device).view(-1, 3),
        "Ks": camera(size, random.device).repeat(frames, 1, 1),
        "height": size,
        "width": size,
    }


def sphere(n: int, radius: float) -> tuple[Tensor, Tensor]:  # [24 n^2 + 2, 3] float64, [48 n^2, 3] int32
    """Blows up a cube of 8 n^2 triangles a face to a sphere around 0; counter-clockwise seen from outside."""
    i, j = torch.meshgrid(torch.arange(-n, n), torch.arange(-n, n), indexing="ij")
    i, j = i.reshape(-1), j.reshape(-1)
    quads = []
    for axis in range(3):
        for side in (-n, n):
            fixed = torch.full_like(i, side)
            square = [(fixed, i, j), (fixed, i + 1, j), (fixed, i + 1, j + 1), (fixed, i, j + 1)]
            quad = torch.stack([torch.stack(c[3 - axis :] + c[: 3 - axis], -1) for c in square], 1)
            quads.append(quad if side > 0 else quad.flip(1))
    lattice = torch.cat(quads) + n  # [24 n^2, 4, 3]
    key = (lattice[..., 0] * (2 * n + 1) + lattice[..., 1]) * (2 * n + 1) + lattice[..., 2]
    used, corners = torch.unique(key, return_inverse=True)
    points = torch.stack([used // (2 * n + 1) ** 2, used // (2 * n + 1) % (2 * n + 1), used % (2 * n + 1)], -1) - n
    points = torch.tan(points.double() / n * (math.pi / 4))
    triangles = torch.cat([corners[:, [0, 1, 2]], corners[:, [0, 2, 3]]]).int()
    return points / points.norm(dim=1, keepdim=True) * radius, triangles


@cache
def template(level: int, device: str) -> FaceTemplate:
    """Loads the shipped template onto a device, once."""
    return FaceTemplate.default(level).to(device)


@cache
def _mesh(mesh: Mesh, device: str) -> tuple[Tensor, Tensor]:
    if mesh.kind == "face":
        head = template(mesh.detail, device)
        # From y up and z towards the camera to the camera's own axes; the middle of the face instead of its landmarks'.
        middle = (head.vertices.amin(0) + head.vertices.amax(0)) / 2
        return (head.vertices - middle) * head.vertices.new_tensor([1.0, -1.0, -1.0]), head.triangles
    points, triangles = sphere(mesh.detail, RADIUS)
    return points.float().to(device), triangles.to(device)
