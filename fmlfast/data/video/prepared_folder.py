"""Holds the settings of `fmlfast prepare`, and opens the folders that it writes."""

import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from fmlfast.common.atomic import atomic_path
from fmlfast.common.locks import SUFFIX
from fmlfast.common.text_files import read_json
from fmlfast.common.version import __version__
from fmlfast.data.landmark_assets import landmarks_version
from fmlfast.data.meta import check_landmarks
from fmlfast.data.shards import MOST_PIXELS, read_meta
from fmlfast.data.video.clips import Rules, SourceRecord, count

GENERATOR = "prepare"
PARTS = "parts"  # subfolder that holds the parts until they are merged
CLIPS_A_SHARD = 1024
MOST_REPORT = 2**30  # bytes of report.json, which grows with the videos
_PART = re.compile(r"([1-9]\d*)/([1-9]\d*)")


@dataclass(frozen=True)
class PrepareConfig:
    """Inputs, output and frame selection of `fmlfast prepare`."""

    inputs: Annotated[tuple[Path, ...], Positional, arg(metavar="VIDEOS...")]
    """Video files, and folders to search for them; in VoxCeleb's layout id/video/clip.mp4 the id is the subject."""
    out: Path
    """Output folder of the clips; a second run adds the videos that are missing."""
    split: str = "train"
    """Name of the split that the clips are added to."""
    size: int = 256
    """Side of the square crops, pixels."""
    frames_per_clip: int = 4
    """Largest number of frames in a clip; they are selected for different poses."""
    min_frames: int = 2
    """Smallest number of usable frames for a clip."""
    min_face: float = 200
    """Smallest face, pixels of the source, forehead to chin or ear to ear, whichever is longer."""
    min_sharpness: float = 0.05
    """Least sharpness of a face (Laplacian variance over grey variance); clear: 0.1 to 0.6, blurred: 0.02."""
    max_doubt: float = 0.015
    """Most landmark difference between a face and its mirror image, share of its size; clear: 0.005, hidden: 0.02."""
    rate: float = 6
    """Frames searched for faces, per second of video."""
    clip_seconds: float = 20
    """Longest time span of a clip, seconds; a longer track gives several clips of one subject."""
    workers: int = 0
    """Number of processes; 0: one per CPU, 1: no subprocess."""
    part: str = ""
    """Share of the videos to prepare, such as 2/8: one machine of a job array; the parts lie in OUT/parts."""
    merge: bool = False
    """Merge the parts in OUT/parts into OUT, after checking that all of the videos are prepared."""
    face_landmarker: Path | None = None
    """MediaPipe's model file face_landmarker.task; taken from the cache or downloaded when not given."""

    def __post_init__(self) -> None:
        if self.part:
            match = _PART.fullmatch(self.part)
            if match is None or int(match[1]) > int(match[2]):
                raise ValueError(f"part must be I/N with 1 <= I <= N, such as 2/8, got {self.part!r}")
            if self.merge:
                raise ValueError("name either --part or --merge, not both")
        for name in ("min_face", "min_sharpness", "workers"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        for name in ("max_doubt", "rate", "clip_seconds"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if not 1 <= self.min_frames <= self.frames_per_clip <= 999:
            raise ValueError(
                f"1 <= min_frames <= frames_per_clip <= 999 must hold, got {self.min_frames} and {self.frames_per_clip}"
            )
        if not 16 <= self.size <= 4096:
            raise ValueError(f"size must lie in 16..4096, got {self.size}")
        if self.frames_per_clip * self.size**2 > MOST_PIXELS:
            raise ValueError(f"{self.frames_per_clip} frames of {self.size} px are too many for one clip")

    @property
    def share(self) -> tuple[int, int] | None:
        """Returns the number of this part, from 1, and of all parts; None when the videos are not shared."""
        if not self.part:
            return None
        number, parts = self.part.split("/")
        return int(number), int(parts)

    @property
    def folder(self) -> Path:
        """Returns the folder that clips are written to: `out`, or that of the part."""
        return self.out if self.share is None else self.out / PARTS / "{}-of-{}".format(*self.share)

    @property
    def rules(self) -> Rules:
        """Returns the settings that change the clips written."""
        return Rules(**{name: getattr(self, name) for name in Rules.__dataclass_fields__})


@dataclass
class PrepareReport:
    """Records of all videos prepared into a folder, by this run and earlier ones, by source key."""

    sources: dict[str, SourceRecord] = field(default_factory=dict)
    new: int = 0
    """Number of videos that this run prepared."""

    @property
    def clips(self) -> int:
        """Returns the number of clips in the folder."""
        return sum(record.kept for record in self.sources.values())

    def __str__(self) -> str:
        records = sorted(self.sources.values(), key=lambda record: record.name)
        earlier = f", {len(records) - self.new} of them done before" if len(records) > self.new else ""
        return "\n".join(
            [*map(str, records), f"{count(self.clips, 'clip')} from {count(len(records), 'video')}{earlier}"]
        )


def folder_meta(config: PrepareConfig) -> dict[str, Any]:
    """Builds the content of meta.json for a folder with these settings."""
    made = {"generator": GENERATOR, "version": __version__, "landmarks": landmarks_version()}
    return made | {"settings": asdict(config.rules)}


def check_folder(out: Path) -> None:
    """Raises ValueError for what can hold no clips: a file, or a folder of other things."""
    if not out.exists():
        return
    if not out.is_dir():
        raise ValueError(f"{out} is a file; choose another output")
    strange = any(path.name != PARTS and path.suffix != SUFFIX for path in out.iterdir())
    if strange and not (out / "meta.json").exists():
        raise ValueError(f"{out} is not empty and holds no prepared clips; choose another output")


def open_folder(out: Path, config: PrepareConfig) -> PrepareReport:
    """Reads the report of earlier runs in `out`; ValueError when the folder cannot be added to."""
    check_folder(out)
    report = PrepareReport()
    if not (out / "meta.json").exists():
        return report
    meta = read_meta(out)
    check_landmarks(out)
    if meta.get("generator") != GENERATOR or meta.get("settings") != folder_meta(config)["settings"]:
        raise ValueError(
            f"{out} holds clips made in another way: {meta.get('generator')} with {meta.get('settings')}, "
            f"not {GENERATOR} with {asdict(config.rules)}; choose another output"
        )
    path = out / "report.json"
    if path.exists():
        try:
            stored = read_json(path, MOST_REPORT)["sources"]
            report.sources = {key: SourceRecord.from_json(record) for key, record in stored.items()}
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{path}: damaged ({error}); delete it to have all videos looked at again") from error
    return report


def write_report(out: Path, report: PrepareReport) -> None:
    """Writes the report into a folder of clips, whole or not at all."""
    stored = {key: record.to_json() for key, record in report.sources.items()}
    with atomic_path(out / "report.json") as temporary:
        temporary.write_text(json.dumps({"clips": report.clips, "sources": stored}, indent=1) + "\n")
