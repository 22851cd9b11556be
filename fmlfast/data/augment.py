"""Augments a batch on its device: horizontal flip, colour jitter, landmark noise and landmark dropout.

All random numbers come with the batch (`Draws`): the GPU draws none, nothing waits for it, and a CUDA graph can record
the augmentation.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from fmlfast.common.tensors import TensorBatch, constant
from fmlfast.data.frames import Frames
from fmlfast.data.mediapipe478 import MIRROR_POINTS, MIRROR_SCORES
from fmlfast.ibug68 import MIRROR, NUM_LANDMARKS


@dataclass
class Draws(TensorBatch):
    """Random numbers for B subjects of M frames, to be scaled by the strengths in AugmentConfig."""

    mirror: Tensor  # [B] bool, true half of the time
    undetected: Tensor  # [B] uniform in [0, 1]
    tint: Tensor  # [B, M, 3] normal: one number a frame, and 0.6 times one a channel
    noise: Tensor  # [B, M, 68, 2] standard normal
    hide: Tensor  # [B, M, 68] at least 0; below p for a share p of the landmarks, more in some frames than in others


@dataclass
class Batch(TensorBatch):
    """The input of a training step: frames as stored (uint8) and the random numbers of their augmentation."""

    frames: Frames
    draws: Draws


def draw(seed: int, slots: Sequence[int], frames: int) -> Draws:
    """Draws the random numbers for the clips at `slots` of the run.

    Clip i of step s of a global batch of n clips has slot s * n + i.

    Each slot has a counter-based generator of its own (Philox, keyed by seed and slot), so the numbers do not depend on
    the batch's size or on how it is split among processes. Raises ValueError for a negative seed or slot.
    """
    if seed < 0 or min(slots) < 0:
        raise ValueError(f"seed and slots must not be negative, got {seed} and {min(slots)}")
    subjects = len(slots)
    shared = np.empty((subjects, 2), np.float32)
    normal = np.empty((subjects, frames, 4 + 2 * NUM_LANDMARKS), np.float32)
    uniform = np.empty((subjects, frames, 1 + NUM_LANDMARKS), np.float32)
    for row, slot in enumerate(slots):
        rng = np.random.Generator(np.random.Philox(key=np.array([seed, slot], np.uint64)))
        rng.random(out=shared[row], dtype=np.float32)
        rng.standard_normal(out=normal[row], dtype=np.float32)
        rng.random(out=uniform[row], dtype=np.float32)
    # Hidden where u < p * 2 * u_frame, that is where u / (2 * u_frame) < p.
    hide = uniform[..., 1:] / np.maximum(2 * uniform[..., :1], np.finfo(np.float32).tiny)
    return Draws(
        mirror=torch.from_numpy(shared[:, 0] < 0.5),
        undetected=torch.from_numpy(shared[:, 1].copy()),
        tint=torch.from_numpy(normal[..., :1] + 0.6 * normal[..., 1:4]),
        noise=torch.from_numpy(normal[..., 4:].copy()).unflatten(-1, (NUM_LANDMARKS, 2)),
        hide=torch.from_numpy(hide),
    )


@dataclass(frozen=True)
class AugmentConfig:
    """Strengths of the training augmentation of images and of the landmarks given to the encoder; 0 switches it off."""

    mirror: bool = True
    """Flip half of the clips horizontally."""
    tint: float = 0.1
    """Colour jitter: standard deviation of the logarithm of the exposure; the channels differ by 0.6 times as much."""
    jitter: float = 0.005
    """Standard deviation of the noise on the encoder's landmarks, as a share of the image's side."""
    undetected: float = 0.25
    """Probability that a clip is shown with its stored landmarks, not the detector's points: both can be used then."""
    drop: float = 0.1
    """Landmark dropout: probability that a landmark is hidden from the encoder."""


def augment(batch: Batch, config: AugmentConfig) -> tuple[Frames, Tensor | None, Tensor | None]:
    """Applies the augmentation of `config` to a batch.

    Returns the augmented frames with float images; the noise to add to the encoder's landmarks, [B, M, 68, 2] px, or
    None; and the landmark mask, [B, M, 68] bool, True for landmarks that the encoder may see, or None for all.
    """
    frames, draws = batch.frames, batch.draws
    if config.mirror:
        frames = mirror(frames, draws.mirror)
    if config.undetected:
        frames = frames.undetected(draws.undetected < config.undetected)
    frames = tint(frames, draws.tint * config.tint) if config.tint else frames.unpacked()
    noise = draws.noise * (config.jitter * frames.images.shape[-1]) if config.jitter else None
    landmark_mask = draws.hide >= config.drop if config.drop else None
    return frames, noise, landmark_mask


def mirror(
    frames: Frames,
    chosen: Tensor,  # [B] bool
) -> Frames:
    """Flips all frames of the `chosen` subjects horizontally, with their landmarks and intrinsics."""
    size = frames.images.shape[-1]
    pick = chosen[:, None, None, None]
    swapped = constant(MIRROR, torch.int64, chosen.device)
    points = constant(MIRROR_POINTS, torch.int64, chosen.device)
    scores = constant(MIRROR_SCORES, torch.int64, chosen.device)

    def flipped(places: Tensor, table: Tensor) -> Tensor:  # [B, M, N, 2]
        other = places[:, :, table]
        return torch.where(pick, torch.cat([size - other[..., :1], other[..., 1:]], -1), places)

    def swap(values: Tensor, table: Tensor) -> Tensor:  # [B, M, N]
        return torch.where(pick[..., 0], values[:, :, table], values)

    Ks = frames.Ks.clone()
    Ks[..., 0, 2] = torch.where(chosen[:, None], size - Ks[..., 0, 2], Ks[..., 0, 2])
    # Rows of plain and mirrored subjects in turn: selecting rows copies memory, torch.where reads every pixel.
    both = torch.stack([frames.images, frames.images.flip(-1)], 1).flatten(0, 1)
    row = torch.arange(len(chosen), device=chosen.device) * 2 + chosen
    return Frames(
        images=both.index_select(0, row),
        landmarks=flipped(frames.landmarks, swapped),
        confidence=swap(frames.confidence, swapped),
        labels=flipped(frames.labels, swapped),
        label_confidence=swap(frames.label_confidence, swapped),
        surface_labels=flipped(frames.surface_labels, points),
        surface_known=frames.surface_known,
        expression_labels=swap(frames.expression_labels, scores),
        expression_known=frames.expression_known,
        color_labels=torch.where(pick, frames.color_labels[:, :, points], frames.color_labels),
        color_known=frames.color_known,
        Ks=Ks,
        surface=flipped(frames.surface, points),
        precision=swap(frames.precision, points),
        scores=swap(frames.scores, scores),
        features=torch.where(pick, frames.features.flip(2), frames.features),
        mask=frames.mask,
    )


def tint(
    frames: Frames,
    log_factor: Tensor,  # [B, M, 3]
) -> Frames:
    """Scales each colour channel by exp(log_factor); returns float images clamped to [0, 1]."""
    factor = torch.exp(log_factor)[..., None, None]
    if frames.images.is_floating_point():
        return replace(frames, images=(frames.images * factor).clamp_(0, 1))
    return replace(frames, images=frames.images.float().mul_(factor / 255).clamp_(max=1))
