"""Defines the face parameters that the encoder predicts."""

from dataclasses import dataclass

from torch import Tensor

from fmlfast.common.tensors import TensorBatch


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
