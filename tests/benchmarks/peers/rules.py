"""Other libraries by their rules, in float64 and by brute force, from their documentation.

Where they put a point, where the centres of pixels are, which row comes first, what an empty pixel holds.
"""

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from fmlfast.kernels.normals import vertex_normals


def centres(x: Tensor, y: Tensor) -> Tensor:  # [H, W, 2]
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)


def hits(corners: Tensor, w: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
    """Perspective-correct weights [T, H, W, 3] of corners [T, 3, 2] with w [T, 3], and who covers [T, H, W]."""
    a, b, c = corners[:, None, None].unbind(3)

    def area(p: Tensor, q: Tensor, r: Tensor) -> Tensor:
        return (q - p)[..., 0] * (r - p)[..., 1] - (q - p)[..., 1] * (r - p)[..., 0]

    flat = torch.stack([area(b, c, at), area(c, a, at), area(a, b, at)], -1) / area(a, b, c)[..., None]
    weights = flat / w[:, None, None]
    return weights / weights.sum(-1, keepdim=True), (flat > 0).all(-1)


def pick(values: Tensor, best: Tensor) -> Tensor:
    """Of [T, H, W, C] the triangle [H, W]'s, [H, W, C]."""
    return values.gather(0, best[None, ..., None].expand(1, -1, -1, values.shape[-1]))[0]


def blend(attributes: Tensor, triangles: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
    """[V, C] at pixels that see [H, W] by [H, W, 3]."""
    return (attributes[triangles.long()[ids]].double() * weights[..., None]).sum(-2)


class Nvdiffrast:
    """OpenGL's clip space, row 0 at y = -1; (u, v, z / w, triangle + 1), 0 where empty; depth has no gradient."""

    @staticmethod
    def RasterizeCudaContext(device: Any = None) -> object:
        return object()

    @staticmethod
    def rasterize(context: object, pos: Tensor, tri: Tensor, resolution: Any, grad_db: bool = True) -> tuple:
        assert pos.dtype == torch.float32 and pos.is_contiguous() and tri.dtype == torch.int32
        height, width = resolution
        x, y = ((2 * torch.arange(n).double() + 1) / n - 1 for n in (width, height))
        images = []
        for clip in pos.double():
            corners = clip[tri.long()]
            w = corners[..., 3]
            weights, inside = hits(corners[..., :2] / w[..., None], w, centres(x, y))
            depth = (weights * corners[:, None, None, :, 2]).sum(-1) / (weights * w[:, None, None]).sum(-1)
            seen = inside & (depth.abs() <= 1)
            best = torch.where(seen, depth, torch.inf).argmin(0)
            uv = pick(weights, best)[..., :2]
            rest = torch.stack([depth.gather(0, best[None])[0].detach(), best + 1.0], -1)
            images.append(torch.where(seen.any(0)[..., None], torch.cat([uv, rest], -1), 0.0))
        return torch.stack(images).float(), None

    @staticmethod
    def interpolate(attr: Tensor, rast: Tensor, tri: Tensor) -> tuple:
        assert attr.is_contiguous() and rast.is_contiguous()
        images = []
        for a, seen in zip(attr.expand(len(rast), -1, -1), rast.double(), strict=True):
            weights = torch.cat([seen[..., :2], 1 - seen[..., :1] - seen[..., 1:2]], -1)
            image = blend(a, tri, (seen[..., 3].long() - 1).clamp(min=0), weights)
            images.append(torch.where(seen[..., 3:] > 0, image, 0.0))
        return torch.stack(images).float(), None

    @staticmethod
    def antialias_construct_topology_hash(tri: Tensor) -> tuple:
        return "edges", len(tri)

    @staticmethod
    def antialias(color: Tensor, rast: Tensor, pos: Tensor, tri: Tensor, topology_hash: Any = None) -> Tensor:
        assert color.is_contiguous() and rast.is_contiguous() and topology_hash == ("edges", len(tri))
        expected, _ = Nvdiffrast.rasterize(None, pos, tri, color.shape[1:3])  # they belong together
        same = expected[..., 3] == rast[..., 3]
        assert same.double().mean() > 0.99
        torch.testing.assert_close(rast[same], expected[same], atol=1e-4, rtol=0)
        return color + 0 * pos.sum()


class Drtk:
    """Pixels with integer centres and camera z; [N, C, H, W]; anything is interpolated where nothing is seen."""

    @staticmethod
    def _hits(v: Tensor, triangles: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
        corners = v.double()[triangles.long()]
        at = centres(torch.arange(width).double(), torch.arange(height).double())
        weights, inside = hits(corners[..., :2], corners[..., 2], at)
        return weights, (weights * corners[:, None, None, :, 2]).sum(-1), inside

    @staticmethod
    def rasterize(v: Tensor, vi: Tensor, height: int, width: int) -> Tensor:
        assert vi.dtype == torch.int32 and vi.shape[0] == len(v)
        images = []
        for points, triangles in zip(v, vi, strict=True):
            _, depth, inside = Drtk._hits(points, triangles, height, width)
            images.append(torch.where(inside.any(0), torch.where(inside, depth, torch.inf).argmin(0), -1))
        return torch.stack(images).int()

    @staticmethod
    def render(v: Tensor, vi: Tensor, index_img: Tensor) -> tuple[Tensor, Tensor]:
        depths, weights = [], []
        for points, triangles, ids in zip(v, vi, index_img.long(), strict=True):
            b, z, _ = Drtk._hits(points, triangles, *ids.shape)
            best, seen = ids.clamp(min=0), ids >= 0
            depths.append(torch.where(seen, z.gather(0, best[None])[0], 0.0))
            weights.append(torch.where(seen[..., None], pick(b, best), 0.0))
        return torch.stack(depths).float(), torch.stack(weights).float().permute(0, 3, 1, 2)

    @staticmethod
    def interpolate(vert_attributes: Tensor, vi: Tensor, index_img: Tensor, bary_img: Tensor) -> Tensor:
        images = []
        for a, triangles, ids, b in zip(vert_attributes, vi, index_img.long(), bary_img, strict=True):
            image = blend(a, triangles, ids.clamp(min=0), b.permute(1, 2, 0))
            images.append(torch.where(ids[..., None] >= 0, image, 7.0))
        return torch.stack(images).float().permute(0, 3, 1, 2)

    @staticmethod
    def edge_grad_estimator(v_pix: Tensor, vi: Tensor, bary_img: Tensor, img: Tensor, index_img: Tensor) -> Tensor:
        expected = Drtk.render(v_pix, vi, index_img)[1]  # they belong together
        torch.testing.assert_close(bary_img, expected, atol=1e-4, rtol=0)
        assert img.shape[2:] == index_img.shape[1:]
        return img + 0 * v_pix.sum()


class Meshes:
    """PyTorch3D's, all of one topology."""

    def __init__(self, verts: Tensor, faces: Tensor) -> None:
        assert faces.dtype == torch.int64 and len(faces) == len(verts)
        self.verts, self.faces = verts, faces

    def update_padded(self, verts: Tensor) -> "Meshes":
        return Meshes(verts, self.faces)

    def verts_packed(self) -> Tensor:
        return self.verts.flatten(0, 1)

    def verts_normals_packed(self) -> Tensor:
        return vertex_normals(self.verts, self.faces[0]).flatten(0, 1)


def rasterize_meshes(meshes: Meshes, image_size: Any, bin_size: Any, cull_backfaces: bool, **options: Any) -> tuple:
    """+x left, +y up, the shorter side spans [-1, 1], pixel (0, 0) has the greatest x and y; -1 where empty."""
    assert options["faces_per_pixel"] == 1 and options["perspective_correct"] and options["blur_radius"] == 0
    height, width = image_size
    across, down = width / min(height, width), height / min(height, width)
    x = across * (1 - (2 * torch.arange(width).double() + 1) / width)
    y = down * (1 - (2 * torch.arange(height).double() + 1) / height)
    outputs = []
    for frame, (verts, faces) in enumerate(zip(meshes.verts.double(), meshes.faces, strict=True)):
        corners = verts[faces]
        weights, inside = hits(corners[..., :2], corners[..., 2], centres(x, y))
        if cull_backfaces:  # anti-clockwise as seen by the camera, whose x points left: a half turn keeps the sense
            (ax, ay), (bx, by) = ((corners[:, k, :2] - corners[:, 0, :2]).unbind(-1) for k in (1, 2))
            inside = inside & (ax * by - ay * bx < 0)[:, None, None]
        depth = (weights * corners[:, None, None, :, 2]).sum(-1)
        best, seen = torch.where(inside, depth, torch.inf).argmin(0), inside.any(0)
        outputs.append(
            (
                torch.where(seen, best + frame * len(faces), -1)[..., None],
                torch.where(seen, depth.gather(0, best[None])[0], -1.0)[..., None].float(),
                torch.where(seen[..., None], pick(weights, best), -1.0)[:, :, None].float(),
            )
        )
    return *(torch.stack(images) for images in zip(*outputs, strict=True)), None


def interpolate_face_attributes(pix_to_face: Tensor, barycentric_coords: Tensor, face_attributes: Tensor) -> Tensor:
    assert pix_to_face.dtype == torch.int64 and barycentric_coords.shape[:-1] == pix_to_face.shape
    image = (face_attributes[pix_to_face.clamp(min=0)] * barycentric_coords[..., None]).sum(-2)
    return torch.where(pix_to_face[..., None] >= 0, image, 0.0)


FAKES = {
    "drtk": {"drtk": Drtk},
    "nvdiffrast": {"nvdiffrast": SimpleNamespace(), "nvdiffrast.torch": Nvdiffrast},
    "pytorch3d": {
        "pytorch3d": SimpleNamespace(),
        "pytorch3d.structures": SimpleNamespace(Meshes=Meshes),
        "pytorch3d.renderer.mesh.rasterize_meshes": SimpleNamespace(rasterize_meshes=rasterize_meshes),
        "pytorch3d.ops.interp_face_attrs": SimpleNamespace(interpolate_face_attributes=interpolate_face_attributes),
    },
}
