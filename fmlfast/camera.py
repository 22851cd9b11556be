"""Cameras: the project's convention (OpenCV) and converters to others.

OpenCV: camera axes +x right, +y down, +z forward; pixel centres at +0.5; K = [[fx, s, cx], [0, fy, cy], [0, 0, 1]].
"""

import torch
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


def to_camera(points: Tensor, viewmats: Tensor) -> Tensor:
    """Points in camera space, X_cam = R X + t, with gradients to both.

    Args:
        points: [F, N, 3] floating point, world space.
        viewmats: [F, 4, 4], world to camera.

    Returns:
        [F, N, 3].

    Raises:
        ValueError: wrong shape.
    """
    if points.ndim != 3 or points.shape[-1] != 3:
        raise ValueError(f"points must be [F, N, 3], not {tuple(points.shape)}")
    if tuple(viewmats.shape) != (len(points), 4, 4):
        raise ValueError(f"viewmats must be [{len(points)}, 4, 4] to go with points, not {tuple(viewmats.shape)}")
    return points @ viewmats[:, :3, :3].transpose(1, 2) + viewmats[:, None, :3, 3]


def check_cameras(viewmats: Tensor, Ks: Tensor) -> None:
    """Raises ValueError unless these are F valid cameras; on a GPU only shape, dtype and device are looked at, as
    looking at values means waiting for it.

    Args:
        viewmats: [F, 4, 4] floating point, world to camera: a rotation, a translation, and the last row (0, 0, 0, 1).
        Ks: [F, 3, 3] of the same dtype and device: fx, fy > 0, nothing below the diagonal, and the last row (0, 0, 1).
    """
    if viewmats.ndim != 3 or tuple(viewmats.shape[1:]) != (4, 4):
        raise ValueError(f"viewmats must be [F, 4, 4], not {tuple(viewmats.shape)}")
    if tuple(Ks.shape) != (len(viewmats), 3, 3):
        raise ValueError(f"Ks must be [{len(viewmats)}, 3, 3] to go with viewmats, not {tuple(Ks.shape)}")
    if not viewmats.is_floating_point() or Ks.dtype != viewmats.dtype:
        raise ValueError(f"viewmats and Ks must share one floating dtype, not {viewmats.dtype} and {Ks.dtype}")
    if viewmats.device != Ks.device:
        raise ValueError(f"viewmats are on {viewmats.device}, Ks on {Ks.device}: move them to one device")
    if viewmats.is_cuda:
        return
    viewmats, Ks = viewmats.detach(), Ks.detach()
    if not bool(viewmats.isfinite().all() & Ks.isfinite().all()):
        raise ValueError("viewmats and Ks must be finite")
    if not torch.equal(viewmats[:, 3], viewmats.new_tensor([0, 0, 0, 1]).expand(len(viewmats), 4)):
        raise ValueError("viewmats must have the last row 0 0 0 1: column vectors, translation in the last column")
    rotations = viewmats[:, :3, :3]
    orthonormal = rotations @ rotations.transpose(1, 2) - torch.eye(3, dtype=viewmats.dtype, device=viewmats.device)
    if bool((orthonormal.abs() > 1e-3).any() | (torch.linalg.det(rotations) < 0).any()):
        raise ValueError("viewmats must hold rotations: orthonormal, determinant +1, no scale and no mirror")
    if not torch.equal(Ks[:, 2], Ks.new_tensor([0, 0, 1]).expand(len(Ks), 3)) or bool((Ks[:, 1, 0] != 0).any()):
        raise ValueError("Ks must be [[fx, s, cx], [0, fy, cy], [0, 0, 1]]")
    if bool((Ks[:, 0, 0] <= 0).any() | (Ks[:, 1, 1] <= 0).any()):
        raise ValueError("Ks must have positive focal lengths, in pixels")


def look_at(eyes: Tensor, targets: Tensor, up: tuple[float, float, float] = (0.0, 1.0, 0.0)) -> Tensor:
    """World-to-camera matrices of cameras at `eyes` that look at `targets`, `up` pointing up in the image.

    Args:
        eyes: [F, 3] floating point, world space.
        targets: [F, 3].
        up: direction in world space, not parallel to the view.

    Returns:
        [F, 4, 4].

    Raises:
        ValueError: wrong shape, an eye at its target, or a view along `up`.
    """
    if eyes.ndim != 2 or eyes.shape[-1] != 3 or targets.shape != eyes.shape:
        raise ValueError(f"eyes and targets must be [F, 3], not {tuple(eyes.shape)} and {tuple(targets.shape)}")
    forward = torch.nn.functional.normalize(targets - eyes, dim=-1)
    right = torch.linalg.cross(forward, eyes.new_tensor(up).expand_as(forward))
    if bool((right.detach().norm(dim=-1) < 1e-6).any()):
        raise ValueError("eyes must differ from targets, and up must not be parallel to the view")
    right = torch.nn.functional.normalize(right, dim=-1)
    down = torch.linalg.cross(forward, right)
    rotations = torch.stack([right, down, forward], 1)
    translations = -(rotations @ eyes[..., None])
    last = eyes.new_tensor([0, 0, 0, 1]).expand(len(eyes), 1, 4)
    return torch.cat([torch.cat([rotations, translations], 2), last], 1)


