"""What camera-space and clip-space rasterisation share: checks, the choice of the backend's kernels, and autograd."""

from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .common.backend import Backend
from .common.checks import check_size, check_triangles
from .common.fragments import Fragments
from .common.picture import Picture

_LARGEST = 1 << 15  # rows and columns: pixel centres and counts of pixels stay exact in 32 bits
_MOST = (1 << 31) - (1 << 20)  # triangles, for the same reason


def rasterized(
    vertices: Tensor,  # [F, V, 3] camera space, [F, V, 4] clip space, [V, 4] with ranges
    triangles: Tensor,  # [T, 3]
    Ks: Tensor | None,  # [F, 3, 3]
    picture: Picture,
    backend: Backend,
) -> Fragments:  # [F, H, W]
    """Draws a picture whose barycentrics, depth and derivatives have gradients to the vertices; nothing is checked."""
    return Fragments(*_Rasterize.apply(vertices, triangles, Ks, picture, backend))


class _Rasterize(torch.autograd.Function):
    """Both backends' `draw` with their `gradient`; the picture keeps no graph."""

    @staticmethod
    def forward(
        ctx: Any, vertices: Tensor, triangles: Tensor, Ks: Tensor | None, picture: Picture, backend: Backend
    ) -> tuple[Tensor | None, ...]:
        drawn = _implementation(backend).draw(vertices, triangles, Ks, picture)
        ctx.backend = backend
        ctx.save_for_backward(vertices, triangles, Ks, drawn[0])
        ctx.mark_non_differentiable(drawn[0])
        return drawn

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, _: Tensor, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
        gradient = _implementation(ctx.backend).gradient
        vertices = ctx.saved_tensors[0]
        with torch.autocast(vertices.device.type, enabled=False):
            return gradient(*ctx.saved_tensors, *upstream), *(None,) * 4


def check_mesh(triangles: Tensor, vertices: int, like: tuple[str, Tensor]) -> None:
    """Raises ValueError unless `triangles` is [T, 3] with indices in [0, vertices), and not too many."""
    if isinstance(triangles, Tensor) and len(triangles.shape) == 2 and len(triangles) > _MOST:
        raise ValueError(f"triangles must be at most {_MOST}, not {len(triangles)}: draw parts and keep the nearest")
    check_triangles(triangles, vertices, like)


def check_image_size(height: int, width: int) -> None:
    """Raises ValueError unless height and width are ints from 1 to 32768."""
    check_size("height", height, _LARGEST)
    check_size("width", width, _LARGEST)


def _implementation(backend: Backend) -> ModuleType:
    if backend == "triton":
        from . import rasterize_triton as implementation  # not before: Triton is not on every platform
    else:
        from . import rasterize_torch as implementation
    return implementation
