"""The architecture of a model that tests can afford."""

from fmlfast.model.config import ModelConfig

SMALL = ModelConfig(
    level=0,
    image_size=64,
    input_size=32,
    channels=(8, 16),
    width=32,
    identity_dim=6,
    reflectance_dim=4,
    complement_rank=10,
    smooth_basis=True,
)
