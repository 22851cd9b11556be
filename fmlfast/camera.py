"""Projects points by pinhole cameras in OpenCV's convention, and converts cameras to and from other libraries.

OpenCV: camera axes +x right, +y down, +z forward; pixel centres at +0.5; K = [[fx, s, cx], [0, fy, cy], [0, 0, 1]].
"""

import math

import torch
from torch import Tensor

from fmlfast.common.distortion import distort as distort
from fmlfast.common.distortion import undistort as undistort
from fmlfast.common.tensors import exact
from fmlfast.kernels.common.checks import check_intrinsics, check_size, check_tensor


@exact
def project(points: Tensor, Ks: Tensor) -> Tensor:
    """Projects points in camera space to pixels (pinhole model), with gradients to points and Ks.

    u = (fx X + s Y) / Z + cx, v = fy Y / Z + cy.

    Args:
        points: [..., N, 3] float32 or float64, camera space, any unit. A point with Z <= 0 has no image: mask it by
            its Z.
        Ks: [..., 3, 3] of the same dtype, broadcast against the leading axes of points.

    Returns:
        [..., N, 2] pixels.

    Raises:
        ValueError: wrong shape, dtype or device, naming the argument.
    """
    leading = points.shape[:-2] if isinstance(points, Tensor) else ()
    check_tensor("points", points, (*leading, "N", 3), contiguous=False)
    batch = Ks.shape[:-2] if isinstance(Ks, Tensor) else ()
    check_tensor("Ks", Ks, (*batch, 3, 3), (points.dtype,), ("points", points), contiguous=False)
    if any(a != b and 1 not in (a, b) for a, b in zip(reversed(leading), reversed(batch), strict=False)):
        raise ValueError(f"Ks must go with the leading axes of points {list(points.shape)}, not {list(Ks.shape)}")
    rays = points[..., :2] / points[..., 2:]
    return rays @ Ks[..., :2, :2].transpose(-1, -2) + Ks[..., None, :2, 2]


@exact
def to_camera(points: Tensor, viewmats: Tensor) -> Tensor:
    """Transforms world points to camera space, X_cam = R X + t, with gradients to both.

    Args:
        points: [F, N, 3] float32 or float64, world space.
        viewmats: [F, 4, 4] of the same dtype, world to camera.

    Returns:
        [F, N, 3].

    Raises:
        ValueError: wrong shape, dtype or device, naming the argument.
    """
    check_tensor("points", points, ("F", "N", 3), contiguous=False)
    check_tensor("viewmats", viewmats, (len(points), 4, 4), (points.dtype,), ("points", points), contiguous=False)
    return points @ viewmats[:, :3, :3].transpose(1, 2) + viewmats[:, None, :3, 3]


def check_cameras(viewmats: Tensor, Ks: Tensor) -> None:
    """Raises ValueError unless these are F valid cameras; on a GPU, and compiling, only shape, dtype and device.

    Checking values would synchronise with the GPU.

    Args:
        viewmats: [F, 4, 4] float32 or float64, world to camera: a rotation, a translation, and the last row
            (0, 0, 0, 1).
        Ks: [F, 3, 3] of the same dtype and device: fx, fy > 0, nothing below the diagonal, and the last row (0, 0, 1).
    """
    check_tensor("viewmats", viewmats, ("F", 4, 4), contiguous=False)
    check_intrinsics(Ks, len(viewmats), (viewmats.dtype,), ("viewmats", viewmats))
    if viewmats.is_cuda or torch.compiler.is_compiling():
        return
    viewmats, Ks = viewmats.detach(), Ks.detach()
    if not bool(viewmats.isfinite().all()):
        raise ValueError("viewmats must be finite")
    if not torch.equal(viewmats[:, 3], viewmats.new_tensor([0, 0, 0, 1]).expand(len(viewmats), 4)):
        raise ValueError("viewmats must have the last row 0 0 0 1: column vectors, translation in the last column")
    rotations = viewmats[:, :3, :3]
    squares = (rotations[:, :, None] * rotations[:, None]).sum(-1)  # no matrix product, which autocast would round
    orthonormal = squares - torch.eye(3, dtype=viewmats.dtype, device=viewmats.device)
    if bool((orthonormal.abs() > 1e-3).any() | (torch.linalg.det(rotations) < 0).any()):
        raise ValueError("viewmats must hold rotations: orthonormal, determinant +1, no scale and no mirror")
    if bool((Ks[:, 1, 0] != 0).any()):
        raise ValueError("Ks must be [[fx, s, cx], [0, fy, cy], [0, 0, 1]]")


