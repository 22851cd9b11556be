"""Renders meshes: the operations one by one, and `render`, which puts them together."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fmlfast.camera import check_cameras, to_camera
from fmlfast.kernels.interpolate import interpolate
from fmlfast.kernels.rasterize import Fragments, rasterize
from fmlfast.kernels.shading import sh_basis, shade_sh, vertex_normals
from fmlfast.kernels.visibility import vertex_visibility

__all__ = [
    "Fragments",
    "Rendering",
    "interpolate",
    "rasterize",
    "render",
    "sh_basis",
    "shade_sh",
    "vertex_normals",
    "vertex_visibility",
]


@dataclass(frozen=True)
class Rendering:
    """A picture.

    Attributes:
        image: [F, H, W, C], the blended colours over the background, linear.
        mask: [F, H, W], share of the pixel that the mesh covers, in [0, 1].
        depth: [F, H, W] float32, camera z in mm of the nearest surface in the pixel, inf where there is none.
    """

    image: Tensor  # [F, H, W, C]
    mask: Tensor  # [F, H, W]
    depth: Tensor  # [F, H, W]


def render(
    vertices: Tensor,  # [F, V, 3]
    triangles: Tensor,  # [T, 3]
    colors: Tensor,  # [F or 1, V, C]
    viewmats: Tensor,  # [F, 4, 4]
    Ks: Tensor,  # [F, 3, 3]
    height: int,
    width: int,
    background: Tensor | None = None,  # [C] or [H, W, C]
    supersample: int = 1,
) -> Rendering:
    """Draws meshes with colours at their vertices.

    Gradients go to colours and background, not to vertices or cameras.

    Args:
        vertices: [F, V, 3] float32, world space, mm.
        triangles: [T, 3] int32 or int64, counter-clockwise seen from outside; both sides are drawn.
        colors: [F, V, C] floating point, or [1, V, C] shared by all frames, linear.
        viewmats: [F, 4, 4] float32, world to camera.
        Ks: [F, 3, 3] float32, pixels.
        height, width: of the image, pixels.
        background: [C] or [H, W, C], linear; 0 by default.
        supersample: samples along each side of a pixel, averaged. Memory grows with its square.

    Raises:
        ValueError: wrong shape, dtype, device or value, naming the argument.
    """
    check_cameras(viewmats, Ks)
    if vertices.ndim != 3 or vertices.shape[-1] != 3 or len(vertices) != len(viewmats):
        raise ValueError(f"vertices must be [{len(viewmats)}, V, 3] to go with viewmats, not {tuple(vertices.shape)}")
    if colors.ndim != 3 or len(colors) not in (1, len(vertices)) or colors.shape[1] != vertices.shape[1]:
        shape = f"[{len(vertices)} or 1, {vertices.shape[1]}, C]"
        raise ValueError(f"colors must be {shape} to go with vertices, not {tuple(colors.shape)}")
    for name, tensor in (("vertices", vertices), ("viewmats", viewmats)):
        if tensor.dtype != torch.float32:
            raise ValueError(f"{name} must be float32, not {tensor.dtype}")
    for name, tensor in (("vertices", vertices), ("colors", colors)):
        if tensor.device != viewmats.device:
            raise ValueError(f"{name} is on {tensor.device}, viewmats on {viewmats.device}: move them to one device")
    if not isinstance(supersample, int) or supersample < 1:
        raise ValueError(f"supersample must be an integer of at least 1, not {supersample!r}")
    channels = colors.shape[-1]
    if background is not None and tuple(background.shape) not in ((channels,), (height, width, channels)):
        raise ValueError(
            f"background must be [{channels}] or [{height}, {width}, {channels}], not {tuple(background.shape)}"
        )
    scale = Ks.new_tensor([supersample, supersample, 1])[:, None]
    points = to_camera(vertices.detach(), viewmats.detach())
    fragments = rasterize(points, triangles, Ks.detach() * scale, height * supersample, width * supersample)
    image = _average(interpolate(colors, triangles, fragments), supersample)
    mask = _average((fragments.triangle_id >= 0).to(image.dtype)[..., None], supersample)
    if background is not None:
        image = image + (1 - mask) * background
    blocks = fragments.depth.unflatten(1, (height, supersample)).unflatten(3, (width, supersample))
    return Rendering(image, mask[..., 0], blocks.amin((2, 4)))


def _average(image: Tensor, size: int) -> Tensor:  # [F, size * H, size * W, C] -> [F, H, W, C]
    frames, height, width, channels = image.shape
    return image.view(frames, height // size, size, width // size, size, channels).mean((2, 4))
