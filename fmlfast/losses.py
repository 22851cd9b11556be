"""One function a term of the training loss (paper section 5). Distances in mm, pixels as stated, colours linear."""

import torch
from torch import Tensor

from fmlfast.alignment import NUM_JAW
from fmlfast.kernels._gather import gather_rows


def landmark_loss(
    predicted: Tensor,  # [F, 66, 2] px
    detected: Tensor,  # [F, 66, 2] px
    confidence: Tensor,  # [F, 66] in [0, 1]
    size: int,  # px, side of the image
    jaw_weight: float,
) -> Tensor:  # [F]
    """mean_i w_i c_i (sqrt(1 + d_i^2) - 1), d_i the distance in percent of the image's side; w_i = jaw_weight for
    the sliding jaw line, 1 else. Charbonnier, as detectors have outliers."""
    distance = ((predicted - detected) * (100.0 / size)).square().sum(-1)
    weight = torch.ones_like(confidence)
    weight[:, :NUM_JAW] = jaw_weight
    return ((torch.sqrt(1 + distance) - 1) * weight * confidence).mean(1)


def membrane_loss(
    displacements: Tensor,  # [B, G, 3] mm
    edges: Tensor,  # [N, 2] pairs of neighbouring nodes
) -> Tensor:  # [B]
    """mean_{(i,j)} ||t_i - t_j||^2, the linearised membrane energy on the graph."""
    rows = displacements.transpose(0, 1).flatten(1)  # [G, 3B]: long rows make gathers fast
    i, j = gather_rows(rows, edges.T).unbind()
    return (i - j).square().mean(0).view(len(displacements), 3).sum(1)


def displacement_loss(
    displacements: Tensor,  # [B, G, 3] mm
) -> Tensor:  # [B]
    """mean_i ||t_i||^2: of all explanations the one nearest to the template."""
    return displacements.square().sum(-1).mean(1)


def expression_loss(
    delta: Tensor,  # [F, E]
    sigma: float = 1.0,
) -> Tensor:  # [F]
    """sum_u (delta_u / sigma)^2."""
    return (delta / sigma).square().sum(-1)
