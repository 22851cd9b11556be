"""The settings of a model's architecture, and the template that they name."""

from dataclasses import dataclass, fields
from typing import Any, Literal

from fmlfast.template.face_template import FaceTemplate


@dataclass(frozen=True)
class ModelConfig:
    """The architecture: what a checkpoint needs to be loaded."""

    template: str = "default"
    """"default", or a folder for FaceTemplate.from_folder."""
    template_unit: Literal["mm", "cm", "dm", "m"] = "mm"
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
    inputs: Literal["aligned", "paper"] = "aligned"
    """What the network gets. "aligned": the image turned, scaled and shifted by the landmarks, these landmarks beside
    it, and a head pose from a closed-form fit to them to start from. "paper": the plain crop alone."""
    shape_init: bool = True
    """Start shape and expressions, too, from a fit of smooth fields to the landmarks of all frames, whose prior is
    learned from the clips' landmarks before training; needs aligned inputs."""
    light_fit: bool = True
    """Fit light to the image in closed form, given geometry and reflectance; False predicts it (the paper)."""
    light_complement: bool = True
    """Take from reflectance what light can do; without it light and skin colour are mixed (the paper)."""
    visibility: Literal["zbuffer", "backface"] = "zbuffer"
    """Which vertices the photometric term may see."""

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> "ModelConfig":
        """The config as a checkpoint holds it, also one of before `inputs` took the place of three switches.

        Raises ValueError for settings that this version does not know.
        """
        known = {name: tuple(value) if isinstance(value, list) else value for name, value in stored.items()}
        switches = {known.pop(name) for name in ("aligned_crop", "landmark_input", "pose_init") if name in known}
        if len(switches) == 1:
            known["inputs"] = "aligned" if switches.pop() else "paper"
        for name in ("residual_expressions", "signed_expressions"):
            if not known.get(name):
                known.pop(name, None)
        unknown = known.keys() - {field.name for field in fields(cls)}
        if unknown or switches:
            raise ValueError(f"this version has no setting {', '.join(sorted(unknown)) or 'for such inputs'}")
        return cls(**known)


def load_template(config: ModelConfig) -> FaceTemplate:
    """The template that a config names, at its level."""
    if config.template == "default":
        return FaceTemplate.default(config.level)
    return FaceTemplate.from_folder(config.template, unit=config.template_unit, level=config.level)
