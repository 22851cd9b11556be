"""Holds a person tracked through a video, and writes it to and reads it from a folder."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fmlfast.common.atomic import atomic_path
from fmlfast.common.stored_arrays import read_arrays
from fmlfast.common.text_files import checked_json, read_json
from fmlfast.common.version import __version__
from fmlfast.reconstruction.blendshape_csv import write_blendshape_csv
from fmlfast.reconstruction.gaze import eye_rotations
from fmlfast.reconstruction.head import Head, Motion
from fmlfast.reconstruction.head_files import write_head
from fmlfast.reconstruction.result import CONVENTIONS, Reconstruction
from fmlfast.reconstruction.track.estimate import Track
from fmlfast.reconstruction.transforms_json import write_transforms_json

FACE, PARAMETERS, ARRAYS = "face", "parameters.json", "parameters.npz"
HEAD, ANIMATION, SHEET, CAMERAS = "head.glb", "animation.glb", "arkit.csv", "transforms.json"
FORMAT = 1


@dataclass(frozen=True)
class TrackedPerson:
    """A person in T frames of a video: one head, and its pose, expression, gaze and light in each."""

    face: Reconstruction
    """The person in the frames that identity, skin tone and texture were taken from."""
    track: Track
    """Pose, expression and light, frame by frame."""
    K: np.ndarray
    """[3, 3] float32 intrinsics of the frames, pixels."""
    size: tuple[int, int]
    """Width and height of the frames, pixels."""
    video: Path
    """The video; it may have moved since."""
    scale: float | None = None
    """True millimetres per millimetre of the model, where several cameras at known places tell it."""

    @property
    def head(self) -> Head:
        """The neutral head with its colours and expressions."""
        return self.face.head()

    @property
    def motion(self) -> Motion:
        """Expression and pose along time."""
        track = self.track
        return Motion(track.time.numpy(), track.expression, track.rotation, track.translation)

    @property
    def Ks(self) -> np.ndarray:
        """Intrinsics of each frame, [T, 3, 3] pixels."""
        return np.repeat(self.K[None], len(self.track.time), 0)

    @property
    def sh(self) -> Tensor:
        """Light of each frame, [T, 9, 3]."""
        return self.track.sh

    def parameters(self) -> dict[str, Any]:
        """Returns what parameters.json holds; arrays are in parameters.npz."""
        track, times = self.track, self.track.time
        return {
            "fmlfast": __version__,
            "format": FORMAT,
            "model": self.face.model,
            "conventions": CONVENTIONS,
            "video": str(self.video),
            "width": self.size[0],
            "height": self.size[1],
            "K": self.K.tolist(),
            "focal_source": self.face.focal_sources[0],
            "scale": self.scale,
            "frames": len(times),
            "seen": int(track.seen.sum()),
            "seconds": [float(times[0]), float(times[-1])],
            "expression_names": list(self.face.template.expression_names),
            "skin": self.face.parameters()["skin"],
            "arrays": {name: f"{list(values.shape)} {str(values.dtype)[6:]}" for name, values in vars(track).items()},
        }

    def write_files(self, folder: Path) -> None:
        """Writes parameters, ARKit's weights, the moving head and the cameras into a folder that exists.

        `parameters.npz` and `.json`, `arkit.csv`, `head.glb`, `animation.glb`, `transforms.json`.
        """
        template, track, motion = self.face.template, self.track, self.motion
        with atomic_path(folder / ARRAYS) as temporary:
            np.savez_compressed(temporary, **{name: values.numpy() for name, values in vars(track).items()})
        with atomic_path(folder / PARAMETERS) as temporary:
            temporary.write_text(checked_json(self.parameters()))
        eyes, names = eye_rotations(template, track.expression), template.expression_names
        write_blendshape_csv(folder / SHEET, motion.times, names, track.expression, track.rotation, eyes)
        write_head(folder / HEAD, self.head)
        write_head(folder / ANIMATION, self.head, motion=motion)
        images = [f"frames/{int(number):06d}.png" for number in track.frame]
        place = track.rotation, track.translation
        write_transforms_json(folder / CAMERAS, images, motion.times, *place, self.K, *self.size)

    @classmethod
    def load(cls, folder: str | Path) -> "TrackedPerson":
        """Reads a person's folder that `fmlfast track` wrote.

        Raises ValueError, naming folder or file, where it is none, is damaged, or was written by another version.
        """
        folder = Path(folder)
        if not (folder / ARRAYS).is_file() or not (folder / PARAMETERS).is_file():
            raise ValueError(f"{folder} is no person of `fmlfast track`: {ARRAYS} or {PARAMETERS} is missing")
        try:
            stored = read_json(folder / PARAMETERS)
            if stored["format"] != FORMAT:
                raise ValueError(f"format {stored['format']} was written by fmlfast {stored['fmlfast']}")
            arrays = {name: torch.from_numpy(array) for name, array in read_arrays(folder / ARRAYS).items()}
            track = Track.of_stored(ARRAYS, arrays)
            size = int(stored["width"]), int(stored["height"])
            K, video, scale = np.array(stored["K"], np.float32), Path(stored["video"]), stored["scale"]
            if (
                not len(track.frame)
                or K.shape != (3, 3)
                or not np.isfinite(K).all()
                or not 0 < min(size) <= max(size) < 2**16
            ):
                raise ValueError("it has no frames, or K, width or height are not those of a camera")
            if scale is not None and not 0 < scale < math.inf:
                raise ValueError(f"scale must be a positive number, not {scale!r}")
        except (KeyError, TypeError, ValueError, OverflowError, OSError) as error:
            raise ValueError(f"{folder} cannot be read ({error}); track the video anew") from error
        face = Reconstruction.load(folder / FACE)
        if track.expression.shape[1] != len(face.template.expressions):
            raise ValueError(f"{folder} cannot be read: {ARRAYS} and {FACE} have different expressions")
        return cls(face, track, K, size, video, scale)


def load_people(folder: str | Path) -> Sequence[TrackedPerson]:
    """Reads all people of a folder that `fmlfast track` wrote, the one seen most first."""
    found = [path for path in Path(folder).glob("person-*") if path.name[7:].isdecimal()]
    folders = sorted(found, key=lambda path: int(path.name[7:]))
    if not folders:
        raise ValueError(f"{folder} is no result of `fmlfast track`: there is no person-0 in it")
    return [TrackedPerson.load(path) for path in folders]
