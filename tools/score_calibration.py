"""Measures what the detector's blendshape scores tell of the template's expressions."""

import torch
from torch import Tensor

from fmlfast.data.mediapipe478 import SCORE_NAMES


def measure_scores(scores: Tensor, expression: Tensor, names: tuple[str, ...]) -> dict[str, Tensor]:
    """Regresses the scores [N, 52] on the true coefficients [N, E] of the expressions `names`."""
    gain, offset, variance = (torch.zeros(len(SCORE_NAMES)) for _ in range(3))
    variance += 1.0
    for place, name in enumerate(SCORE_NAMES):
        if name not in names:
            continue
        truth, told = expression[:, names.index(name)].double(), scores[:, place].double()
        slope = ((truth - truth.mean()) * (told - told.mean())).mean() / truth.var(unbiased=False).clamp(min=1e-6)
        gain[place] = max(float(slope), 0.0)
        offset[place] = told.mean() - gain[place] * truth.mean()
        variance[place] = (told - gain[place] * truth - offset[place]).var().clamp(min=1e-4)
    return {"scores.gain": gain, "scores.offset": offset, "scores.variance": variance}
