"""How a picture is rasterised, for both backends."""

from typing import NamedTuple

from torch import Tensor


class Layer(NamedTuple):
    """What of a picture counts for those behind it."""

    triangle_id: Tensor  # [F, H, W] int32
    depth: Tensor  # [F, H, W]


class Picture(NamedTuple):
    """How a picture is drawn; with a camera, Ks, in camera space, else in clip space."""

    height: int
    width: int
    cull_backfaces: bool = False
    near: float = 0.0  # mm, in camera space
    ranges: Tensor | None = None  # [F, 2] int32, CPU: first triangle and number of a frame; the frames share vertices
    behind: Layer | None = None  # only what lies behind is drawn
    derivatives: bool = False
