"""Defines the face parameters that the encoder predicts."""

import math
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from fmlfast.common.tensors import TensorBatch

_NONE = math.log1p(math.exp(-2.5))  # softplus where the landmark fit and the encoder see no expression


@dataclass
class Codes(TensorBatch):
    """Face parameters of B subjects in M frames each."""

    identity: Tensor  # [B, K + N] code alpha, then coefficients of the first N smooth fields; N may be 0
    reflectance: Tensor  # [B, Kr] code beta
    tone: Tensor  # [B, 3] skin tone: log of the mean face colour over that of the model's base reflectance
    detail: Tensor  # [B, U, 3] added to the reflectance before its tone; on any level of the mesh, or U = 0
    rotation: Tensor  # [B, M, 3, 3] model frame -> camera frame
    translation: Tensor  # [B, M, 3] mm
    sh: Tensor  # [B, M, 9, 3] light: spherical harmonics coefficients by colour channel
    expression: Tensor  # [B, M, E] blendshape coefficients delta, at least 0


def expression_from(
    began: Tensor,  # [F, E] of the landmark fit
    delta: Tensor,  # [F, E] the encoder's output
) -> Tensor:  # [F, E]
    """Computes expressions near `began`, at least 0. Most are 0, so that is reached, with a gradient as elsewhere."""
    free = (F.softplus(10 * began - 2.5 + delta) - _NONE) / 10
    return free + (free.clamp(min=0.0) - free).detach()
