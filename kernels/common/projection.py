"""The pinhole camera: u = (fx X + s Y) / Z + cx, v = fy Y / Z + cy, for points in camera space.

Floating point depends on the order. `project` divides first, as rasterisation and antialiasing do, whose numbers are
the kernels' to the bit; `image_offset` is for those that divide last, and so have the offsets for a gradient too.
`projection_triton` has the same functions for kernels.
"""

from torch import Tensor

Camera = tuple[Tensor, ...]
"""Six numbers fx, s, cx, 0, fy, cy: the first two rows of K."""


def camera_of(
    Ks: Tensor,  # [..., 3, 3]
) -> Camera:  # six of [...]
    """Takes the first two rows of K apart."""
    return Ks[..., :2, :].flatten(-2).unbind(-1)


def project(
    camera: Camera,  # broadcast against the points
    x: Tensor,  # [...]
    y: Tensor,  # [...]
    inverse: Tensor,  # [...] 1 / z
    w: Tensor | float = 1.0,  # [...] z * inverse, other than 1 where `inverse` is not 1 / z
) -> tuple[Tensor, Tensor]:  # [...] twice
    """Projects points to pixel coordinates, homogeneous ones if w is not 1: K (x, y, z) * inverse."""
    k00, k01, k02, k10, k11, k12 = camera
    x, y = x * inverse, y * inverse
    return k00 * x + k01 * y + k02 * w, k10 * x + k11 * y + k12 * w


def image_offset(
    camera: Camera,  # broadcast against the points
    x: Tensor,  # [...]
    y: Tensor,  # [...]
) -> tuple[Tensor, Tensor]:  # [...] twice
    """Multiplies points by the focal lengths; divided by z, offsets from the principal point in pixels."""
    return camera[0] * x + camera[1] * y, camera[4] * y
