"""What camera-space and clip-space rasterisation share: checks, and the operation with both backends' kernels."""

from types import ModuleType

import torch
from torch import Tensor

from .common.backend import Backend
from .common.checks import check_corners, check_size, check_triangles
from .common.custom_op import register
from .common.fragments import Fragments
from .common.picture import Layer, Picture

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
    layer = (None, None) if picture.behind is None else picture.behind
    barycentrics, depth, slopes, triangle_id = _rasterize(
        *(vertices, triangles, Ks, picture.ranges, *layer, picture.height, picture.width),
        *(picture.cull_backfaces, picture.near, picture.derivatives, backend),
    )
    return Fragments(triangle_id, barycentrics, depth, slopes if picture.derivatives else None)


def _forward(
    vertices: Tensor,  # [F, V, 3], [F, V, 4] in clip space, [V, 4] with ranges
    triangles: Tensor,  # [T, 3]
    Ks: Tensor | None,  # [F, 3, 3]
    ranges: Tensor | None,  # [F, 2]
    behind_id: Tensor | None,  # [F, H, W]
    behind_depth: Tensor | None,  # [F, H, W]
    height: int,
    width: int,
    cull_backfaces: bool,
    near: float,
    derivatives: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # [F, H, W, 3], [F, H, W], [F, H, W, 4] or [0], [F, H, W] int32
    """Draws a picture."""
    check_corners(triangles, vertices.shape[-2])
    if ranges is not None:
        _check_ranges(ranges, len(triangles))
    layer = None if behind_id is None or behind_depth is None else Layer(behind_id, behind_depth)
    picture = Picture(height, width, cull_backfaces, near, ranges, layer, derivatives)
    triangle_id, barycentrics, depth, slopes = _implementation(backend).draw(vertices, triangles, Ks, picture)
    return barycentrics, depth, vertices.new_empty(0) if slopes is None else slopes, triangle_id


def _backward(
    wanted: list[bool],
    grad_barycentrics: Tensor | None,  # [F, H, W, 3]
    grad_depth: Tensor | None,  # [F, H, W]
    grad_slopes: Tensor | None,  # [F, H, W, 4] or [0]
    vertices: Tensor,  # [F, V, 3], [F, V, 4] in clip space, [V, 4] with ranges
    triangles: Tensor,  # [T, 3]
    Ks: Tensor | None,  # [F, 3, 3]
    triangle_id: Tensor,  # [F, H, W]
    derivatives: bool,
    backend: str,
) -> list[Tensor]:  # as vertices
    """Differentiates by the vertices; the picture keeps no graph."""
    shape = triangle_id.shape
    upstream = (
        vertices.new_zeros(*shape, 3) if grad_barycentrics is None else grad_barycentrics,
        vertices.new_zeros(shape) if grad_depth is None else grad_depth,
        (vertices.new_zeros(*shape, 4) if grad_slopes is None else grad_slopes) if derivatives else None,
    )
    return [_implementation(backend).gradient(vertices, triangles, Ks, triangle_id, *upstream)]


def _fake(
    vertices: Tensor,
    triangles: Tensor,
    Ks: Tensor | None,
    ranges: Tensor | None,
    behind_id: Tensor | None,
    behind_depth: Tensor | None,
    height: int,
    width: int,
    cull_backfaces: bool,
    near: float,
    derivatives: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    shape = len(vertices) if ranges is None else len(ranges), height, width
    slopes = vertices.new_empty(*shape, 4) if derivatives else vertices.new_empty(0)
    ids = vertices.new_empty(shape, dtype=torch.int32)
    return vertices.new_empty(*shape, 3), vertices.new_empty(shape), slopes, ids


def check_mesh(triangles: Tensor, like: tuple[str, Tensor]) -> None:
    """Raises ValueError unless `triangles` is [T, 3], and not too many."""
    if isinstance(triangles, Tensor) and len(triangles.shape) == 2 and len(triangles) > _MOST:
        raise ValueError(f"triangles must be at most {_MOST}, not {len(triangles)}: draw parts and keep the nearest")
    check_triangles(triangles, like)


def check_image_size(height: int, width: int) -> None:
    """Raises ValueError unless height and width are ints from 1 to 32768."""
    check_size("height", height, _LARGEST)
    check_size("width", width, _LARGEST)


def _check_ranges(ranges: Tensor, triangles: int) -> None:
    first, count = ranges.long().unbind(1)
    if bool(((first < 0) | (count < 0) | (first + count > triangles)).any()):
        raise ValueError(f"ranges must be first triangle and number of triangles, within the {triangles} of triangles")


def _implementation(backend: str) -> ModuleType:
    if backend == "triton":
        from . import rasterize_triton as implementation  # not before: Triton is not on every platform
    else:
        from . import rasterize_torch as implementation
    return implementation


_rasterize = register(
    "rasterize",
    _forward,
    _backward,
    _fake,
    outputs=("barycentrics", "depth", "slopes", "triangle_id"),
    gradients_to=("vertices",),
)
