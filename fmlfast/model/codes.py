"""Everything the model knows of faces: what comes out of the encoder."""

from dataclasses import dataclass

from torch import Tensor

from fmlfast.common.tensors import TensorBatch


@dataclass
class Codes(TensorBatch):
    """Everything the model knows of B subjects in M frames each."""

    identity: Tensor  # [B, K + N] alpha, then coefficients of the first N smooth fields; N may be 0
    reflectance: Tensor  # [B, Kr] beta
    rotation: Tensor  # [B, M, 3, 3] model frame -> camera frame
    translation: Tensor  # [B, M, 3] mm
    sh: Tensor  # [B, M, 9, 3] light
    expression: Tensor  # [B, M, E] delta
