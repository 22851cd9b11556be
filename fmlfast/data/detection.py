"""Holds what the face detector says of a clip's frames: its points and scores, and the surface points made of them."""

from dataclasses import dataclass, fields, replace

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from fmlfast.data.crop import Crop
from fmlfast.data.landmark_assets import FEATURES
from fmlfast.data.mediapipe478 import NUM_POINTS, NUM_SCORES
from fmlfast.data.tar_files import check
from fmlfast.ibug68 import NUM_LANDMARKS, OUTER_EYES

NUM_SURFACE = NUM_POINTS + NUM_LANDMARKS
LABELS: dict[str, tuple[int, ...]] = {
    "surface_labels": (NUM_POINTS, 2),
    "expression_labels": (NUM_SCORES,),
    "color_labels": (NUM_POINTS, 3),
}
"""What the renderer of synthetic clips knows of a frame: surface points in px, expressions in the scores' order, and
the reflectance around each surface point (`fmlfast.data.surface_cells`), linear RGB."""
_UNSURE = 0.03  # of the outer-eye distance


@dataclass(frozen=True)
class Detection:
    """The detector's output on M frames; where `found` is False the other arrays hold zeros.

    Raises ValueError when any field has a wrong shape, dtype or value.
    """

    found: np.ndarray  # [M] bool
    points: np.ndarray  # [M, 478, 2] float32 px, as the detector gives them
    surface: np.ndarray  # [M, 546, 2] float32 px, by the landmark network: the template's 478 tied points, 68 landmarks
    spread: np.ndarray  # [M, 546] float32 px, standard deviation of `surface`
    scores: np.ndarray  # [M, 52] float32 in 0..1, blendshapes in MediaPipe's order
    rotation: np.ndarray  # [M, 3, 3] float32, face to camera (OpenCV axes)
    features: np.ndarray  # [M, 2, 512] float32, the landmark network's of the frame and of its mirror image

    def __post_init__(self) -> None:
        frames = len(self.found)
        check(self.found.dtype == np.bool_ and self.found.shape == (frames,), "found must be bool [M]")
        for name, tail in _SHAPES.items():
            array = getattr(self, name)
            check(array.dtype == np.float32, f"{name} must be float32, got {array.dtype}")
            check(array.shape == (frames, *tail), f"{name} must be {[frames, *tail]}, got {list(array.shape)}")
            check(bool(np.isfinite(array).all()), f"{name} holds NaN or infinity")
        check(bool((self.spread[self.found] > 0).all()), "spread must be positive where a face was found")

    @property
    def confidence(self) -> np.ndarray:
        """Confidence [M, 68] of the landmarks in 0..1: half where they are uncertain by 3% of the eye distance."""
        eyes = self.surface[:, [NUM_POINTS + eye for eye in OUTER_EYES]]
        apart = np.linalg.norm(eyes[:, 0] - eyes[:, 1], axis=1)[:, None] + ~self.found[:, None]
        return (1 / (1 + (self.spread[:, NUM_POINTS:] / (_UNSURE * apart)) ** 2)).astype(np.float32)

    @classmethod
    def none(cls, frames: int) -> "Detection":
        """Returns the detection of frames in which no face was found."""
        empty = {name: np.zeros((frames, *tail), np.float32) for name, tail in _SHAPES.items()}
        return cls(np.zeros(frames, np.bool_), **empty)

    @classmethod
    def stack(cls, parts: "list[Detection]") -> "Detection":
        """Concatenates detections along the frames."""
        return cls(**{f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(cls)})

    def part(self, first: int, last: int) -> "Detection":
        """Returns the detection of frames `first`..`last`-1 only."""
        return Detection(**{f.name: getattr(self, f.name)[first:last] for f in fields(self)})

    def moved(self, scale: float, offset: np.ndarray | tuple[float, float] = (0.0, 0.0)) -> "Detection":
        """Maps pixels p to scale * p + offset."""
        shift = np.asarray(offset, np.float32) * self.found[:, None, None]
        places = {name: (getattr(self, name) * scale + shift).astype(np.float32) for name in ("points", "surface")}
        return replace(self, **places, spread=self.spread * np.float32(scale))

    def turned_over(self, width: float, height: float) -> "Detection":
        """Turns the picture, of this size in px, by 180 degrees."""
        corner = np.array([width, height], np.float32) * self.found[:, None, None]
        places = {name: (corner - getattr(self, name)).astype(np.float32) for name in ("points", "surface")}
        return replace(self, **places, rotation=np.diag(np.array([-1, -1, 1], np.float32)) @ self.rotation)


def to_bytes(detection: Detection | None, labels: dict[str, np.ndarray]) -> bytes:
    """Encodes a detection, where there is one, and a clip's labels by their names in `LABELS`, as safetensors."""
    arrays = {} if detection is None else {f.name: getattr(detection, f.name) for f in fields(detection)}
    return safetensors.numpy.save({name: np.ascontiguousarray(array) for name, array in (arrays | labels).items()})


def from_bytes(payload: bytes) -> tuple[Detection | None, dict[str, np.ndarray]]:
    """Inverts `to_bytes`; ValueError for anything else."""
    arrays = load_arrays(payload)
    labels = {name: arrays.pop(name) for name in LABELS if name in arrays}
    try:
        return (Detection(**arrays) if arrays else None), labels
    except TypeError as error:
        raise ValueError(f"damaged detection: {error}") from error


def load_arrays(payload: bytes) -> dict[str, np.ndarray]:
    """Decodes the arrays of a safetensors file; ValueError for anything else."""
    try:
        return safetensors.numpy.load(payload)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:  # a KeyError: NumPy has no such type
        raise ValueError(f"damaged safetensors: {error}") from error


def detection_to_crop(detection: Detection, crop: Crop, size: int) -> Detection:
    """Maps a detection from source pixels to pixels of the crop resampled to `size`."""
    scale = size / crop.side
    return detection.moved(scale, (-crop.x0 * scale, -crop.y0 * scale))


_SHAPES: dict[str, tuple[int, ...]] = {
    "points": (NUM_POINTS, 2),
    "surface": (NUM_SURFACE, 2),
    "spread": (NUM_SURFACE,),
    "scores": (NUM_SCORES,),
    "rotation": (3, 3),
    "features": (2, FEATURES),
}
