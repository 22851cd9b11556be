"""nvdiffrast (non-commercial licence, so it is only used where its user installed it): https://nvlabs.github.io/nvdiffrast.

Its results are (u, v, z / w, triangle + 1), u and v the weights of a triangle's first two corners; 0 where nothing is
seen. Clip space is OpenGL's, with y down as `fmlfast.camera.to_nvdiffrast` makes it, so that row 0 is on top.
"""

import importlib
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness.case import Inputs, Outputs
from benchmarks.harness.providers import Difference
from benchmarks.peers.common import FAR, NEAR, indices, missing, on_background, to_clip
from fmlfast.kernels.common.cache import TensorCache

NAME = "nvdiffrast"
_SNAPS = "moves vertices to sixteenths of a pixel, so small triangles win and lose pixels"
DIFFERS = {
    "rasterize": Difference(_SNAPS, 0.3, 1.5),
    "interpolate": Difference("u and v have gradients, not three weights; on the plane of sum 1 they agree", 1e-4, 2.0),
    "antialias": Difference("blends only at silhouettes of triangles that are seen themselves", 0.5, 2.0),
    "render": Difference(f"{_SNAPS}; blends only at silhouettes of triangles that are seen", 0.5, 2.0),
}

_kept = TensorCache()


def available() -> str:
    """It runs on NVIDIA GPUs alone."""
    return missing("nvdiffrast.torch", gpu=True)


def _library() -> Any:
    return importlib.import_module("nvdiffrast.torch")


@cache
def _context(device: torch.device) -> Any:
    return _library().RasterizeCudaContext(device)


def _mesh(inputs: Inputs) -> Tensor:  # [T, 3]
    return indices(inputs["triangles"], torch.int32)


def _draw(clip: Tensor, inputs: Inputs) -> Tensor:  # [F, H, W, 4]
    if inputs.get("cull_backfaces"):
        raise ValueError("nvdiffrast draws both sides")
    size = inputs["height"], inputs["width"]
    return _library().rasterize(_context(clip.device), clip, _mesh(inputs), size, grad_db=False)[0]


def rasterize(inputs: Inputs) -> Outputs:
    """Barycentrics [F, H, W, 3], depth [F, H, W], triangles [F, H, W].

    z / w has no gradient, so depth is interpolated from the vertices' z.
    """
    vertices = inputs["vertices"]
    seen = _draw(to_clip(vertices, inputs, inputs["height"], inputs["width"]), inputs)
    covered = seen[..., 3] > 0
    u, v = seen[..., 0], seen[..., 1]
    depth, _ = _library().interpolate(vertices[..., 2:].contiguous(), seen, _mesh(inputs))
    barycentrics = torch.stack([u, v, covered.to(u.dtype) - u - v], -1)
    return barycentrics, torch.where(covered, depth[..., 0], torch.inf), seen[..., 3].int() - 1


def interpolate(inputs: Inputs) -> Outputs:
    """[F, H, W, C]."""
    ids = inputs["triangle_id"]

    def make() -> Tensor:  # z / w, which does not matter here, and triangle + 1
        return torch.stack([torch.zeros_like(ids), ids + 1], -1).float()

    seen = torch.cat([inputs["barycentrics"][..., :2], _kept.get(ids, "tail", make)], -1)
    return (_library().interpolate(inputs["attributes"], seen, _mesh(inputs))[0],)


def antialias(inputs: Inputs) -> Outputs:
    """[F, H, W, C]."""
    ids, depth, near = inputs["triangle_id"], inputs["depth"], float(inputs.get("near", NEAR))

    def make() -> Tensor:
        normalized = (FAR + near - 2 * FAR * near / depth) / (FAR - near)
        tail = torch.stack([torch.where(ids >= 0, normalized, 0.0), (ids + 1).float()], -1)
        return torch.cat([inputs["barycentrics"][..., :2], tail], -1).detach()

    clip = to_clip(inputs["vertices"], inputs, *ids.shape[1:])
    return (_blend(inputs["image"], _kept.get(depth, near, make), clip, _mesh(inputs)),)


def _blend(image: Tensor, seen: Tensor, clip: Tensor, mesh: Tensor) -> Tensor:
    library = _library()
    edges = _kept.get(mesh, "edges", lambda: library.antialias_construct_topology_hash(mesh))
    return library.antialias(image.contiguous(), seen, clip, mesh, topology_hash=edges)


def render(inputs: Inputs) -> Outputs:
    """[F, H, W, C]: colours on the background."""
    mesh = _mesh(inputs)
    clip = to_clip(inputs["vertices"], inputs, inputs["height"], inputs["width"])
    seen = _draw(clip, inputs)
    image, _ = _library().interpolate(inputs["colors"], seen, mesh)
    image = on_background(image, seen[..., 3:] > 0, inputs)
    return (_blend(image, seen, clip, mesh) if inputs.get("antialiased", True) else image,)


RUNS: dict[str, Callable[[Inputs], Outputs]] = {
    "rasterize": rasterize,
    "interpolate": interpolate,
    "antialias": antialias,
    "render": render,
}
