"""Augmentation of a batch on its device: mirror, roll, scale, shift and colour, with landmarks and cameras following."""

import torch
import torch.nn.functional as F
from torch import Tensor

from fmlfast._constants import constant
from fmlfast.data.landmarks import MIRROR
from fmlfast.frames import Frames


def mirror(frames: Frames, chosen: Tensor) -> Frames:
    """Mirrors all frames of the `chosen` [B] bool subjects: a mirrored person is a person too."""
    size = frames.images.shape[-1]
    pick = chosen[:, None, None, None]
    swapped = constant(MIRROR, torch.int64, chosen.device)
    flipped = frames.landmarks[:, :, swapped]
    flipped = torch.cat([size - flipped[..., :1], flipped[..., 1:]], -1)
    Ks = frames.Ks.clone()
    Ks[..., 0, 2] = torch.where(chosen[:, None], size - Ks[..., 0, 2], Ks[..., 0, 2])
    return Frames(
        images=torch.where(pick[..., None], frames.images.flip(-1), frames.images),
        landmarks=torch.where(pick, flipped, frames.landmarks),
        confidence=torch.where(pick[..., 0], frames.confidence[:, :, swapped], frames.confidence),
        Ks=Ks,
        mask=frames.mask,
    )


def tint(frames: Frames, strength: float) -> Frames:
    """Scales each frame's exposure and colour channels by log-normal factors of that spread."""
    shape = frames.images.shape[:2]
    device = frames.images.device
    log = torch.randn(*shape, 3, 1, 1, device=device) * 0.6 + torch.randn(*shape, 1, 1, 1, device=device)
    return Frames(
        images=(frames.images * torch.exp(strength * log)).clamp(0, 1),
        landmarks=frames.landmarks,
        confidence=frames.confidence,
        Ks=frames.Ks,
        mask=frames.mask,
    )


def warp(frames: Frames, roll: float, scale: float, shift: float) -> Frames:
    """Rolls, scales and shifts the images at random (standard deviations in radians, log and share of the side).

    The scale is common to a subject's frames and goes into the focal length. The camera's K stays upper triangular:
    it cannot hold a roll, so the warp keeps the principal point's image as the turning centre.
    """
    subjects, count = frames.mask.shape
    device, size = frames.images.device, frames.images.shape[-1]
    total = subjects * count
    factor = torch.exp(torch.randn(subjects, device=device) * scale).repeat_interleave(count)
    angle = torch.randn(total, device=device) * roll
    offset = torch.randn(total, 2, device=device) * (shift * size)
    cos, sin = torch.cos(angle) * factor, torch.sin(angle) * factor
    matrix = torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)
    Ks = frames.Ks.flatten(0, 1).clone()
    center = Ks[:, :2, 2].clone()
    # out = matrix (in - center) + center + offset; grid_sample wants the inverse in [-1, 1] coordinates.
    inverse = torch.linalg.inv(matrix)
    half = size / 2
    back = half - center - offset
    move = (inverse @ back[..., None])[..., 0] + center
    theta = torch.cat([inverse, ((move - half) / half)[..., None]], 2)
    grid = F.affine_grid(theta, [total, 3, size, size], align_corners=False)
    images = F.grid_sample(frames.images.flatten(0, 1), grid, padding_mode="reflection", align_corners=False)
    landmarks = (frames.landmarks.flatten(0, 1) - center[:, None]) @ matrix.transpose(1, 2)
    Ks[:, 0, 0] *= factor
    Ks[:, 1, 1] *= factor
    Ks[:, :2, 2] += offset
    shape = (subjects, count)
    return Frames(
        images=images.unflatten(0, shape),
        landmarks=(landmarks + (center + offset)[:, None]).unflatten(0, shape),
        confidence=frames.confidence,
        Ks=Ks.unflatten(0, shape),
        mask=frames.mask,
    )
