"""The settings of a model's architecture, and the template that they name."""

from dataclasses import dataclass
from typing import Literal

from fmlfast.template.face_template import FaceTemplate


@dataclass(frozen=True)
class ModelConfig:
    """The architecture: what a checkpoint needs to be loaded."""

    template: str = "default"
    """"default", or a folder for FaceTemplate.from_folder."""
    template_unit: Literal["mm", "cm", "m"] = "mm"
    """Unit of that folder's files."""
    level: int = 2
    """Subdivision level of the mesh that is trained: 0, 1 or 2."""
    image_size: int = 240
    """Side in px of the images that the losses see."""
    input_size: int = 240
    """Side in px of the network's input."""
    channels: tuple[int, ...] = (64, 128, 256, 384)
    """Channels of the tower's stride-2 stages."""
    width: int = 512
    """Width of the dense layers."""
    identity_dim: int = 500
    reflectance_dim: int = 500
    complement_rank: int | None = None
    """Expression directions that the learned identity basis may not use: None for all (the paper), 0 for none."""
    smooth_basis: bool = False
    """Learn the identity basis within smooth, nearly symmetric fields on the graph; False learns it freely (paper)."""
    aligned_crop: bool = True
    """Turn, scale and shift the network's input by the landmarks; False feeds the plain crop (the paper)."""
    landmark_input: bool = True
    """Feed the aligned landmarks to the network beside the image; False is the paper's setting."""
    pose_init: bool = True
    """Start the pose from a closed-form fit to the landmarks; False predicts all of it (the paper)."""
    shape_init: bool = True
    """Start shape and expressions, too, from a fit of smooth fields to the landmarks of all frames, whose prior is
    learned from the clips' landmarks before training; needs pose_init."""
    light_fit: bool = True
    """Fit light to the image in closed form, given geometry and reflectance; False predicts it (the paper)."""
    light_complement: bool = True
    """Take from reflectance what light can do; without it light and skin colour are mixed (the paper)."""
    signed_expressions: bool = False
    """Let expression coefficients be negative; blendshapes are made for positive ones."""
    visibility: Literal["zbuffer", "backface"] = "zbuffer"
    """Which vertices the photometric term may see."""
    residual_expressions: int = 0
    """Expressions learned beside the fixed ones, of movements that neither these nor identity make; the paper: 0."""


def load_template(config: ModelConfig) -> FaceTemplate:
    """The template that a config names, at its level."""
    if config.template == "default":
        return FaceTemplate.default(config.level)
    return FaceTemplate.from_folder(config.template, unit=config.template_unit, level=config.level)
