"""Cameras: the project's convention (OpenCV) and converters to others.

OpenCV: camera axes +x right, +y down, +z forward; pixel centres at +0.5; K = [[fx, s, cx], [0, fy, cy], [0, 0, 1]].
"""

from torch import Tensor


def project(points: Tensor, Ks: Tensor) -> Tensor:
    """Pixel coordinates of points in camera space, with gradients to both.

    u = (fx X + s Y) / Z + cx, v = fy Y / Z + cy.

    Args:
        points: [..., N, 3] floating point, camera space, any unit. A point with Z <= 0 has no image: mask it by its Z.
        Ks: [..., 3, 3], broadcast against the leading axes of points.

    Returns:
        [..., N, 2] pixels.

    Raises:
        ValueError: wrong shape.
    """
    if points.ndim < 2 or points.shape[-1] != 3:
        raise ValueError(f"points must be [..., N, 3], not {tuple(points.shape)}")
    if Ks.ndim < 2 or tuple(Ks.shape[-2:]) != (3, 3):
        raise ValueError(f"Ks must be [..., 3, 3], not {tuple(Ks.shape)}")
    rays = points[..., :2] / points[..., 2:]
    return rays @ Ks[..., :2, :2].transpose(-1, -2) + Ks[..., None, :2, 2]
