"""Meshes on the screen, shared by the tests of antialiased silhouettes."""

import math

import torch
from torch import Tensor

from fmlfast.kernels.antialias import antialias
from fmlfast.kernels.common.backend import Backend
from fmlfast.kernels.rasterize import Fragments, rasterize

DEPTH, FOCAL = 500.0, 400.0


def camera(height: int, width: int, frames: int = 1) -> Tensor:
    K = torch.tensor([[FOCAL, 0, width / 2], [0, FOCAL, height / 2], [0, 0, 1]])
    return K.repeat(frames, 1, 1)


def at_pixels(points: Tensor, K: Tensor, depth: float | Tensor = DEPTH) -> Tensor:
    """Points [..., 2] on the screen -> [..., 3] in camera space."""
    z = torch.as_tensor(depth, dtype=points.dtype).expand(points.shape[:-1])
    return torch.stack([(points[..., i] - K[i, 2]) / K[i, i] * z for i in (0, 1)] + [z], -1)


def to_pixels(points: Tensor, K: Tensor) -> Tensor:
    return (points[..., :2] / points[..., 2:]) * K[:2, :2].diagonal() + K[:2, 2]


def sphere(n: int, radius: float) -> tuple[Tensor, Tensor]:
    """A cube of 8 n^2 triangles a face, blown up: vertices [V, 3] float64 around 0, triangles [48 n^2, 3]."""
    index: dict[tuple[int, ...], int] = {}
    triangles = []
    for axis in range(3):
        for side in (-n, n):
            for i in range(-n, n):
                for j in range(-n, n):
                    corners = [(side, i, j), (side, i + 1, j), (side, i + 1, j + 1), (side, i, j + 1)]
                    quad = [index.setdefault(c[3 - axis :] + c[: 3 - axis], len(index)) for c in corners]
                    quad = quad if side > 0 else quad[::-1]
                    triangles += [quad[:3], [quad[0], quad[2], quad[3]]]
    points = torch.tan(torch.tensor(list(index), dtype=torch.float64) / n * (math.pi / 4))
    return points / points.norm(dim=1, keepdim=True) * radius, torch.tensor(triangles, dtype=torch.int32)


def mask_of(
    vertices: Tensor, triangles: Tensor, Ks: Tensor, fragments: Fragments, backend: Backend | None = None
) -> Tensor:
    hard = (fragments.triangle_id >= 0).to(vertices.dtype)[..., None]
    return antialias(hard, vertices, triangles, Ks.to(vertices.dtype), fragments, backend)[..., 0]


def draw_mask(
    vertices: Tensor, triangles: Tensor, Ks: Tensor, height: int, width: int, backend: Backend | None = None
) -> Tensor:
    """[F, H, W] of any dtype; rasterised in float32."""
    fragments = rasterize(vertices.detach().float(), triangles, Ks, height, width)
    return mask_of(vertices, triangles, Ks, fragments, backend)


def bumpy(seed: int, frames: int, height: int, width: int, channels: int, n: int = 4, device: str = "cpu"):
    """Spheres with noise, which fold and hide themselves, larger than the picture or not: image, vertices, ..."""
    g = torch.Generator().manual_seed(seed)
    points, triangles = sphere(n, 0.45 * DEPTH / FOCAL * (height + width) / 2)
    vertices = points.float() * (1 + 0.15 * torch.randn(frames, len(points), 1, generator=g))
    vertices[..., 2] += DEPTH
    Ks = camera(height, width, frames) + torch.tensor([[0, 3.0, 0], [1, 0, 0], [0, 0, 0]])
    fragments = rasterize(vertices, triangles, Ks, height, width)
    image = torch.rand(frames, height, width, channels, generator=g)
    upstream = torch.randn(frames, height, width, channels, generator=g)
    fragments = Fragments(**{name: x.to(device) for name, x in vars(fragments).items() if x is not None})
    return *(x.to(device) for x in (image, vertices, triangles, Ks)), fragments, upstream.to(device)
