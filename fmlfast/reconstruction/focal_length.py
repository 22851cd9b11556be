"""The focal length of photos that do not tell it: what perspective shows at the landmarks of one or several frames."""

import math
from dataclasses import replace

import torch
from torch import Tensor

from fmlfast.data.frames import Frames
from fmlfast.model.fml import FML
from fmlfast.reconstruction.refinement import refine_measured

_TRIED = (0.5, 0.7, 1.0, 1.4, 2.0)  # times the focal length that was assumed
_STEPS = 30
_PRIOR = 0.01  # cost of being off by a factor of e: a guess is mostly right within 1.4


@torch.no_grad()
def focal_factor(model: FML, frames: Frames) -> Tensor:  # [B]
    """By what factor, from 0.5 to 2, each subject's focal lengths in `frames` should be multiplied.

    The network's codes are refined under five focal lengths by landmarks and priors, and the factor is where a parabola
    through the lowest loss and its neighbours has its least. One factor for all frames of a subject, as of one camera.
    What it reaches: docs/refinement.md.
    """
    losses = []
    for tried in _TRIED:
        scaled = scale_focal(frames, frames.Ks.new_full(frames.mask.shape[:1], tried))
        start = model.codes(model.observe(scaled))  # landmarks need no light
        loss = refine_measured(model, scaled, start, _STEPS, photometric=False)[1]
        losses.append(loss + _PRIOR * math.log(tried) ** 2)
    cost, place = torch.stack(losses, 1), frames.Ks.new_tensor(_TRIED).log()  # [B, 5], [5], evenly spaced
    middle = cost.argmin(1).clamp(1, len(_TRIED) - 2)
    before, here, after = (cost.gather(1, middle[:, None] + step)[:, 0] for step in (-1, 0, 1))
    bend = before + after - 2 * here
    offset = torch.where(bend > 0, 0.5 * (before - after) / bend, torch.sign(before - after)).clamp(-1, 1)
    return (place[middle] + offset * (place[1] - place[0])).exp()


def scale_focal(
    frames: Frames,
    factor: Tensor,  # [B], or [B, M] to each frame its own
) -> Frames:
    """The same frames seen by cameras with focal lengths times `factor`; principal points stay."""
    Ks = frames.Ks.clone()
    Ks[:, :, :2, :2] *= factor.reshape(len(Ks), -1, 1, 1)
    return replace(frames, Ks=Ks)
