"""Measures the errors of the landmark network and of the detector's scores on people it was not trained on."""

import torch
from landmark_training import Crops, predict
from torch import Tensor

from fmlfast.data.landmark_network import LandmarkNetwork
from fmlfast.data.mediapipe478 import NUM_POINTS, SCORE_NAMES

MODES = 32  # of the correlated errors
LEAST_OWN = 0.1  # share of a point's variance that is never taken to be correlated with other points'


def measure_points(network: LandmarkNetwork, crops: Crops) -> dict[str, Tensor]:
    """Measures the correlated errors of the surface points; see `fmlfast.model.detector_noise`.

    A frame's residuals are divided by its mean predicted deviation, so that easy frames count as much as hard ones.
    Persistence is the correlation of a mode's coefficients between two frames of one person.
    """
    found, spread = predict(network, crops)
    deviation = spread[:, :NUM_POINTS].exp()
    level = deviation.square().mean(1).sqrt()  # [N]
    residual = (found - crops.targets)[:, :NUM_POINTS] / level[:, None, None]
    flat = residual.flatten(1).double()
    values, vectors = torch.linalg.eigh(flat.T @ flat / len(flat))
    modes = (vectors * values.clamp(min=0).sqrt()).T.flip(0)[:MODES].view(MODES, NUM_POINTS, 2)
    total = residual.double().square().mean((0, 2))  # of one coordinate
    own = (1 - modes.square().sum(0).mean(1) / total).clamp(LEAST_OWN, 1)
    # The predicted deviations may be too small or large on average.
    scale = (total / (deviation / level[:, None]).double().square().mean(0)).mean()
    units = modes.flatten(1) / modes.flatten(1).square().sum(1, keepdim=True)
    amounts = flat @ units.T  # [N, R]
    first = torch.nonzero(crops.person[1:] == crops.person[:-1])[:, 0]
    shared = (amounts[first] * amounts[first + 1]).mean(0) / amounts.square().mean(0)
    return {
        "noise.modes": modes.float(),
        "noise.own": (own * scale).float(),
        "noise.shared": shared.clamp(0, 1).float(),
    }


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
