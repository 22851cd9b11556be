"""Helps the peers: loading a library, and projection by one matrix product."""

import importlib

import torch
from torch import Tensor

from benchmarks.harness.case import Inputs
from fmlfast.camera import to_nvdiffrast
from fmlfast.kernels.common.cache import TensorCache

FAR = 1e5
"""mm; the far plane, beyond everything."""
NEAR = 1.0
"""mm; the near plane where the inputs have none, as in `fmlfast.rasterize`."""

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


def to_clip(vertices: Tensor, inputs: Inputs, height: int, width: int) -> Tensor:  # [F, V, 4]
    """OpenGL's clip space with y down, so that row 0 is on top, by the matrix that `to_nvdiffrast` is."""
    Ks, near = inputs["Ks"], float(inputs.get("near", NEAR))

    def make() -> Tensor:
        basis = torch.cat([torch.eye(3), torch.zeros(1, 3)]).to(Ks).expand(len(Ks), -1, -1)
        rows = to_nvdiffrast(basis, Ks.detach(), height, width, near, FAR)  # [F, 4 points, 4]
        return torch.cat([rows[:, :3] - rows[:, 3:], rows[:, 3:]], 1).transpose(1, 2).contiguous()

    return transformed(vertices, _constants.get(Ks, ("clip", height, width, near), make), inputs)


def divided(points: Tensor) -> Tensor:  # [F, V, 3]
    """(x, y, z) -> (x / z, y / z, z)."""
    return torch.cat([points[..., :2] / points[..., 2:], points[..., 2:]], -1)


def on_background(image: Tensor, covered: Tensor, inputs: Inputs) -> Tensor:  # [F, H, W, C], [F, H, W, 1]
    """Puts the image on the inputs' background, or 0, where nothing is seen."""
    background = inputs.get("background")
    return torch.where(covered, image, image.new_zeros(()) if background is None else background)
