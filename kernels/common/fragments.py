"""What a rasterised picture holds, for the operations that read it."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Fragments:
    """What each pixel sees.

    Attributes:
        triangle_id: [F, H, W] int32, index of the visible triangle, -1 where there is none.
        barycentrics: [F, H, W, 3] float32, perspective-correct weights of its three corners, 0 where there is none.
        depth: [F, H, W] float32, camera z in mm, or z/w of clip space; inf where there is none.
        derivatives: [F, H, W, 4] float32, if asked for: d b0/dx, d b0/dy, d b1/dx, d b1/dy of the weights of corners 0
            and 1, a pixel, x along rows and y along columns; 0 where there is none.

    Clip-space pictures of float64 vertices are float64.
    """

    triangle_id: Tensor  # [F, H, W]
    barycentrics: Tensor  # [F, H, W, 3]
    depth: Tensor  # [F, H, W]
    derivatives: Tensor | None = None  # [F, H, W, 4]
