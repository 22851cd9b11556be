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
    """

    triangle_id: Tensor  # [F, H, W]
    barycentrics: Tensor  # [F, H, W, 3]
    depth: Tensor  # [F, H, W]
