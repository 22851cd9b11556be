"""Makes frames worse in landmarks, image or focal length, the same way every time."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from fmlfast.color import linear_to_srgb
from fmlfast.data.frames import Frames
from fmlfast.ibug68 import OUTER_EYES
from fmlfast.reconstruction.focal_length import scale_focal

Disturb = Callable[[Frames], Frames]


def eye_distance(frames: Frames) -> Tensor:
    """Returns the distance between the outer corners of the eyes as detected, px, [B, M, 1, 1]."""
    left, right = (frames.landmarks[:, :, point] for point in OUTER_EYES)
    return (left - right).norm(dim=-1)[..., None, None]


def noise(share: float, frames: Frames) -> Frames:
    """Adds normal noise to landmarks, its standard deviation a share of the eye distance."""
    drawn = torch.randn(frames.landmarks.shape, generator=torch.Generator().manual_seed(0)).to(frames.landmarks)
    return replace(frames, landmarks=frames.landmarks + share * eye_distance(frames) * drawn)


def bias(share: float, frames: Frames) -> Frames:
    """Moves landmarks as a biased detector does: each is off in a direction of its own, the same in all frames."""
    angle = 2 * torch.pi * torch.rand(68, generator=torch.Generator().manual_seed(0)).to(frames.landmarks)
    offset = torch.stack([angle.cos(), angle.sin()], -1)
    return replace(frames, landmarks=frames.landmarks + share * eye_distance(frames) * offset)


def occlusion(share: float, frames: Frames) -> Frames:
    """Covers a share of the box around the landmarks by a grey square; landmarks stay."""
    low, high = frames.landmarks.amin(2), frames.landmarks.amax(2)  # [B, M, 2]
    side = (share * (high - low).prod(-1, keepdim=True)).sqrt()
    place = torch.rand(low.shape, generator=torch.Generator().manual_seed(0)).to(low)
    corner = low + place * (high - low - side).clamp(min=0)
    grid = torch.arange(frames.images.shape[-1], device=low.device) + 0.5
    across = (grid >= corner[..., None]) & (grid < (corner + side)[..., None])  # [B, M, 2, S]
    covered = across[:, :, 0, None, :] & across[:, :, 1, :, None]  # [B, M, S, S]
    return replace(frames, images=torch.where(covered[:, :, None], 0.5, frames.unpacked().images))


def light(factor: tuple[float, float, float], frames: Frames) -> Frames:
    """Multiplies linear RGB by a factor."""
    return _relit(frames, frames.linear * torch.tensor(factor, device=frames.images.device)[:, None, None])


def contrast(factor: float, frames: Frames) -> Frames:
    """Draws linear RGB away from its mean over the image."""
    mean = frames.linear.mean((-1, -2), keepdim=True)
    return _relit(frames, mean + factor * (frames.linear - mean))


def side_light(strength: float, frames: Frames) -> Frames:
    """Multiplies linear RGB by a ramp from 1 - strength to 1 + strength across the face, left to right."""
    low, high = frames.landmarks[..., 0].amin(2), frames.landmarks[..., 0].amax(2)  # [B, M]
    columns = torch.arange(frames.images.shape[-1], device=low.device) + 0.5
    across = ((columns - low[..., None]) / (high - low)[..., None]).clamp(0, 1)  # [B, M, S]
    return _relit(frames, frames.linear * (1 + strength * (2 * across - 1))[:, :, None, None, :])


def focal(factor: float, frames: Frames) -> Frames:
    """Scales the focal length of the intrinsics."""
    return scale_focal(frames, frames.Ks.new_full(frames.Ks.shape[:1], factor))


def _relit(frames: Frames, linear: Tensor) -> Frames:
    return replace(frames, images=linear_to_srgb(linear.clamp(0, 1)))


DISTURBANCES: dict[str, Disturb] = {
    **{f"landmark noise {100 * s:g} % of the eye distance": partial(noise, s) for s in (0.01, 0.02, 0.04)},
    **{f"landmark bias {100 * s:g} % of the eye distance": partial(bias, s) for s in (0.02, 0.04)},
    **{f"{100 * s:g} % of the face covered": partial(occlusion, s) for s in (0.1, 0.25, 0.5)},
    "half as bright": partial(light, (0.5, 0.5, 0.5)),
    "1.6 times as bright": partial(light, (1.6, 1.6, 1.6)),
    "reddish light": partial(light, (1.3, 1.0, 0.7)),
    "1.5 times the contrast": partial(contrast, 1.5),
    "light from the side": partial(side_light, 0.6),
    "focal length 0.7 times the true one": partial(focal, 0.7),
    "focal length 1.4 times the true one": partial(focal, 1.4),
}
