"""Holds the folder of a video that is being tracked, so that an interrupted run goes on where it was."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from fmlfast.common.arguments import check_whole
from fmlfast.common.atomic import atomic_path
from fmlfast.common.locks import check_new
from fmlfast.common.stored_arrays import read_tensors
from fmlfast.common.tensor_file import write_tensors
from fmlfast.common.text_files import read_json
from fmlfast.reconstruction.track.estimate import Track

FORMAT = 1
SETTINGS = "settings.json"
OBSERVED, PIECES, MOTION = "observed", "pieces", "motion"  # folders


@dataclass(frozen=True)
class TrackSettings:
    """What a tracked video depends on."""

    video: str  # absolute path
    bytes: int
    modified: float
    model: str  # SHA-256
    refine: int
    texture: int
    seconds: float | None
    cameras: list[list[list[float]]] | None
    format: int = FORMAT

    @classmethod
    def of(
        cls,
        video: Path,
        model: str,
        refine: int,
        texture: int,
        seconds: float | None,
        cameras: Sequence[np.ndarray] | None,
    ) -> "TrackSettings":
        """Collects the settings; raises FileNotFoundError for a missing video, ValueError for other values."""
        if not video.is_file():
            raise FileNotFoundError(f"{video}: no such video")
        check_whole("refine", refine, 0)
        if seconds is not None and not (isinstance(seconds, int | float) and seconds > 0):
            raise ValueError(f"seconds must be a number above 0, got {seconds!r}")
        stat, told = video.stat(), None if cameras is None else [np.asarray(camera).tolist() for camera in cameras]
        return cls(str(video.resolve()), stat.st_size, stat.st_mtime, model, refine, texture, seconds, told)


def unfinished(out: Path) -> Path:
    """Returns the folder of the unfinished work on `out`."""
    return out.with_name(f"{out.name}.partial")


@dataclass(frozen=True)
class Project:
    """A folder of unfinished work beside the results to come."""

    folder: Path

    @classmethod
    def open(cls, folder: Path, settings: TrackSettings) -> "Project":
        """Opens or begins work in a folder; raises ValueError where it was begun with other settings."""
        path, wanted = folder / SETTINGS, json.loads(json.dumps(asdict(settings)))
        if path.is_file():
            stored = read_json(path)
            other = [name for name in wanted if stored.get(name) != wanted[name]]
            if other:
                raise ValueError(
                    f"{folder} holds work that was begun with other settings ({', '.join(other)}); remove it, or "
                    "choose another --out"
                )
        else:
            with atomic_path(path) as temporary:
                temporary.write_text(json.dumps(wanted, indent=1) + "\n")
        return cls(folder)

    @property
    def observed(self) -> Path:
        """Folder of what was seen of the faces."""
        return self.folder / OBSERVED

    def person(self, number: int) -> Path:
        """Folder of a person's reconstruction."""
        return self.folder / f"person-{number}"

    def piece(self, kind: str, segment: int) -> Path:
        """File of a piece of a video."""
        return self.folder / PIECES / f"{kind}-{segment:05d}.mp4"

    def windows(self, person: int, track: int) -> list[Track]:
        """Reads the windows of a track that were estimated."""
        found = []
        while (path := self._window(person, track, len(found))).is_file():
            found.append(Track.of_stored(path, read_tensors(path)))
        return found

    def add_window(self, person: int, track: int, number: int, window: Track) -> None:
        """Stores a window of a track."""
        with atomic_path(self._window(person, track, number)) as temporary:
            write_tensors(temporary, vars(window))

    def finish(self, out: Path) -> None:
        """Renames the folder to `out`, and removes what was needed on the way."""
        self.folder.rename(check_new(out))
        Project(out).clear()

    def clear(self) -> None:
        """Removes what was needed on the way."""
        (self.folder / SETTINGS).unlink()
        for name in (OBSERVED, PIECES, MOTION):
            if (self.folder / name).is_dir():  # several views store no motion
                shutil.rmtree(self.folder / name)

    def _window(self, person: int, track: int, number: int) -> Path:
        return self.folder / MOTION / f"{person}-{track}-{number:05d}.safetensors"
