"""Names and loads the shipped file of the landmark network, without importing torch before it is needed."""

import hashlib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

FEATURES = 512  # of a frame, which the encoder gets
ASSETS = Path(__file__).with_name("landmarks.safetensors")


@cache
def landmark_assets() -> dict[str, "Tensor"]:
    """Loads the shipped file: the network's weights (`network.`) and what the detector's scores tell (`scores.`)."""
    from safetensors.torch import load_file

    from fmlfast.common.tensors import independent

    return independent(load_file)(ASSETS)


@cache
def landmarks_version() -> str:
    """Returns 16 hex digits of the shipped file: features and points of one network mean nothing to another."""
    return hashlib.sha256(ASSETS.read_bytes()).hexdigest()[:16]
