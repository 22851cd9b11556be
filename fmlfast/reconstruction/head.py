"""Holds one person's head that can be animated, and its motion through a video: what files and the viewer show."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from fmlfast.common.tensors import exact
from fmlfast.template.face_template import FaceTemplate
from fmlfast.visualization.appearance import Albedo, TextureAlbedo, VertexAlbedo


@dataclass(frozen=True)
class Head:
    """One person's neutral head, with the colours of its skin and the template's expressions."""

    template: FaceTemplate
    """Topology, uv, regions and expressions, at the level of the mesh."""
    neutral: Tensor
    """[V, 3] mm, model frame: +x to the subject's left, +y up, +z out of the face."""
    reflectance: Tensor
    """[V, 3] linear RGB."""
    texture: np.ndarray | None = None
    """[S, S, 3] uint8 sRGB base colour for the template's uv; None without one."""

    def albedo(self) -> Albedo:
        """Returns the texture on the template's uv, or the reflectance of the vertices without one."""
        if self.texture is None:
            return VertexAlbedo(self.reflectance)
        return TextureAlbedo.of(self.template.uv, self.texture)

    @exact
    def posed(
        self,
        expression: Tensor,  # [..., E]
    ) -> Tensor:  # [..., V, 3] mm, model frame
        """Computes vertices under expressions: v = v_neutral + sum_e delta_e E_e."""
        return self.neutral + (expression @ self.template.expressions.flatten(1)).unflatten(-1, self.neutral.shape)


@dataclass(frozen=True)
class Motion:
    """A head's motion, frame by frame: X_camera = R X_model + t, camera +x right, +y down, +z forward, mm."""

    times: np.ndarray
    """[T] float64 seconds from the start of the video, rising."""
    expression: Tensor
    """[T, E] weights of the template's expressions, by `template.expression_names`."""
    rotation: Tensor
    """[T, 3, 3] R."""
    translation: Tensor
    """[T, 3] t, mm."""
