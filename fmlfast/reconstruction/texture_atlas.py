"""Finds the surface point that every texel shows, by rasterising the triangles in texture space."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fmlfast.renderer import rasterize
from fmlfast.template.face_template import FaceTemplate

OVERLAP = 0.1  # of the face's texels: more of them used twice, and a texel has no single place on the face
CHUNK = 1 << 18  # texels interpolated at once; bounds the memory


@dataclass(frozen=True)
class TextureAtlas:
    """The P texels of an S x S texture that lie on the surface; row (1 - v) * S, column u * S, centres at +0.5."""

    template: FaceTemplate
    size: int
    """S, texels."""
    places: Tensor
    """[P] int64, row * S + column."""
    triangles: Tensor
    """[P] int64."""
    barycentrics: Tensor
    """[P, 3] float32."""
    millimetres: float
    """Side of a texel on the mean face."""

    @classmethod
    def of(cls, template: FaceTemplate, size: int) -> "TextureAtlas | None":
        """Rasterises a template's triangles in texture space; None where its uv give the face's points no own texel.

        That is so where uv are missing or more than a tenth of the face's texels are used twice. Elsewhere, as
        among lashes, the triangle of the lowest index has a shared texel.
        """
        points = torch.stack([template.uv[:, 0] * size, (1 - template.uv[:, 1]) * size], 1)
        flat = torch.cat([points, torch.ones_like(points[:, :1])], 1)
        ids = rasterize(flat[None].contiguous(), template.triangles, torch.eye(3)[None], size, size, near=0.5)
        seen = ids.triangle_id.flatten()
        places = (seen >= 0).nonzero()[:, 0]
        triangles = seen[places].long()
        face = template.regions["face"][template.triangles.long()].amin(1) > 0.5
        texels = int(face[triangles].sum())
        if texels == 0 or float(_areas(flat, template.triangles)[face].sum()) > (1 + OVERLAP) * texels:
            return None
        surface = float(_areas(template.vertices, template.triangles)[face].sum())
        return cls(template, size, places, triangles, ids.barycentrics.view(-1, 3)[places], (surface / texels) ** 0.5)

    def interpolate(
        self,
        values: Tensor,  # [V, C]
        texels: Tensor | None = None,  # [N] indices into the P texels; None for all
    ) -> Tensor:  # [N, C]
        """Interpolates a field on the vertices at texels."""
        texels = torch.arange(len(self.places)) if texels is None else texels
        parts = []
        for chunk in texels.split(CHUNK):
            corners = self.template.triangles[self.triangles[chunk]].long()
            rows = values.index_select(0, corners.flatten()).view(*corners.shape, -1)
            parts.append(torch.bmm(self.barycentrics[chunk, None], rows)[:, 0])
        return torch.cat(parts)

    def facing(self, vertices: Tensor) -> Tensor:  # [V, 3] camera frame -> [N]
        """Finds the texels whose triangles face the camera, as indices into the P texels."""
        a, b, c = vertices[self.template.triangles.long()].unbind(1)
        front = (torch.linalg.cross(b - a, c - a) * a).sum(1) < 0
        return front[self.triangles].nonzero()[:, 0]

    def grid(
        self,
        values: Tensor,  # [N, C]
        texels: Tensor | None = None,  # [N] indices into the P texels; None for all
    ) -> Tensor:  # [C, S, S]
        """Arranges texels in the texture; 0 elsewhere."""
        places = self.places if texels is None else self.places[texels]
        image = values.new_zeros(values.shape[1], self.size**2)
        return image.index_copy_(1, places, values.T.contiguous()).view(-1, self.size, self.size)

    def mirror(self) -> Tensor | None:  # [2, S, S]
        """Finds the place (u, v) of every texel's mirror point, NaN beside the surface; None without symmetry."""
        partners = self.template.mirror
        if len(partners) == 0:
            return None
        uv = self.template.subdivide(self.template.uv[: len(partners)][partners])
        place = self.grid(self.interpolate(uv))
        beside = torch.ones(self.size**2, dtype=torch.bool).index_fill_(0, self.places, False)
        return place.masked_fill_(beside.view(self.size, self.size), torch.nan)


def _areas(points: Tensor, triangles: Tensor) -> Tensor:  # [V, 3], [T, 3] -> [T]
    a, b, c = points[triangles.long()].unbind(1)
    return torch.linalg.cross(b - a, c - a).norm(dim=1) / 2
