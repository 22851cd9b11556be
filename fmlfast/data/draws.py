"""The random numbers of augmentation: a clip's depend on the seed and its place in the run, and on nothing else."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fmlfast.data.shards import LANDMARKS
from fmlfast.frames import Frames, SubjectBatch


@dataclass
class Draws(SubjectBatch):
    """Plain random numbers for B subjects of M frames; AugmentConfig's strengths turn them into changes."""

    mirror: Tensor  # [B] bool, true half of the time
    tint: Tensor  # [B, M, 3] normal: one number a frame, and 0.6 times one a channel
    similarity: Tensor  # [B, M, 4] standard normal: roll, scale (one number for all frames of a subject), shift x, y
    noise: Tensor  # [B, M, 68, 2] standard normal
    hide: Tensor  # [B, M, 68] at least 0; below p for a share p of the landmarks, more in some frames than in others


@dataclass
class Batch(SubjectBatch):
    """What a training step starts from: frames as they are stored (uint8), and the numbers that will change them."""

    frames: Frames
    draws: Draws


def draw(seed: int, slots: Sequence[int], frames: int) -> Draws:
    """Draws for the clips at `slots` of the run (clip i of step s of a global batch of n is slot s * n + i).

    Each slot has a counter-based generator of its own (Philox, keyed by seed and slot), so the numbers do not depend on
    the batch's size or on how it is split among processes. Raises ValueError for a negative seed or slot.
    """
    if seed < 0 or min(slots) < 0:
        raise ValueError(f"seed and slots must not be negative, got {seed} and {min(slots)}")
    subjects = len(slots)
    shared = np.empty((subjects, 2), np.float32)
    normal = np.empty((subjects, frames, 8 + 2 * LANDMARKS), np.float32)
    uniform = np.empty((subjects, frames, 1 + LANDMARKS), np.float32)
    for row, slot in enumerate(slots):
        rng = np.random.Generator(np.random.Philox(key=np.array([seed, slot], np.uint64)))
        rng.standard_normal(out=shared[row], dtype=np.float32)
        rng.standard_normal(out=normal[row], dtype=np.float32)
        rng.random(out=uniform[row], dtype=np.float32)
    normal[..., 5] = shared[:, 1:]
    # Hidden where u < p * 2 * u_frame, that is where u / (2 * u_frame) < p.
    hide = uniform[..., 1:] / np.maximum(2 * uniform[..., :1], np.finfo(np.float32).tiny)
    return Draws(
        mirror=torch.from_numpy(shared[:, 0] < 0),
        tint=torch.from_numpy(normal[..., :1] + 0.6 * normal[..., 1:4]),
        similarity=torch.from_numpy(normal[..., 4:8].copy()),
        noise=torch.from_numpy(normal[..., 8:].copy()).unflatten(-1, (LANDMARKS, 2)),
        hide=torch.from_numpy(hide),
    )