@exact
def look_at(eyes: Tensor, targets: Tensor, up: tuple[float, float, float] = (0.0, 1.0, 0.0)) -> Tensor:
    """Computes world-to-camera matrices of cameras at `eyes` that look at `targets`, with `up` upwards in the image.

    Args:
        eyes: [F, 3] float32 or float64, world space.
        targets: [F, 3] of the same dtype.
        up: direction in world space, not parallel to the view.

    Returns:
        [F, 4, 4].

    Raises:
        ValueError: wrong shape, dtype or device, an eye at its target, or a view along `up`, naming the argument.
    """
    check_tensor("eyes", eyes, ("F", 3), contiguous=False)
    check_tensor("targets", targets, tuple(eyes.shape), (eyes.dtype,), ("eyes", eyes), contiguous=False)
    if len(up) != 3 or not 0 < math.hypot(*up) < math.inf:
        raise ValueError(f"up must be three numbers that make a direction, not {up!r}")
    forward = torch.nn.functional.normalize(targets - eyes, dim=-1)
    right = torch.linalg.cross(forward, eyes.new_tensor(up).expand_as(forward))
    if not bool((right.detach().norm(dim=-1) >= 1e-6 * math.hypot(*up)).all()):  # NaN is neither
        raise ValueError("eyes must be finite and differ from targets, and up must not be parallel to the view")
    right = torch.nn.functional.normalize(right, dim=-1)
    down = torch.linalg.cross(forward, right)
    rotations = torch.stack([right, down, forward], 1)
    translations = -(rotations @ eyes[..., None])
    last = eyes.new_tensor([0, 0, 0, 1]).expand(len(eyes), 1, 4)
    return torch.cat([torch.cat([rotations, translations], 2), last], 1)


def to_opengl(viewmats: Tensor, Ks: Tensor, height: int, width: int, near: float, far: float) -> tuple[Tensor, Tensor]:
    """Converts cameras to OpenGL's modelview and projection matrices.

    Eye space is +x right, +y up, +z backward; clip = projection @ modelview @ (X, 1). Normalised device coordinates are
    clip.xyz / clip.w in [-1, 1], y up, and z = -1 at `near`, 1 at `far`.

    Args:
        viewmats: [F, 4, 4], world to camera.
        Ks: [F, 3, 3], pixels.
        height: of the image, pixels.
        width: of the image, pixels.
        near: clipping plane, the unit of viewmats, above 0.
        far: clipping plane, the unit of viewmats, above `near`.

    Returns:
        modelviews [F, 4, 4] and projections [F, 4, 4], for column vectors (glLoadMatrix reads columns: transpose).

    Raises:
        ValueError: invalid cameras, image size or clipping planes.
    """
    check_cameras(viewmats, Ks)
    _check_image(height, width)
    _check_planes(near, far)
    flip = viewmats.new_tensor([1, -1, -1, 1])
    projections = torch.zeros_like(viewmats)
    projections[:, 0, 0] = 2 / width * Ks[:, 0, 0]
    projections[:, 0, 1] = -2 / width * Ks[:, 0, 1]
    projections[:, 0, 2] = 1 - 2 / width * Ks[:, 0, 2]
    projections[:, 1, 1] = 2 / height * Ks[:, 1, 1]
    projections[:, 1, 2] = 2 / height * Ks[:, 1, 2] - 1
    projections[:, 2, 2] = -(far + near) / (far - near)
    projections[:, 2, 3] = -2 * far * near / (far - near)
    projections[:, 3, 2] = -1
    return flip[:, None] * viewmats, projections


