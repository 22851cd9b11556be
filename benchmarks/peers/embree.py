"""Embree (Apache-2.0), Intel's ray caster for CPUs, through embreex (BSD), which casts on one thread.

The tree over a frame's triangles is built in each call, as vertices move. Rays have z = 1, so that the distance along
one is camera z.
"""

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness.case import Inputs, Outputs
from benchmarks.harness.providers import Difference
from benchmarks.peers.common import indices, missing
from fmlfast.kernels.common.cache import TensorCache

NAME = "embree"
GRADIENTS = False
CPU_ONLY = True
DIFFERS = {"rasterize": Difference("rounds pixels on edges otherwise", 2e-2, 0.0)}

_rays = TensorCache()


def available() -> str:
    """It has no kernels for GPUs."""
    return missing("embreex.mesh_construction")


def _directions(inputs: Inputs) -> Tensor:  # [F, H W, 3]
    """Rays through the centres of pixels."""
    Ks, height, width = inputs["Ks"], inputs["height"], inputs["width"]

    def make() -> Tensor:
        row, column = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
        pixels = torch.stack([column, row, torch.ones_like(row)]).double().flatten(1)
        return (torch.linalg.inv(Ks.detach().double()) @ pixels).transpose(1, 2).float().contiguous()

    return _rays.get(Ks, (height, width), make)


def _cast(vertices: Tensor, triangles: Tensor, directions: Tensor) -> tuple[Tensor, ...]:  # [V, 3], [T, 3], [N, 3]
    """Weights of the second and third corner, distance and triangle of one frame's rays, [N] each."""
    library: Any = importlib.import_module("embreex.rtcore_scene")
    scene = library.EmbreeScene()
    importlib.import_module("embreex.mesh_construction").TriangleMesh(
        scene, vertices.detach().contiguous().numpy(), triangles.numpy()
    )
    hits = scene.run(torch.zeros_like(directions).numpy(), directions.numpy(), query="INTERSECT", output=1)
    return tuple(torch.from_numpy(hits[name]) for name in ("u", "v", "tfar", "primID"))


def rasterize(inputs: Inputs) -> Outputs:
    """Barycentrics [F, H, W, 3], depth [F, H, W], triangles [F, H, W]; `near` is not looked at."""
    if inputs.get("cull_backfaces"):
        raise ValueError("Embree hits both sides")
    vertices, size = inputs["vertices"], (inputs["height"], inputs["width"])
    triangles = indices(inputs["triangles"], torch.int32)
    frames = [_cast(own, triangles, rays) for own, rays in zip(vertices, _directions(inputs), strict=True)]
    second, third, depth, ids = (torch.stack(parts).view(-1, *size) for parts in zip(*frames, strict=True))
    covered = ids >= 0
    barycentrics = torch.stack([1 - second - third, second, third], -1)
    return torch.where(covered[..., None], barycentrics, 0.0), torch.where(covered, depth, torch.inf), ids


RUNS: dict[str, Callable[[Inputs], Outputs]] = {"rasterize": rasterize}
