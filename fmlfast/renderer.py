"""Renders meshes differentiably, by single operations or by `render`, which combines them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fmlfast.camera import check_cameras, distort, to_camera
from fmlfast.common.distortion import LensModel
from fmlfast.kernels.antialias import antialias
from fmlfast.kernels.common.backend import Backend
from fmlfast.kernels.common.checks import check_size, check_tensor, check_triangles
from fmlfast.kernels.interpolate import interpolate
from fmlfast.kernels.interpolate_derivatives import interpolate_derivatives
from fmlfast.kernels.rasterize import Fragments, rasterize
from fmlfast.kernels.shading import sh_basis, shade_sh, shade_vertices, vertex_normals
from fmlfast.kernels.texture import texture, texture_mips
from fmlfast.kernels.visibility import vertex_visibility

__all__ = [
    "Backend",
    "Fragments",
    "Rendering",
    "antialias",
    "interpolate",
    "interpolate_derivatives",
    "rasterize",
    "render",
    "sh_basis",
    "shade_sh",
    "shade_vertices",
    "texture",
    "texture_mips",
    "vertex_normals",
    "vertex_visibility",
]


@dataclass(frozen=True)
class Rendering:
    """A rendered image with its mask and depth.

    Attributes:
        image: [F, H, W, C], the blended colours over the background, linear.
        mask: [F, H, W], share of the pixel that the mesh covers: in [0, 1], but for parts thinner than a pixel, where
            several outlines take from one pixel and it may fall below 0 (clamp it before a logarithm).
        depth: [F, H, W], camera z in mm of the nearest surface in the pixel, inf where there is none.
    """

    image: Tensor  # [F, H, W, C]
    mask: Tensor  # [F, H, W]
    depth: Tensor  # [F, H, W]


def render(
    vertices: Tensor,  # [F or 1, V, 3]
    triangles: Tensor,  # [T, 3]
    colors: Tensor,  # [F or 1, V, C]
    viewmats: Tensor,  # [F, 4, 4]
    Ks: Tensor,  # [F, 3, 3]
    height: int,
    width: int,
    background: Tensor | None = None,  # [C] or [H, W, C]
    backend: Backend | None = None,
    antialiased: bool = True,
    supersample: int = 1,
    near: float = 1.0,
    distortion: Tensor | None = None,  # [n] or [F, n]
    lens: LensModel = "opencv",
) -> Rendering:
    """Renders meshes with vertex colours, with gradients to vertices, colours, viewmats, background and distortion.

    Inside a surface gradients come from the interpolation of colours over the pixels, at its outline from the
    antialiased edge (see `antialias`); the triangle visible in a pixel is constant. Ks are constants, too.

    Args:
        vertices: [F, V, 3] float32 or float64 (torch backend), contiguous, world space, mm, or [1, V, 3] for one mesh
            seen by F cameras. All other numbers are of its dtype.
        triangles: [T, 3] int32 or int64, counter-clockwise seen from outside; both sides are drawn.
        colors: [F, V, C], contiguous, any number of channels, or [1, V, C] shared by all frames, linear.
        viewmats: [F, 4, 4], world to camera.
        Ks: [F, 3, 3], pixels.
        height: of the image, pixels.
        width: of the image, pixels.
        background: [C] or [H, W, C], linear; 0 by default.
        backend: "torch" or "triton"; by default "triton" on a GPU, "torch" on the CPU.
        antialiased: blend the outlines; without it, masks and outlines give the vertices no gradient.
        supersample: samples along each side of a pixel, averaged. Memory grows with its square.
        near: nearest visible camera z, > 0, mm. Any other unit does too, if vertices, viewmats and `near` share it:
            0.001 for a mesh in metres.
        distortion: [n] or [F, n], coefficients of the lens in OpenCV's order, see `camera.distort`: vertices
            move, edges stay straight.
        lens: model of the distortion, "opencv" or "fisheye".

    Raises:
        ValueError: wrong shape, dtype, device or value, naming the argument. Values of cameras on a GPU are not
            checked, as that would synchronise with it.
    """
    check_cameras(viewmats, Ks)
    frames = len(viewmats)
    single = isinstance(vertices, Tensor) and len(vertices.shape) == 3 and len(vertices) == 1
    check_tensor("vertices", vertices, (1 if single else frames, "V", 3))
    like, dtypes = ("vertices", vertices), (vertices.dtype,)
    check_tensor("viewmats", viewmats, (frames, 4, 4), dtypes, like, contiguous=False)
    shared = isinstance(colors, Tensor) and len(colors.shape) == 3 and len(colors) == 1
    shape = (1 if shared else frames, vertices.shape[1], "C")
    check_tensor("colors", colors, shape, dtypes, like)
    check_triangles(triangles, like)
    for name, size in (("height", height), ("width", width), ("supersample", supersample)):
        check_size(name, size)
    if background is not None:
        flat = isinstance(background, Tensor) and background.ndim == 1
        size = (colors.shape[-1],) if flat else (height, width, colors.shape[-1])
        check_tensor("background", background, size, dtypes, like, contiguous=False)
    points = to_camera(vertices.expand(frames, -1, -1), viewmats)
    if distortion is not None:
        flat = isinstance(distortion, Tensor) and distortion.ndim == 1
        check_tensor("distortion", distortion, ("n",) if flat else (frames, "n"), dtypes, like)
        points = distort(points, distortion, lens)
    fine = torch.cat([Ks[:, :2] * supersample, Ks[:, 2:]], 1).detach()
    rows, columns = height * supersample, width * supersample
    fragments = rasterize(points, triangles, fine, rows, columns, near=near, backend=backend)
    covered = (fragments.triangle_id >= 0)[..., None].to(colors.dtype)
    layers = torch.cat([interpolate(colors, triangles, fragments, backend), covered], -1)
    if antialiased:
        layers = antialias(layers, points, triangles, fine, fragments, backend)
    depth = fragments.depth
    if supersample > 1:
        layers = _average(layers, supersample)
        depth = depth.unflatten(1, (height, supersample)).unflatten(3, (width, supersample)).amin((2, 4))
    image, mask = layers[..., :-1].contiguous(), layers[..., -1].contiguous()
    if background is not None:
        image = image + (1 - mask[..., None]) * background
    return Rendering(image, mask, depth)


def _average(image: Tensor, size: int) -> Tensor:  # [F, size * H, size * W, C] -> [F, H, W, C]
    frames, height, width, channels = image.shape
    rows = image.view(frames, height // size, size, width // size * size * channels).sum(2)  # long rows: fast
    return rows.view(frames, height // size, width // size, size, channels).sum(3) / size**2
