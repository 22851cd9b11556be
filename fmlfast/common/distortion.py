"""Lens distortion of points in camera space by OpenCV's models, and its inverse.

The ray q = (X, Y) / Z of length r goes to (f + 2 p.q) q + r^2 p with p = (p2, p1). Of "opencv" is

    f = (1 + k1 r^2 + k2 r^4 + k3 r^6) / (1 + k4 r^2 + k5 r^4 + k6 r^6)

and of "fisheye", with the angle t = atan(r), f = t (1 + k1 t^2 + k2 t^4 + k3 t^6 + k4 t^8) / r and p = 0
(https://docs.opencv.org/4.x/d9/d0c/group__calib3d.html and .../db/d58/group__calib3d__fisheye.html).

Such polynomials grow up to some radius only and then come back, so that what is far outside of the picture would be
seen in it. From the largest radius up to which distances from the centre grow, whatever the direction, rays are
scaled like the one at that radius, as are points behind the camera: distortion stays one to one, and continuous where a
triangle reaches behind the camera.
"""

import math
from typing import Literal

import torch
from torch import Tensor

from fmlfast.common.tensors import exact
from fmlfast.kernels.common.checks import check_tensor

LensModel = Literal["opencv", "fisheye"]

WIDEST = 100.0
"""Largest radius that is distorted, 89.4 degrees from the axis, far beyond any pinhole picture."""
_COUNTS = {"opencv": (4, 5, 8), "fisheye": (4,)}
_SAMPLES = 2048
_NEWTON_STEPS = 20


@exact
def distort(
    points: Tensor,  # [..., N, 3]
    coefficients: Tensor,  # [..., n]
    model: LensModel = "opencv",
) -> Tensor:  # [..., N, 3]
    """Moves camera-space points, at their depth, to where a pinhole camera sees them as the lens does.

    Project or rasterise what comes out in place of the points. Straight edges of triangles stay straight, so triangles
    should be small where the lens bends much. Gradients go to points and coefficients; the radius beyond which the
    model is continued, see above, is a constant.

    Args:
        points: [..., N, 3] float32 or float64, camera space (x right, y down, z forward), any unit.
        coefficients: [..., n] of the same dtype, broadcast against the leading axes of points: (k1, k2, p1, p2), with
            k3, or with k3, k4, k5, k6 for "opencv"; (k1, k2, k3, k4) for "fisheye". In OpenCV's order.
        model: "opencv", radial and tangential, or "fisheye", equidistant.

    Returns:
        [..., N, 3]: Z as it was, X and Y moved.

    Raises:
        ValueError: wrong shape, dtype, device or value, naming the argument. On a GPU values are not looked at.
    """
    _check(points, coefficients, model)
    scale = _ray_scale(points, _largest_radius(coefficients, model))
    moved = _bend(points[..., :2] * scale, coefficients, model) / scale
    return torch.cat([moved, points[..., 2:].expand(*moved.shape[:-1], 1)], -1)


@exact
def undistort(
    points: Tensor,  # [..., N, 3]
    coefficients: Tensor,  # [..., n]
    model: LensModel = "opencv",
) -> Tensor:  # [..., N, 3]
    """Inverts `distort` by Newton's method: from what the picture shows to straight rays, at the same depth.

    Pixels (u, v) become points K^-1 (u, v, 1). It converges for rays within 70 degrees of the axis. Gradients are those
    of the inverse, whatever the number of steps.

    Args:
        points: [..., N, 3] float32 or float64, camera space, Z > 0.
        coefficients: [..., n] as for `distort`.
        model: "opencv" or "fisheye".

    Raises:
        ValueError: wrong shape, dtype, device or value, naming the argument.
    """
    _check(points, coefficients, model)
    radius = _largest_radius(coefficients, model)
    target = points[..., :2] / points[..., 2:]
    with torch.no_grad():
        ray = target + 0 * coefficients[..., None, :1]  # of the shape of both
        for _ in range(_NEWTON_STEPS):
            ray = ray - _newton_step(ray, target, coefficients, radius, model)
    # Once more, of value 0 but with the gradients of the inverse function.
    ray = ray - _newton_step(ray, target, coefficients, radius, model)
    depth = points[..., 2:].expand(*ray.shape[:-1], 1)
    return torch.cat([ray * depth, depth], -1)


def _newton_step(
    ray: Tensor,  # [..., N, 2]
    target: Tensor,  # [..., N, 2]
    coefficients: Tensor,  # [..., n]
    radius: Tensor,  # [..., 1, 1]
    model: LensModel,
) -> Tensor:  # [..., N, 2]
    """Solves J step = distorted ray - target; J, which it takes no gradient of, has the columns (a, c), (b, d)."""
    scale = _ray_scale(torch.cat([ray, torch.ones_like(ray[..., :1])], -1), radius)
    q = ray * scale
    bent = _bend(q, coefficients, model)
    with torch.no_grad():
        (x, y), (p2, p1) = q.unbind(-1), _tangential(coefficients, model).unbind(-1)
        f, slope = _factor(x * x + y * y, coefficients, model)
        dot = f + 2 * (p2 * x + p1 * y)
        a, d = dot + 2 * slope * x * x + 4 * p2 * x, dot + 2 * slope * y * y + 4 * p1 * y
        b = c = 2 * (slope * x * y + p2 * y + p1 * x)
        # Beyond the radius the length only scales: along the direction u the slope is that of the chord.
        beyond = scale[..., 0] < 1
        u, v = (q / torch.where(beyond, radius[..., 0], 1)[..., None]).unbind(-1)
        along = (bent / radius).unbind(-1)
        e, g = along[0] - (a * u + b * v), along[1] - (c * u + d * v)
        a, b = torch.where(beyond, a + e * u, a), torch.where(beyond, b + e * v, b)
        c, d = torch.where(beyond, c + g * u, c), torch.where(beyond, d + g * v, d)
        determinant = a * d - b * c
    x, y = (bent / scale - target).unbind(-1)
    return torch.stack([(d * x - b * y) / determinant, (a * y - c * x) / determinant], -1)


