"""One video to clips, and the record of what was kept and why the rest was not."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np

from fmlfast.data.crop import K_to_crop, assumed_K, crop_image, crop_to_source, face_crop, points_to_crop
from fmlfast.data.face_detector import Face
from fmlfast.data.shards import Clip
from fmlfast.data.video.decode import CutDetector, Video
from fmlfast.data.video.tracking import FaceTrack, Tracker, pick_diverse, rejection_reason

_SOFT = 0.4  # of the track's median sharpness: a frame below it is blurred by motion, compared with its neighbours


class Detector(Protocol):
    """What finds faces: fmlfast.data.face_detector.FaceDetector."""

    def detect(self, image: np.ndarray, min_face: float = 0) -> list[Face]:
        """Faces in [H, W, 3] uint8."""
        ...


@dataclass(frozen=True)
class Rules:
    """What makes a clip: everything here changes what is written, so it is kept in meta.json."""

    size: int
    frames_per_clip: int
    min_frames: int
    min_face: float
    min_sharpness: float
    max_doubt: float
    rate: float
    clip_seconds: float


@dataclass(frozen=True)
class Source:
    """A video to prepare."""

    path: Path
    key: str  # from path, size and time of change: what makes it the same file on a later run
    name: str  # for people, unique in the folder of clips
    subject: str | None  # who it shows, when its folder says so


@dataclass
class ClipRecord:
    """What became of one face for a while."""

    subject: str
    start: float  # seconds
    end: float
    looked_at: int  # frames in which the face was found
    kept: int = 0
    rejected: dict[str, int] = field(default_factory=dict)  # reason -> frames
    key: str | None = None  # of the clip; None when there is none
    why_not: str = ""

    def __str__(self) -> str:
        rejected = ", ".join(f"{frames} {reason}" for reason, frames in self.rejected.items())
        verdict = f"kept {self.kept}" if self.key else f"nothing kept: {self.why_not}"
        spare = self.looked_at - self.kept - sum(self.rejected.values())
        details = ", ".join(filter(None, [rejected, f"{spare} to spare" if self.key and spare else ""]))
        times = f"{self.start:.1f}-{self.end:.1f} s"
        return f"{self.subject}, {times}, {count(self.looked_at, 'frame')}: {verdict}" + (
            f" ({details})" if details else ""
        )


@dataclass
class SourceRecord:
    """What became of one video."""

    name: str
    seconds: float = 0.0
    looked_at: int = 0  # frames searched for faces
    trouble: str = ""  # what could not be read
    clips: list[ClipRecord] = field(default_factory=list)

    @property
    def kept(self) -> int:
        """How many clips it gave."""
        return sum(clip.key is not None for clip in self.clips)

    def __str__(self) -> str:
        found = count(self.kept, "clip") if self.clips else "no face" if self.looked_at else "nothing to see"
        lines = [f"{self.name}: {found} in {self.seconds:.1f} s, {count(self.looked_at, 'frame')} looked at"]
        if self.trouble:
            lines.append(f"  trouble: {self.trouble}")
        return "\n".join([*lines, *(f"  {clip}" for clip in self.clips)])

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Self:
        """The inverse of to_json; TypeError or KeyError when it is something else."""
        return cls(**{**record, "clips": [ClipRecord(**clip) for clip in record["clips"]]})


@dataclass(frozen=True)
class _Shot:
    """One frame of a face that passed, already cropped."""

    time: float
    image: np.ndarray  # [S, S, 3] uint8
    landmarks: np.ndarray  # [68, 2] crop pixels
    confidence: np.ndarray  # [68]
    K: np.ndarray  # [3, 3]
    crop_to_source: np.ndarray  # [2, 3]
    rotation: np.ndarray  # [3, 3]
    detector_disagreement: float
    sharpness: float


@dataclass
class _Window:
    """A stretch of a track that becomes one clip at most."""

    track: FaceTrack
    start: float
    end: float
    looked_at: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    shots: list[_Shot] = field(default_factory=list)


def prepare_video(source: Source, rules: Rules, detector: Detector) -> tuple[SourceRecord, list[Clip]]:
    """Finds, follows, judges and crops the faces of one video. What cannot be read is noted in the record."""
    record = SourceRecord(source.name)
    video = Video(source.path)
    done: list[tuple[_Window, ClipRecord, Clip | None]] = []
    mains: dict[int, FaceTrack] = {}  # scene -> the person seen largest and longest
    try:
        for window in _windows(video, rules, detector, record):
            done.append((window, *_finish(window, f"{source.key}-{len(done):03d}", source.name, rules)))
            main = mains.setdefault(window.track.scene, window.track)
            if window.track.weight > main.weight:
                mains[window.track.scene] = window.track
    except ValueError as error:
        record.trouble = str(error)
    record.trouble = record.trouble or video.trouble
    clips = []
    for window, report, clip in sorted(done, key=lambda item: (item[0].track.number, item[0].start)):
        named = source.subject is not None and mains[window.track.scene] is window.track
        report.subject = source.subject if named and source.subject else f"{source.name}#{window.track.number}"
        record.clips.append(report)
        if clip is not None:
            clips.append(replace(clip, subject=report.subject))
    return record, clips


def _windows(video: Video, rules: Rules, detector: Detector, record: SourceRecord) -> Iterator[_Window]:
    """Stretches of single faces as they end; at most `clip_seconds` each."""
    tracker, cuts = Tracker(), CutDetector()
    active: dict[int, _Window] = {}
    due = -np.inf
    for frame in video.frames():
        record.seconds = max(record.seconds, frame.time)
        if cuts.step(frame.thumbnail()):
            tracker.cut()
            due = -np.inf  # a new scene is looked at from its first frame
        if frame.time < due:
            continue
        due = frame.time + 0.95 / rules.rate  # time stamps are rounded
        record.looked_at += 1
        image = frame.image()
        faces = detector.detect(image, rules.min_face)
        seen = tracker.update(frame.time, faces)
        alive = {track.number for track in tracker.active}
        for number in [n for n, w in active.items() if n not in alive or frame.time - w.start > rules.clip_seconds]:
            yield active.pop(number)
        for face, track in zip(faces, seen, strict=True):
            window = active.setdefault(track.number, _Window(track, frame.time, frame.time))
            window.end = frame.time
            window.looked_at += 1
            reason, value = rejection_reason(image, face, rules.min_face, rules.max_doubt, rules.min_sharpness)
            if reason:
                window.rejected[reason] += 1
            else:
                window.shots.append(_render(image, face, frame.time, value, rules.size))
    yield from active.values()


def _render(image: np.ndarray, face: Face, time: float, sharpness: float, size: int) -> _Shot:
    crop = face_crop(face.landmarks)
    return _Shot(
        time=time,
        image=crop_image(image, crop, size),
        landmarks=points_to_crop(face.landmarks, crop, size),
        confidence=face.confidence,
        K=K_to_crop(assumed_K(image.shape[1], image.shape[0]), crop, size),
        crop_to_source=crop_to_source(crop, size),
        rotation=face.rotation,
        detector_disagreement=face.detector_disagreement,
        sharpness=sharpness,
    )


def _finish(window: _Window, key: str, name: str, rules: Rules) -> tuple[ClipRecord, Clip | None]:
    """Chooses the frames of a window; the subjects are settled by the caller, who sees all windows."""
    floor = _SOFT * float(np.median([shot.sharpness for shot in window.shots])) if window.shots else 0.0
    shots = [shot for shot in window.shots if shot.sharpness >= floor]
    window.rejected["blurred"] += len(window.shots) - len(shots)
    rejected = {reason: frames for reason, frames in window.rejected.most_common() if frames}
    record = ClipRecord("", window.start, window.end, window.looked_at, rejected=rejected)
    if len(shots) < rules.min_frames:
        record.why_not = f"{count(len(shots), 'usable frame')}, {rules.min_frames} needed"
        return record, None
    rotations, doubts = (
        np.stack([shot.rotation for shot in shots]),
        np.array([shot.detector_disagreement for shot in shots]),
    )
    times = np.array([shot.time for shot in shots])
    kept = [shots[index] for index in pick_diverse(rotations, times, doubts, rules.frames_per_clip)]
    record.key, record.kept = clip_key(name, key), len(kept)
    clip = Clip(
        key=record.key,
        subject="unknown",
        source=name,
        images=np.stack([shot.image for shot in kept]),
        landmarks=np.stack([shot.landmarks for shot in kept]).astype(np.float32),
        confidence=np.stack([shot.confidence for shot in kept]).astype(np.float32),
        Ks=np.stack([shot.K for shot in kept]).astype(np.float32),
        crop_to_source=np.stack([shot.crop_to_source for shot in kept]).astype(np.float32),
        times=np.array([shot.time for shot in kept], np.float32),
        focal_source="assumed",
    )
    return record, clip


def count(number: int, thing: str) -> str:
    """ "1 clip", "2 clips"."""
    return f"{number} {thing}{'' if number == 1 else 's'}"


def clip_key(name: str, key: str) -> str:
    """A clip's key that people can read: the file's name, then what makes it unique."""
    stem = re.sub(r"[^A-Za-z0-9]+", "_", Path(name).stem).strip("_")[:40]
    return f"{stem or 'video'}-{key}"
