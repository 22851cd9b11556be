"""Z-buffered triangle rasterisation made for meshes whose triangles are about a pixel large.

Rules, which every backend keeps to the bit:

- A pixel is hit where its centre (x + 0.5, y + 0.5) lies inside the projected triangle. A centre exactly on an edge
  counts as moved a little to the right and much less down (the top-left rule), so that of the triangles sharing an edge
  exactly one hits it.
- The edge function of the vertices a, b at the centre p is (a.x - p.x)(b.y - p.y) - (a.y - p.y)(b.x - p.x). It is
  relative to the pixel, so its error shrinks with the distance to the pixel; it is computed without fused multiply-add,
  so that swapping a and b exactly flips its sign and both triangles of a shared edge see the same number.
- A vertex nearer than `near` cannot be projected; it stays homogeneous, (x, y, w) = K X / near, and p.x, p.y above are
  multiplied by its w. This clips at the near plane without cutting triangles (Olano and Greer, Triangle Scan Conversion
  using 2D Homogeneous Coordinates, 1997).
- The nearest triangle wins, of equal depths the one of lower index: the minimum of depth_bits << 32 | index.
"""

from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .common.backend import Backend, choose_backend
from .common.checks import check_intrinsics, check_size, check_tensor, check_triangles
from .common.fragments import Fragments as Fragments

_LARGEST = 1 << 15  # rows and columns: pixel centres and counts of pixels stay exact in 32 bits
_MOST = (1 << 31) - (1 << 20)  # triangles, for the same reason


def rasterize(
    vertices: Tensor,  # [F, V, 3]
    triangles: Tensor,  # [T, 3]
    Ks: Tensor,  # [F, 3, 3]
    height: int,
    width: int,
    cull_backfaces: bool = False,
    near: float = 1.0,
    backend: Backend | None = None,
) -> Fragments:
    """Finds the nearest triangle at every pixel centre, and where the pixel's ray meets it.

    Barycentrics and depth are differentiable with respect to the vertices, once; which triangle a pixel sees is a
    constant, and so are the cameras. Triangles with a non-finite corner and degenerate ones are left out, those
    reaching behind `near` are clipped. Several frames share one call; the time goes with the triangles and with the
    pixels that they cover.

    Args:
        vertices: [F, V, 3] float32, camera space (x right, y down, z forward), mm.
        triangles: [T, 3] int32 or int64, counter-clockwise seen from outside.
        Ks: [F, 3, 3] float32, intrinsics in pixels, last row (0, 0, 1).
        height: rows of the image, 1 to 32768.
        width: columns of the image, 1 to 32768.
        cull_backfaces: leave out triangles seen from inside.
        near: nearest visible z, mm, > 0.
        backend: "torch", "triton", or None for the device's own.

    Raises:
        ValueError: wrong shape, dtype, device, value or memory layout, naming the argument.
    """
    _check(vertices, triangles, Ks, height, width, near)
    backend = choose_backend(backend, vertices)
    return Fragments(
        *_Rasterize.apply(vertices, triangles, Ks.detach(), height, width, cull_backfaces, float(near), backend)
    )


class _Rasterize(torch.autograd.Function):
    """Both backends' `draw` with their `gradient`; the picture keeps no graph."""

    @staticmethod
    def forward(
        ctx: Any,
        vertices: Tensor,
        triangles: Tensor,
        Ks: Tensor,
        height: int,
        width: int,
        cull_backfaces: bool,
        near: float,
        backend: Backend,
    ) -> tuple[Tensor, Tensor, Tensor]:
        picture = _implementation(backend).draw(vertices, triangles, Ks, height, width, cull_backfaces, near)
        ctx.backend = backend
        ctx.save_for_backward(vertices, triangles, Ks, picture[0])
        ctx.mark_non_differentiable(picture[0])
        return picture

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, _: Tensor, barycentrics_grad: Tensor, depth_grad: Tensor) -> tuple[Tensor | None, ...]:
        gradient = _implementation(ctx.backend).gradient
        with torch.autocast(depth_grad.device.type, enabled=False):
            return gradient(*ctx.saved_tensors, barycentrics_grad, depth_grad), *(None,) * 7


def _implementation(backend: Backend) -> ModuleType:
    if backend == "triton":
        from . import rasterize_triton as implementation  # not before: Triton is not on every platform
    else:
        from . import rasterize_torch as implementation
    return implementation


def _check(vertices: Tensor, triangles: Tensor, Ks: Tensor, height: int, width: int, near: float) -> None:
    single = (torch.float32,)  # what the rules above are defined in
    check_tensor("vertices", vertices, ("F", "V", 3), single)
    if isinstance(triangles, Tensor) and len(triangles.shape) == 2 and len(triangles) > _MOST:
        raise ValueError(f"triangles must be at most {_MOST}, not {len(triangles)}: draw parts and keep the nearest")
    check_triangles(triangles, vertices.shape[1], ("vertices", vertices))
    check_intrinsics(Ks, len(vertices), single, ("vertices", vertices))
    check_size("height", height, _LARGEST)
    check_size("width", width, _LARGEST)
    if not isinstance(near, (int, float)) or not 0 < near < float("inf"):
        raise ValueError(f"near must be a positive number of millimetres, not {near!r}")