def to_opengl(viewmats: Tensor, Ks: Tensor, height: int, width: int, near: float, far: float) -> tuple[Tensor, Tensor]:
    """OpenGL's matrices: eye space +x right, +y up, +z backward; clip = projection @ modelview @ (X, 1).

    Normalised device coordinates are clip.xyz / clip.w in [-1, 1], y up, and z = -1 at `near`, 1 at `far`.

    Args:
        viewmats: [F, 4, 4], world to camera.
        Ks: [F, 3, 3], pixels.
        height, width: of the image, pixels.
        near, far: clipping planes, the unit of viewmats, 0 < near < far.

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
    """The viewmats [F, 4, 4] and Ks [F, 3, 3] of OpenGL's matrices; undoes `to_opengl`.

    Args:
        modelviews: [F, 4, 4], for column vectors, without scale.
        projections: [F, 4, 4], perspective.
        height, width: of the image, pixels.

    Raises:
        ValueError: wrong shape, not a perspective projection, invalid image size or cameras.
    """
    _check_image(height, width)
    if modelviews.ndim != 3 or tuple(modelviews.shape[1:]) != (4, 4) or projections.shape != modelviews.shape:
        raise ValueError(
            f"modelviews and projections must be [F, 4, 4], not {tuple(modelviews.shape)}, {tuple(projections.shape)}"
        )
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
    check_cameras(viewmats, Ks)
    return viewmats, Ks


def to_pytorch3d(viewmats: Tensor, Ks: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Arguments of PyTorch3D's PerspectiveCameras.

    View space is +x left, +y up, +z forward, X_view = X R + T (row vectors). Normalised device coordinates are
    focal X_view / Z_view + principal, +x left and +y up, where the shorter side of the image spans [-1, 1].

    Args:
        viewmats: [F, 4, 4], world to camera.
        Ks: [F, 3, 3], pixels, without skew.
        height, width: of the image, pixels.

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
    """The viewmats [F, 4, 4] and Ks [F, 3, 3] of PyTorch3D's PerspectiveCameras (in_ndc=True); undoes `to_pytorch3d`.

    Args:
        R: [F, 3, 3], for row vectors.
        T: [F, 3].
        focal_length: [F, 2], normalised device coordinates.
        principal_point: [F, 2], normalised device coordinates.
        height, width: of the image, pixels.

    Raises:
        ValueError: wrong shape, invalid image size or cameras.
    """
    _check_image(height, width)
    if R.ndim != 3 or tuple(R.shape[1:]) != (3, 3):
        raise ValueError(f"R must be [F, 3, 3], not {tuple(R.shape)}")
    frames = len(R)
    for name, tensor, shape in (
        ("T", T, (frames, 3)),
        ("focal_length", focal_length, (frames, 2)),
        ("principal_point", principal_point, (frames, 2)),
    ):
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{name} must be {list(shape)} to go with R, not {tuple(tensor.shape)}")
    flip = R.new_tensor([-1, -1, 1])
    viewmats = torch.eye(4, dtype=R.dtype, device=R.device).repeat(frames, 1, 1)
    viewmats[:, :3, :3] = (R * flip).transpose(1, 2)
    viewmats[:, :3, 3] = T * flip
    scale = min(height, width) / 2
    Ks = torch.eye(3, dtype=R.dtype, device=R.device).repeat(frames, 1, 1)
    Ks[:, (0, 1), (0, 1)] = focal_length * scale
    Ks[:, :2, 2] = R.new_tensor([width / 2, height / 2]) - principal_point * scale
    check_cameras(viewmats, Ks)
    return viewmats, Ks


def to_nvdiffrast(points: Tensor, Ks: Tensor, height: int, width: int, near: float, far: float) -> Tensor:
    """Clip space positions for nvdiffrast's rasterize, with gradients to the points.

    Clip space is OpenGL's, but row 0 of nvdiffrast's images is the bottom one (y = -1). Here y points down, so that the
    images come out with row 0 on top, like ours; the winding of triangles appears mirrored, which nvdiffrast ignores.

    Args:
        points: [F, N, 3] floating point, camera space.
        Ks: [F, 3, 3], pixels.
        height, width: of the image, pixels.
        near, far: clipping planes, the unit of points, 0 < near < far.

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
    """Camera space points [F, N, 3] of clip space positions [F, N, 4]; undoes `to_nvdiffrast`.

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


def _check_image(height: int, width: int) -> None:
    for name, size in (("height", height), ("width", width)):
        if size < 1:
            raise ValueError(f"{name} must be at least 1, not {size}")


def _check_planes(near: float, far: float) -> None:
    if not 0 < near < far < float("inf"):
        raise ValueError(f"near and far must be finite with 0 < near < far, not {near} and {far}")


def _check_nvdiffrast(name: str, points: Tensor, size: int, Ks: Tensor) -> None:
    if points.ndim != 3 or points.shape[-1] != size:
        raise ValueError(f"{name} must be [F, N, {size}], not {tuple(points.shape)}")
    if tuple(Ks.shape) != (len(points), 3, 3):
        raise ValueError(f"Ks must be [{len(points)}, 3, 3] to go with {name}, not {tuple(Ks.shape)}")
