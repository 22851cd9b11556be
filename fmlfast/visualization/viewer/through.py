"""Draws heads over the photo or video frame that shows them, fitted into the browser's window."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fmlfast.color import srgb_to_linear
from fmlfast.rotation import FRONTAL
from fmlfast.visualization.viewer.drawing import Camera, LitMesh, draw


@dataclass(frozen=True)
class Through:
    """A photo with the camera that took it; the camera sees the world frontally, from its origin in the world."""

    photo: np.ndarray  # [H, W, 3] uint8 sRGB
    K: Tensor  # [3, 3] px of the photo
    origin: Tensor  # [3] mm, where the world's origin is in the camera frame
    beside: bool = False  # show the photo alone beside it

    def draw(self, meshes: Sequence[LitMesh], behind: Tensor, samples: int) -> Tensor:
        """Draws meshes over the photo, as large as fits into the picture `behind`; linear [H, W, 3]."""
        height, width = behind.shape[:2]
        places = places_in(self.photo.shape[1], self.photo.shape[0], width, height, 2 if self.beside else 1)
        left, top, wide, high = places[-1]
        resized = Image.fromarray(self.photo).resize((wide, high), Image.Resampling.BILINEAR, reducing_gap=2.0)
        photo = srgb_to_linear(torch.from_numpy(np.array(resized)).float() / 255)
        device = meshes[0].vertices.device if meshes else photo.device
        picture = behind.clone()
        for x, y, w, h in places:
            picture[y : y + h, x : x + w] = photo
        camera = Camera(self.K, torch.tensor(FRONTAL), self.origin, self.photo.shape[1], self.photo.shape[0])
        drawn, _ = draw(meshes, camera.resized(wide, high).to(device), photo.to(device), samples)
        picture[top : top + high, left : left + wide] = drawn.cpu()
        return picture


def places_in(width: int, height: int, room_width: int, room_height: int, copies: int) -> list[tuple[int, ...]]:
    """Computes where copies of a picture go side by side, as large as fits: left, top, width, height of each, px."""
    share = room_width / copies
    scale = min(share / width, room_height / height)
    wide, high = max(1, int(width * scale)), max(1, int(height * scale))
    gap = (room_width - copies * wide) // (2 * copies)
    return [(gap + i * (wide + 2 * gap), (room_height - high) // 2, wide, high) for i in range(copies)]
