"""Defines the settings of a model's architecture, and loads the template that they name."""

from dataclasses import dataclass, fields
from typing import Any, Literal

from fmlfast.common.typed import of_values
from fmlfast.template.face_template import FaceTemplate

LIMITS = {"level": (0, 2), "image_size": (16, 4096), "input_size": (1, 4096)} | dict.fromkeys(
    ("width", "identity_dim", "reflectance_dim"), (1, 2**24)
)


@dataclass(frozen=True)
class ModelConfig:
    """Settings of the architecture; a checkpoint stores them."""

    template: str = "default"
    """Face template: "default", or a folder for FaceTemplate.from_folder."""
    template_unit: Literal["mm", "cm", "dm", "m"] = "mm"
    """Length unit of the template folder's files."""
    level: int = 2
    """Subdivision level of the mesh that is trained: 0, 1 or 2."""
    image_size: int = 240
    """Side in px of the images that the losses compare."""
    input_size: int = 240
    """Side in px of the encoder's input image."""
    channels: tuple[int, ...] = (64, 128, 256, 384)
    """Channels of the encoder's stride-2 convolution stages."""
    width: int = 512
    """Width of the encoder's dense layers."""
    identity_dim: int = 500
    """Length of the identity code."""
    reflectance_dim: int = 500
    """Length of the reflectance code."""
    complement_rank: int | None = None
    """Number of expression directions projected out of the identity basis; None: all (the paper), 0: none."""
    smooth_basis: bool = False
    """Learn the identity basis in the span of smooth Gaussian process modes; False learns it freely (the paper)."""
    inputs: Literal["aligned", "paper"] = "aligned"
    """Input of the encoder; "paper": the plain crop alone; "aligned": the image aligned by the landmarks, and these.
    With aligned inputs the head pose is predicted relative to a fit to the landmarks (PnP)."""
    shape_init: bool = True
    """Predict shape and expressions relative to a fit of Gaussian process modes to the landmarks of all frames.
    Its prior is learned from the clips' landmarks (EM) before training. Needs aligned inputs."""
    landmark_features: bool = True
    """Give the encoder the landmark network's features of each frame. Needs aligned inputs."""
    learned_mean: bool = True
    """Learn the mean face; False keeps the template's (the paper)."""
    light_fit: bool = True
    """Fit light to the image by least squares, given geometry and reflectance; False predicts it (the paper)."""
    light_complement: bool = True
    """Project the nine shading directions out of reflectance; False leaves light and skin colour mixed (the paper)."""
    visibility: Literal["zbuffer", "backface"] = "zbuffer"
    """Vertices that the photometric loss uses: unoccluded ones (zbuffer), or all that face the camera (backface)."""

    def __post_init__(self) -> None:
        if self.inputs not in ("aligned", "paper"):
            raise ValueError(f"inputs must be aligned or paper, not {self.inputs!r}")
        for name, (least, most) in LIMITS.items():
            if not least <= getattr(self, name) <= most:
                raise ValueError(f"{name} must lie in {least}..{most}, got {getattr(self, name)}")
        if not self.channels or min(self.channels) < 1:
            raise ValueError(f"channels must be one or more numbers above 0, got {list(self.channels)}")

    @property
    def described(self) -> bool:
        """Whether the encoder gets the landmark network's features."""
        return self.inputs == "aligned" and self.landmark_features

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> "ModelConfig":
        """Reads the settings stored in a checkpoint, including old ones with three switches instead of `inputs`.

        Raises ValueError for settings that this version does not know, or of another type.
        """
        if not isinstance(stored, dict):
            raise ValueError(f"the settings of the model must be an object, not {type(stored).__name__}")
        known: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in stored.items()}
        switches = {name: known.pop(name) for name in ("aligned_crop", "landmark_input", "pose_init") if name in known}
        if len({*switches.values()}) == 1:
            known["inputs"] = "aligned" if switches.popitem()[1] else "paper"
            switches.clear()
        known = {"learned_mean": False, "landmark_features": False} | known  # not in checkpoints of before
        for name in ("residual_expressions", "signed_expressions"):
            if not known.get(name):
                known.pop(name, None)
        if unknown := (known | switches).keys() - {field.name for field in fields(cls)}:
            named = ", ".join(sorted(unknown))
            raise ValueError(f"this version has no setting {named}; train anew, or use the version that trained it")
        return of_values(cls, known)


def load_template(config: ModelConfig) -> FaceTemplate:
    """Loads the template that a config names, at its level."""
    if config.template == "default":
        return FaceTemplate.default(config.level)
    return FaceTemplate.from_folder(config.template, unit=config.template_unit, level=config.level)
