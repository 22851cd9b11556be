"""Helps the peers: loading a library, and projection by one matrix product."""

import importlib

import torch
from torch import Tensor

from benchmarks.harness.case import Inputs
from fmlfast.kernels.common.cache import TensorCache

_constants = TensorCache()


def missing(module: str, gpu: bool = False) -> str:
    """Says why `module` cannot be used here, or nothing."""
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        own = error.name is not None and error.name.split(".")[0] == module.split(".")[0]
        return "not installed" if own else f"needs {error.name}"
    except (ImportError, OSError) as error:  # built for another torch
        return f"does not load: {error}"
    return "needs a GPU" if gpu and not torch.cuda.is_available() else ""


def indices(triangles: Tensor, dtype: torch.dtype) -> Tensor:  # [T, 3]
    """Converts the triangles to another integer type."""
    if triangles.dtype == dtype:
        return triangles
    return _constants.get(triangles, dtype, lambda: triangles.to(dtype))


def transformed(points: Tensor, matrices: Tensor, inputs: Inputs) -> Tensor:  # [F, V, 3], [F, R, 4] -> [F, V, R]
    """Multiplies points by affine matrices from camera space, after `viewmats` if any; in one product."""
    if "viewmats" in inputs:
        matrices = matrices @ inputs["viewmats"]
    points = points.expand(len(matrices), -1, -1)
    return torch.baddbmm(matrices[:, None, :, 3], points, matrices[..., :3].transpose(1, 2))


def divided(points: Tensor) -> Tensor:  # [F, V, 3]
    """(x, y, z) -> (x / z, y / z, z)."""
    return torch.cat([points[..., :2] / points[..., 2:], points[..., 2:]], -1)


def on_background(image: Tensor, covered: Tensor, inputs: Inputs) -> Tensor:  # [F, H, W, C], [F, H, W, 1]
    """Puts the image on the inputs' background, or 0, where nothing is seen."""
    background = inputs.get("background")
    return torch.where(covered, image, image.new_zeros(()) if background is None else background)
