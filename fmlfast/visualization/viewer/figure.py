"""Holds a head in the form that is quick to animate and draw, fine for a still picture and coarse while it moves."""

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from fmlfast.model.lighting import ambient_factor
from fmlfast.reconstruction.head import Head
from fmlfast.template.face_template import FaceTemplate
from fmlfast.visualization.appearance import Albedo, TextureAlbedo, VertexAlbedo
from fmlfast.visualization.overlay import face_opacity

_SMALLEST_TEXTURE = 64  # texels
_MANY = 10_000  # triangles; smaller meshes are quick enough as they are


@dataclass(frozen=True)
class Figure:
    """A head without expression, with its expressions and colours."""

    triangles: Tensor  # [T, 3]
    neutral: Tensor  # [V, 3] mm, model frame
    expressions: Tensor  # [E, V, 3] mm
    albedo: tuple[Albedo, ...]  # as it is and, of a texture, at half, quarter, ... size
    ambient: Tensor  # [V] factor of the light in hollows
    overlaid: Tensor  # [V] opacity over a photo: the face, fading towards hair, ears and neck

    @classmethod
    def of(cls, head: Head, device: torch.device | str = "cpu") -> "Figure":
        """Takes a head; its tensors go to `device`."""
        template = head.template
        return cls(
            triangles=template.triangles.to(device),
            neutral=head.neutral.float().to(device),
            expressions=template.expressions.to(device),
            albedo=shrunk(_to(head.albedo(), device)),
            ambient=ambient_factor(template).to(device),
            overlaid=face_opacity(template).to(device),
        )

    def coarse(self) -> "Figure":
        """Returns the mesh of one Loop subdivision less, which has a quarter of the triangles, or a small one itself.

        The vertices of the coarser level are the first ones of the finer, and child i of a triangle keeps its corner i;
        the fourth child has new vertices alone.
        """
        if len(self.triangles) < _MANY or len(self.triangles) % 4:
            return self
        children = self.triangles.view(-1, 4, 3)
        triangles = torch.stack([children[:, i, i] for i in range(3)], 1)
        known = int(triangles.max()) + 1
        if len(triangles.unique()) != known or bool((children[:, 3] < known).any()):
            return self
        return replace(
            self,
            triangles=triangles,
            neutral=self.neutral[:known],
            expressions=self.expressions[:, :known].contiguous(),
            albedo=tuple(replace(level, attributes=level.attributes[:known]) for level in self.albedo),
            ambient=self.ambient[:known],
            overlaid=self.overlaid[:known],
        )

    def placed(
        self,
        expression: Tensor,  # [E]
        rotation: Tensor,  # [3, 3]
        position: Tensor,  # [3] mm
    ) -> Tensor:  # [V, 3] mm
        """Computes the vertices under an expression, turned and moved in the world."""
        active = expression.nonzero()[:, 0]
        shape = self.neutral + torch.einsum("e,evc->vc", expression[active], self.expressions[active])
        return shape @ rotation.T + position

    def recolored(self, reflectance: Tensor) -> Self:
        """Returns the figure with the colours [V, 3] at its vertices, linear RGB."""
        return replace(self, albedo=(VertexAlbedo(reflectance),))


def shrunk(albedo: Albedo) -> tuple[Albedo, ...]:
    """Halves a texture again and again, for pictures in which it is small; vertex colours stay alone."""
    if not isinstance(albedo, TextureAlbedo):
        return (albedo,)
    images = [image for image in albedo.mip_levels if image.shape[1] >= min(_SMALLEST_TEXTURE, albedo.image.shape[1])]
    return tuple(TextureAlbedo(albedo.attributes, image) for image in images)


def plain_head(template: FaceTemplate) -> Head:
    """Returns the template itself as a head."""
    return Head(template, template.vertices, template.colors)


def _to(albedo: Albedo, device: torch.device | str) -> Albedo:
    moved = albedo.attributes.to(device)
    if isinstance(albedo, TextureAlbedo):
        return TextureAlbedo(moved, albedo.image.to(device))
    return VertexAlbedo(moved)
