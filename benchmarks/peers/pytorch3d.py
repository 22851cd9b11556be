"""PyTorch3D (BSD): https://github.com/facebookresearch/pytorch3d, its rasterizer as it chooses its bins itself.

Normalised device coordinates have x to the left and y up, the shorter side of the image spans [-1, 1], and z is camera
space's. A pixel sees the nearest of `faces_per_pixel=1` triangles; those that reach behind the camera are left out.
"""

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.harness.case import Inputs, Outputs
from benchmarks.harness.providers import Difference
from benchmarks.peers.common import divided, indices, missing, on_background, transformed
from fmlfast.kernels.common.cache import TensorCache

NAME = "pytorch3d"
DIFFERS = {
    "rasterize": Difference("a centre on an edge is in no triangle, and rounds otherwise", 2e-3, 0.1),
    "render": Difference("no antialiasing, so outlines are hard and have no gradients", 0.3, 2.0),
}

MOST_LOOKS = 1e9
"""Pixels times triangles that are tried on a CPU, which looks at every triangle for every pixel, 2e8 a second."""

_kept = TensorCache()


class Bins(NamedTuple):
    """Squares of `size` pixels that triangles are sorted into, or None for PyTorch3D's choice, or 0 for none."""

    size: int | None = None
    most: int | None = None
    """Room for triangles in each; None for PyTorch3D's choice."""


class Seen(NamedTuple):
    """What its rasterizer returns, for the nearest triangle."""

    triangles: Tensor  # [F, H, W, 1] int64, counted over all frames; -1 where there is none
    depth: Tensor  # [F, H, W, 1]
    barycentrics: Tensor  # [F, H, W, 1, 3]


def available() -> str:
    """It has kernels for GPU and CPU."""
    return missing("pytorch3d.renderer.mesh.rasterize_meshes")


def to_ndc(vertices: Tensor, inputs: Inputs) -> Tensor:  # [F, V, 3]
    """(x, y, z) in normalised device coordinates."""
    Ks, height, width = inputs["Ks"], inputs["height"], inputs["width"]

    def make() -> Tensor:
        matrices = torch.nn.functional.pad(Ks.detach(), (0, 1))
        matrices[:, :2, 2] -= torch.tensor([width / 2, height / 2]).to(Ks)
        matrices[:, :2] *= -2 / min(height, width)
        return matrices

    return divided(transformed(vertices, _kept.get(Ks, (height, width), make), inputs))


def _meshes(vertices: Tensor, triangles: Tensor) -> Any:
    """Meshes of these vertices; the tables of the triangles are made once."""
    frames, count, _ = vertices.shape

    def make() -> Any:
        structures = importlib.import_module("pytorch3d.structures")
        faces = triangles.long().repeat(frames, 1, 1)
        meshes = structures.Meshes(verts=vertices.new_zeros(frames, count, 3), faces=faces)
        meshes.verts_packed()  # makes the tables that `update_padded` passes on
        return meshes

    return _kept.get(triangles, (frames, count), make).update_padded(vertices)


def draw(inputs: Inputs, bins: Bins) -> Seen:
    """`near` is not looked at. Raises TimeoutError where a CPU would take too long."""
    looks = len(inputs["vertices"]) * inputs["height"] * inputs["width"] * len(inputs["triangles"])
    if inputs["vertices"].device.type == "cpu" and looks > MOST_LOOKS:
        raise TimeoutError(f"would look at {len(inputs['triangles']):,} triangles for every pixel, {looks / 2e8:.0f} s")
    rasterizer = importlib.import_module("pytorch3d.renderer.mesh.rasterize_meshes")
    triangles, depth, barycentrics, _ = rasterizer.rasterize_meshes(
        _meshes(to_ndc(inputs["vertices"], inputs), inputs["triangles"]),
        image_size=(inputs["height"], inputs["width"]),
        blur_radius=0.0,
        faces_per_pixel=1,
        bin_size=bins.size,
        max_faces_per_bin=bins.most,
        perspective_correct=True,
        cull_backfaces=inputs.get("cull_backfaces", False),
    )
    return Seen(triangles, depth, barycentrics)


def _first(frames: int, triangles: Tensor) -> Tensor:  # [F, 1, 1]
    """Number of each frame's first triangle, counted over all frames."""
    make = lambda: (torch.arange(frames, device=triangles.device) * len(triangles)).view(-1, 1, 1)  # noqa: E731
    return _kept.get(triangles, ("first", frames), make)


def rasterize(inputs: Inputs, bins: Callable[[Inputs], Bins]) -> Outputs:
    """Barycentrics [F, H, W, 3], depth [F, H, W], triangles [F, H, W]."""
    seen = draw(inputs, bins(inputs))
    triangles = seen.triangles[..., 0]
    covered = triangles >= 0
    ids = (triangles - _first(len(triangles), inputs["triangles"])).clamp(min=-1).int()
    barycentrics = torch.where(covered[..., None], seen.barycentrics[..., 0, :], 0.0)
    return barycentrics, torch.where(covered, seen.depth[..., 0], torch.inf), ids


def _interpolate(attributes: Tensor, triangles: Tensor, faces: Tensor, barycentrics: Tensor) -> Tensor:
    """[F or 1, V, C], [T, 3], faces [F, H, W, 1] and weights [F, H, W, 1, 3] -> [F, H, W, C]."""
    function = importlib.import_module("pytorch3d.ops.interp_face_attrs").interpolate_face_attributes
    corners = attributes[:, indices(triangles, torch.int64)].flatten(0, 1)  # [F T, 3, C]
    return function(faces, barycentrics, corners)[..., 0, :]


def interpolate(inputs: Inputs) -> Outputs:
    """[F, H, W, C]."""
    ids, attributes, triangles = inputs["triangle_id"], inputs["attributes"], inputs["triangles"]
    shared = len(attributes) == 1

    def make() -> Tensor:
        first = 0 if shared else _first(len(ids), triangles)
        return torch.where(ids >= 0, ids.long() + first, -1)[..., None]

    faces = _kept.get(ids, shared, make)
    return (_interpolate(attributes, triangles, faces, inputs["barycentrics"][:, :, :, None]),)


def vertex_normals(inputs: Inputs) -> Outputs:
    """[F, V, 3]."""
    vertices = inputs["vertices"]
    return (_meshes(vertices, inputs["triangles"]).verts_normals_packed().view(vertices.shape),)


def render(inputs: Inputs, bins: Callable[[Inputs], Bins]) -> Outputs:
    """[F, H, W, C]: colours on the background, never antialiased."""
    seen = draw(inputs, bins(inputs))
    colors = inputs["colors"].expand(len(seen.triangles), -1, -1)
    image = _interpolate(colors, inputs["triangles"], seen.triangles, seen.barycentrics)
    return (on_background(image, seen.triangles >= 0, inputs),)


def runs(bins: Callable[[Inputs], Bins]) -> dict[str, Callable[[Inputs], Outputs]]:
    """What depends on how triangles are sorted into bins, with bins chosen for the inputs."""
    return {"rasterize": partial(rasterize, bins=bins), "render": partial(render, bins=bins)}


RUNS = runs(lambda _: Bins()) | {"interpolate": interpolate, "vertex_normals": vertex_normals}
