"""DRTK, Differentiable Rendering Toolkit (MIT): https://github.com/facebookresearch/DRTK.

x and y of its vertices are pixels, and pixel centres are integers; z is camera space's. Triangles that reach behind the
camera are left out. Images are [N, C, H, W]. Its silhouettes are not blended: they only give gradients.
"""

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness.case import Inputs, Outputs
from benchmarks.harness.providers import Difference
from benchmarks.peers.common import divided, indices, missing, on_background, transformed
from fmlfast.kernels.common.cache import TensorCache

NAME = "drtk"
DIFFERS = {
    "rasterize": Difference("rounds pixels on edges otherwise", 2e-3, 0.1),
    "antialias": Difference("edge_grad_estimator leaves the image as it is and only has gradients", 0.5, 2.0),
    "render": Difference("edge_grad_estimator leaves outlines hard and only gives them gradients", 0.3, 2.0),
}

_cameras = TensorCache()


def available() -> str:
    """Its rasterizer has kernels for GPU and CPU."""
    return missing("drtk")


def _drtk() -> Any:
    return importlib.import_module("drtk")


def to_pixels(vertices: Tensor, inputs: Inputs) -> Tensor:  # [F, V, 3]
    """(u - 0.5, v - 0.5, z)."""
    Ks = inputs["Ks"]

    def make() -> Tensor:
        matrices = torch.nn.functional.pad(Ks.detach(), (0, 1))
        matrices[:, :2, 2] -= 0.5
        return matrices

    return divided(transformed(vertices, _cameras.get(Ks, "pixels", make), inputs))


def _mesh(inputs: Inputs, frames: int) -> Tensor:  # [F, T, 3]
    return indices(inputs["triangles"], torch.int32).expand(frames, -1, -1)


def rasterize(inputs: Inputs) -> Outputs:
    """Barycentrics [F, H, W, 3], depth [F, H, W], triangles [F, H, W]; `near` is not looked at."""
    if inputs.get("cull_backfaces"):
        raise ValueError("DRTK draws both sides")
    drtk = _drtk()
    pixels = to_pixels(inputs["vertices"], inputs)
    mesh = _mesh(inputs, len(pixels))
    ids = drtk.rasterize(pixels, mesh, inputs["height"], inputs["width"])
    depth, barycentrics = drtk.render(pixels, mesh, ids)
    return barycentrics.permute(0, 2, 3, 1), torch.where(ids >= 0, depth, torch.inf), ids


def interpolate(inputs: Inputs) -> Outputs:
    """[F, H, W, C]; empty pixels are cleared, which DRTK leaves to its user."""
    ids = inputs["triangle_id"]
    attributes = inputs["attributes"].expand(len(ids), -1, -1)
    weights = inputs["barycentrics"].permute(0, 3, 1, 2)
    image = _drtk().interpolate(attributes, _mesh(inputs, len(ids)), ids, weights)
    return (torch.where((ids >= 0)[:, None], image, 0.0).permute(0, 2, 3, 1),)


def antialias(inputs: Inputs) -> Outputs:
    """[F, H, W, C]: the image, through which silhouettes now have gradients."""
    ids = inputs["triangle_id"]
    image = _drtk().edge_grad_estimator(
        v_pix=to_pixels(inputs["vertices"], inputs),
        vi=_mesh(inputs, len(ids)),
        bary_img=inputs["barycentrics"].permute(0, 3, 1, 2),
        img=inputs["image"].permute(0, 3, 1, 2),
        index_img=ids,
    )
    return (image.permute(0, 2, 3, 1),)


def render(inputs: Inputs) -> Outputs:
    """[F, H, W, C]: colours on the background, with gradients at silhouettes where `antialiased`."""
    drtk = _drtk()
    pixels = to_pixels(inputs["vertices"], inputs)
    mesh = _mesh(inputs, len(pixels))
    ids = drtk.rasterize(pixels, mesh, inputs["height"], inputs["width"])
    _, weights = drtk.render(pixels, mesh, ids)
    colors = inputs["colors"].expand(len(pixels), -1, -1)
    image = drtk.interpolate(colors, mesh, ids, weights).permute(0, 2, 3, 1)
    image = on_background(image, (ids >= 0)[..., None], inputs)
    if inputs.get("antialiased", True):
        image = drtk.edge_grad_estimator(
            v_pix=pixels, vi=mesh, bary_img=weights, img=image.permute(0, 3, 1, 2), index_img=ids
        ).permute(0, 2, 3, 1)
    return (image,)


RUNS: dict[str, Callable[[Inputs], Outputs]] = {
    "rasterize": rasterize,
    "interpolate": interpolate,
    "antialias": antialias,
    "render": render,
}
