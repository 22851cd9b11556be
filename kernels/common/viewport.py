"""Clip space seen as camera space: the point (x, y, w) by the camera K = [[W/2, 0, W/2], [0, H/2, H/2], [0, 0, 1]].

The first row of the image is at y = -1, as in OpenGL: column W/2 (x/w + 1), row H/2 (y/w + 1).
"""

import torch
from torch import Tensor

OBLIQUE = 2.0**-20
"""A vertex whose w is less than this part of its other coordinates stays homogeneous: its pixel may not be a number."""


def viewport_camera(
    frames: int,
    height: int,
    width: int,
    like: Tensor,  # whose dtype and device are taken
) -> Tensor:  # [F, 3, 3]
    """Makes the camera above for every frame, without waiting for a GPU."""
    K = torch.zeros(3, 3, dtype=like.dtype, device=like.device)
    K[0, ::2] = width / 2
    K[1, 1:] = height / 2
    K[2, 2] = 1
    return K.repeat(frames, 1, 1)
