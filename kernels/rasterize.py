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
- The nearest triangle wins, of equal depths the one of lower index: the minimum of depth_bits << 32 | index. In
  float64, which the torch backend takes, the nearest depth of a pixel comes first, then the lowest index with it.
"""

from torch import Tensor

from .common.backend import Backend, choose_backend
from .common.checks import check_intrinsics, check_tensor
from .common.fragments import Fragments as Fragments
from .common.picture import Picture
from .rasterize_autograd import check_image_size, check_mesh, rasterized


def rasterize(
    vertices: Tensor,  # [F, V, 3]
    triangles: Tensor,  # [T, 3]
    Ks: Tensor,  # [F, 3, 3]
    height: int,
    width: int,
    cull_backfaces: bool = False,
    near: float = 1.0,
    derivatives: bool = False,
    backend: Backend | None = None,
) -> Fragments:
    """Finds the nearest triangle at every pixel centre, and where the pixel's ray meets it.

    Barycentrics, their derivatives and depth are differentiable with respect to the vertices, once; which triangle a
    pixel sees is a constant, and so are the cameras. Triangles with a non-finite corner and degenerate ones are left
    out, those reaching behind `near` are clipped. Several frames share one call; the time goes with the triangles and
    with the pixels that they cover.

    Args:
        vertices: [F, V, 3] float32 or float64 (torch backend), camera space (x right, y down, z forward), mm.
        triangles: [T, 3] int32 or int64, counter-clockwise seen from outside.
        Ks: [F, 3, 3] of the vertices' dtype, intrinsics in pixels, last row (0, 0, 1).
        height: rows of the image, 1 to 32768.
        width: columns of the image, 1 to 32768.
        cull_backfaces: leave out triangles seen from inside.
        near: nearest visible z, mm, > 0.
        derivatives: also find how the barycentrics change with the pixel.
        backend: "torch", "triton" (float32), or None for the device's own.

    Raises:
        ValueError: wrong shape, dtype, device, value or memory layout, naming the argument.
    """
    _check(vertices, triangles, Ks, height, width, near)
    backend = choose_backend(backend, vertices)
    picture = Picture(height, width, cull_backfaces, float(near), derivatives=derivatives)
    return rasterized(vertices, triangles, Ks.detach(), picture, backend)


def _check(vertices: Tensor, triangles: Tensor, Ks: Tensor, height: int, width: int, near: float) -> None:
    check_tensor("vertices", vertices, ("F", "V", 3))
    check_mesh(triangles, ("vertices", vertices))
    check_intrinsics(Ks, len(vertices), (vertices.dtype,), ("vertices", vertices))
    check_image_size(height, width)
    if not isinstance(near, (int, float)) or not 0 < near < float("inf"):
        raise ValueError(f"near must be a positive number of millimetres, not {near!r}")
