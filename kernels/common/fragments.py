"""What a rasterised picture holds, for the operations that read it."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Fragments:
    """What each pixel sees.

    Attributes:
        triangle_id: [F, H, W] int32, index of the visible triangle, -1 where there is none.
        barycentrics: [F, H, W, 3] float32, perspective-correct weights of its three corners, 0 where there is none.
        depth: [F, H, W] float32, camera z in mm, inf where there is none.
        derivatives: [F, H, W, 4] float32, (d b0/dx, d b0/dy, d b1/dx, d b1/dy) per pixel of the barycentrics, 0 where
            there is none; None unless asked for.
    """

    triangle_id: Tensor  # [F, H, W]
    barycentrics: Tensor  # [F, H, W, 3]
    depth: Tensor  # [F, H, W]
    derivatives: Tensor | None = None  # [F, H, W, 4]