def _bend(
    ray: Tensor,  # [..., N, 2]
    coefficients: Tensor,  # [..., n]
    model: LensModel,
) -> Tensor:  # [..., N, 2]
    """Applies the model's formula to rays."""
    square, p = (ray * ray).sum(-1, keepdim=True), _tangential(coefficients, model)
    f, _ = _factor(square[..., 0], coefficients, model)
    return (f[..., None] + 2 * (p * ray).sum(-1, keepdim=True)) * ray + square * p


def _tangential(coefficients: Tensor, model: LensModel) -> Tensor:  # [..., n] -> [..., 1, 2]
    """Picks p = (p2, p1)."""
    p = coefficients[..., None, 2:4].flip(-1)
    return torch.zeros_like(p) if model == "fisheye" else p


def _factor(
    square: Tensor,  # [..., N]
    coefficients: Tensor,  # [..., n]
    model: LensModel,
) -> tuple[Tensor, Tensor]:  # [..., N] both
    """Computes the factor f of rays from their squared length r^2, and its derivative by r^2."""
    k = coefficients[..., None, :].unbind(-1)
    if model == "fisheye":
        k1, k2, k3, k4 = k
        center = square == 0
        r2 = torch.where(center, 1, square)
        r = r2.sqrt()
        t = torch.atan(r)
        t2 = t * t
        f = t * (1 + t2 * (k1 + t2 * (k2 + t2 * (k3 + t2 * k4)))) / r
        slope = ((1 + t2 * (3 * k1 + t2 * (5 * k2 + t2 * (7 * k3 + t2 * 9 * k4)))) / (1 + r2) - f) / (2 * r2)
        return torch.where(center, 1, f), torch.where(center, k1 - 1 / 3, slope)
    k1, k2, _, _, k3, k4, k5, k6 = (*k, *(torch.zeros_like(k[0]),) * (8 - len(k)))
    above = 1 + square * (k1 + square * (k2 + square * k3))
    below = 1 + square * (k4 + square * (k5 + square * k6))
    f = above / below
    slope = k1 + square * (2 * k2 + square * 3 * k3) - f * (k4 + square * (2 * k5 + square * 3 * k6))
    return f, slope / below


def _ray_scale(
    points: Tensor,  # [..., N, 3]
    radius: Tensor,  # [..., 1, 1]
) -> Tensor:  # [..., N, 1]
    """Computes what takes points to their rays, those beyond the radius and behind the camera to that radius."""
    square, z = (points[..., :2] * points[..., :2]).sum(-1, keepdim=True), points[..., 2:]
    center = square == 0
    inside = (z > 0) & (square < (radius * z) ** 2)
    beyond = torch.where(center, 1, radius * torch.where(center, 1, square).rsqrt())
    return torch.where(inside, 1 / torch.where(inside, z, 1), beyond)


@torch.no_grad()
def _largest_radius(
    coefficients: Tensor,  # [..., n]
    model: LensModel,
) -> Tensor:  # [..., 1, 1]
    """Finds the radius up to which distances from the centre grow in every direction: samples, then finer ones.

    Towards (p2, p1) the tangential terms take 3 |p| r^2 away at most.
    """
    dtype, coefficients = coefficients.dtype, coefficients.double()
    shortest = 3 * _tangential(coefficients, model).norm(dim=-1)
    steps = torch.linspace(0, 1, _SAMPLES, dtype=torch.float64, device=coefficients.device)
    radii = (WIDEST * torch.exp((steps - 1) * math.log(1e4))).expand(*coefficients.shape[:-1], _SAMPLES)
    low = radii[..., :1]
    for _ in range(2):
        moved = radii * _factor(radii**2, coefficients, model)[0] - shortest * radii**2
        grows = (moved[..., 1:] > moved[..., :-1]) & (moved[..., 1:] > 0)
        last = grows.long().cumprod(-1).sum(-1, keepdim=True)  # the last sample up to which it grows
        low, high = radii.gather(-1, last), radii.gather(-1, (last + 1).clamp(max=_SAMPLES - 1))
        radii = low + (high - low) * steps
    return low[..., None].to(dtype)


def _check(points: Tensor, coefficients: Tensor, model: LensModel) -> None:
    if model not in _COUNTS:
        raise ValueError(f"model must be 'opencv' or 'fisheye', not {model!r}")
    leading = points.shape[:-2] if isinstance(points, Tensor) else ()
    check_tensor("points", points, (*leading, "N", 3), contiguous=False)
    batch = coefficients.shape[:-1] if isinstance(coefficients, Tensor) else ()
    like = ("points", points)
    check_tensor("coefficients", coefficients, (*batch, "n"), (points.dtype,), like, contiguous=False)
    if coefficients.shape[-1] not in _COUNTS[model]:
        counts = " or ".join(map(str, _COUNTS[model]))
        raise ValueError(f"coefficients of model {model!r} must be {counts}, not {coefficients.shape[-1]}")
    looks = not coefficients.is_cuda and not torch.compiler.is_compiling()
    if looks and not bool(coefficients.detach().isfinite().all()):
        raise ValueError("coefficients must be finite")
    if any(a != b and 1 not in (a, b) for a, b in zip(reversed(leading), reversed(batch), strict=False)):
        raise ValueError(
            f"coefficients must go with the leading axes of points {list(points.shape)}, not {list(coefficients.shape)}"
        )