def from_opengl(modelviews: Tensor, projections: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Converts OpenGL's matrices to viewmats [F, 4, 4] and Ks [F, 3, 3]; inverts `to_opengl`.

    Args:
        modelviews: [F, 4, 4], for column vectors, without scale.
        projections: [F, 4, 4], perspective.
        height: of the image, pixels.
        width: of the image, pixels.

    Raises:
        ValueError: wrong shape, not a perspective projection, invalid image size or cameras.
    """
    _check_image(height, width)
    check_tensor("modelviews", modelviews, ("F", 4, 4), contiguous=False)
    dtype, like = (modelviews.dtype,), ("modelviews", modelviews)
    check_tensor("projections", projections, tuple(modelviews.shape), dtype, like, contiguous=False)
    if not torch.equal(projections[:, 3], projections.new_tensor([0, 0, -1, 0]).expand(len(projections), 4)):
        raise ValueError("projections must be perspective, with the last row 0 0 -1 0")
    viewmats = modelviews.new_tensor([1, -1, -1, 1])[:, None] * modelviews
    Ks = torch.zeros_like(projections[:, :3, :3])
    Ks[:, 0, 0] = width / 2 * projections[:, 0, 0]
    Ks[:, 0, 1] = -width / 2 * projections[:, 0, 1]
    Ks[:, 0, 2] = width / 2 * (1 - projections[:, 0, 2])
    Ks[:, 1, 1] = height / 2 * projections[:, 1, 1]
    Ks[:, 1, 2] = height / 2 * (1 + projections[:, 1, 2])
    Ks[:, 2, 2] = 1
    return _checked(viewmats, Ks, "modelviews and projections")


def to_pytorch3d(viewmats: Tensor, Ks: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Converts cameras to arguments of PyTorch3D's PerspectiveCameras.

    View space is +x left, +y up, +z forward, X_view = X R + T (row vectors). Normalised device coordinates are
    focal X_view / Z_view + principal, +x left and +y up, where the shorter side of the image spans [-1, 1].

    Args:
        viewmats: [F, 4, 4], world to camera.
        Ks: [F, 3, 3], pixels, without skew.
        height: of the image, pixels.
        width: of the image, pixels.

    Returns:
        R [F, 3, 3], T [F, 3], focal_length [F, 2] and principal_point [F, 2], both in normalised device coordinates.

    Raises:
        ValueError: invalid cameras or image size, or skew, which PerspectiveCameras cannot hold.
    """
    check_cameras(viewmats, Ks)
    _check_image(height, width)
    if bool((Ks[:, 0, 1] != 0).any()):
        raise ValueError("Ks have skew, which PyTorch3D's PerspectiveCameras cannot hold")
    flip = viewmats.new_tensor([-1, -1, 1])
    scale = min(height, width) / 2
    center = Ks.new_tensor([width / 2, height / 2])
    focal_length = Ks[:, (0, 1), (0, 1)] / scale
    principal_point = (center - Ks[:, :2, 2]) / scale
    return viewmats[:, :3, :3].transpose(1, 2) * flip, viewmats[:, :3, 3] * flip, focal_length, principal_point


def from_pytorch3d(
    R: Tensor, T: Tensor, focal_length: Tensor, principal_point: Tensor, height: int, width: int
) -> tuple[Tensor, Tensor]:
    """Converts PyTorch3D's PerspectiveCameras (in_ndc=True) to viewmats [F, 4, 4] and Ks [F, 3, 3].

    Inverts `to_pytorch3d`.

    Args:
        R: [F, 3, 3], for row vectors.
        T: [F, 3].
        focal_length: [F, 2], normalised device coordinates.
        principal_point: [F, 2], normalised device coordinates.
        height: of the image, pixels.
        width: of the image, pixels.

    Raises:
        ValueError: wrong shape, invalid image size or cameras.
    """
    _check_image(height, width)
    check_tensor("R", R, ("F", 3, 3), contiguous=False)
    frames = len(R)
    for name, tensor, shape in (
        ("T", T, (frames, 3)),
        ("focal_length", focal_length, (frames, 2)),
        ("principal_point", principal_point, (frames, 2)),
    ):
        check_tensor(name, tensor, shape, (R.dtype,), ("R", R), contiguous=False)
    flip = R.new_tensor([-1, -1, 1])
    viewmats = torch.eye(4, dtype=R.dtype, device=R.device).repeat(frames, 1, 1)
    viewmats[:, :3, :3] = (R * flip).transpose(1, 2)
    viewmats[:, :3, 3] = T * flip
    scale = min(height, width) / 2
    Ks = torch.eye(3, dtype=R.dtype, device=R.device).repeat(frames, 1, 1)
    Ks[:, (0, 1), (0, 1)] = focal_length * scale
    Ks[:, :2, 2] = R.new_tensor([width / 2, height / 2]) - principal_point * scale
    return _checked(viewmats, Ks, "R, T, focal_length and principal_point")


@exact
def to_nvdiffrast(points: Tensor, Ks: Tensor, height: int, width: int, near: float, far: float) -> Tensor:
    """Converts camera space points to clip space for nvdiffrast's rasterize, with gradients to the points.

    Clip space is OpenGL's, but row 0 of nvdiffrast's images is the bottom one (y = -1). Here y points down, so that the
    images come out with row 0 on top, like ours; the winding of triangles appears mirrored, which nvdiffrast ignores.

    Args:
        points: [F, N, 3] floating point, camera space.
        Ks: [F, 3, 3], pixels.
        height: of the image, pixels.
        width: of the image, pixels.
        near: clipping plane, the unit of points, above 0.
        far: clipping plane, the unit of points, above `near`.

    Returns:
        [F, N, 4].

    Raises:
        ValueError: wrong shape, invalid image size or clipping planes.
    """
    _check_nvdiffrast("points", points, 3, Ks)
    _check_image(height, width)
    _check_planes(near, far)
    z = points[..., 2:]
    pixels = points @ Ks[:, :2].transpose(1, 2)  # times z
    xy = pixels * (2 / points.new_tensor([width, height])) - z
    return torch.cat([xy, ((far + near) * z - 2 * far * near) / (far - near), z], -1)


def from_nvdiffrast(clip: Tensor, Ks: Tensor, height: int, width: int) -> Tensor:
    """Converts clip space positions [F, N, 4] to camera space points [F, N, 3]; inverts `to_nvdiffrast`.

    Raises:
        ValueError: wrong shape or invalid image size.
    """
    _check_nvdiffrast("clip", clip, 4, Ks)
    _check_image(height, width)
    z = clip[..., 3:]
    pixels = (clip[..., :2] + z) * (clip.new_tensor([width, height]) / 2)  # times z
    y = (pixels[..., 1:] - Ks[:, None, 1, 2:] * z) / Ks[:, None, 1, 1:2]
    x = (pixels[..., :1] - Ks[:, None, 0, 2:] * z - Ks[:, None, 0, 1:2] * y) / Ks[:, None, 0, :1]
    return torch.cat([x, y, z], -1)


def _checked(viewmats: Tensor, Ks: Tensor, names: str) -> tuple[Tensor, Tensor]:
    """Checks cameras that were made from the arguments `names`, which errors name, and returns them."""
    try:
        check_cameras(viewmats, Ks)
    except ValueError as e:
        raise ValueError(f"{names} make no valid camera: {e}") from None
    return viewmats, Ks


def _check_image(height: int, width: int) -> None:
    check_size("height", height)
    check_size("width", width)


def _check_planes(near: float, far: float) -> None:
    if not all(isinstance(a, (int, float)) for a in (near, far)) or not 0 < near < far < math.inf:
        raise ValueError(f"near and far must be finite numbers with 0 < near < far, not {near!r} and {far!r}")


def _check_nvdiffrast(name: str, points: Tensor, size: int, Ks: Tensor) -> None:
    check_tensor(name, points, ("F", "N", size), contiguous=False)
    check_intrinsics(Ks, len(points), (points.dtype,), (name, points))
