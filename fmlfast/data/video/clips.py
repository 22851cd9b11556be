"""Converts one video to clips and records which frames were kept, and why the others were rejected."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np

from fmlfast.common.typed import of_values
from fmlfast.data.crop import K_to_crop, assumed_K, crop_image, crop_to_source, face_crop, points_to_crop
from fmlfast.data.detection import Detection, detection_to_crop
from fmlfast.data.face_detector import Face
from fmlfast.data.shards import Clip
from fmlfast.data.video.decode import CutDetector, Video
from fmlfast.data.video.tracking import FaceTrack, Tracker, pick_diverse, rejection_reason

_SOFT = 0.4  # times the track's median sharpness: a frame below it has motion blur


class Detector(Protocol):
    """Interface of face detectors, such as fmlfast.data.face_detector.FaceDetector."""

    def detect(self, image: np.ndarray, min_face: float = 0) -> list[Face]:
        """Detects the faces of an image [H, W, 3] uint8 sRGB; those below `min_face` pixels may be missed."""
        ...


@dataclass(frozen=True)
class Rules:
    """Settings that change the clips written; meta.json holds them. See PrepareConfig for their meaning."""

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
    key: str  # hash of path, size and modification time: recognises the file on a later run
    name: str  # for display, unique in the folder of clips
    subject: str | None  # the person's name, where the folder's layout gives it


@dataclass
class ClipRecord:
    """Counts of kept and rejected frames of one face during one time window."""

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
    """Result of preparing one video: its clips, rejected frames and read errors."""

    name: str
    seconds: float = 0.0
    looked_at: int = 0  # frames searched for faces
    trouble: str = ""  # what could not be read
    clips: list[ClipRecord] = field(default_factory=list)

    @property
    def kept(self) -> int:
        """Returns the number of clips written from this video."""
        return sum(clip.key is not None for clip in self.clips)

    def __str__(self) -> str:
        found = count(self.kept, "clip") if self.clips else "no face" if self.looked_at else "nothing to see"
        lines = [f"{self.name}: {found} in {self.seconds:.1f} s, {count(self.looked_at, 'frame')} looked at"]
        if self.trouble:
            lines.append(f"  trouble: {self.trouble}")
        return "\n".join([*lines, *(f"  {clip}" for clip in self.clips)])

    def to_json(self) -> dict[str, Any]:
        """Converts the record to JSON types."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Self:
        """Inverts `to_json`; TypeError, KeyError or ValueError for anything else."""
        return of_values(cls, {**record, "clips": [of_values(ClipRecord, clip) for clip in record["clips"]]})


@dataclass(frozen=True)
class _Shot:
    """A cropped face of one frame that passed the rejection tests."""

    time: float
    image: np.ndarray  # [S, S, 3] uint8
    landmarks: np.ndarray  # [68, 2] crop pixels
    confidence: np.ndarray  # [68]
    detection: Detection  # of one frame, crop pixels
    K: np.ndarray  # [3, 3]
    crop_to_source: np.ndarray  # [2, 3]
    rotation: np.ndarray  # [3, 3]
    detector_disagreement: float
    sharpness: float


@dataclass
class _Window:
    """A time window of a face track, which gives one clip at most."""

    track: FaceTrack
    start: float
    end: float
    looked_at: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    shots: list[_Shot] = field(default_factory=list)


def prepare_video(source: Source, rules: Rules, detector: Detector) -> tuple[SourceRecord, list[Clip]]:
    """Detects, tracks, filters and crops the faces of one video; read errors are noted in the record."""
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
    """Yields the windows of face tracks as they end, of at most `clip_seconds` each."""
    tracker, cuts = Tracker(), CutDetector()
    active: dict[int, _Window] = {}
    due = -np.inf
    for frame in video.frames():
        record.seconds = max(record.seconds, frame.time)
        if cuts.step(frame.thumbnail()):
            tracker.cut()
            due = -np.inf  # a new scene is searched from its first frame
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
                window.shots.append(_crop_face(image, face, frame.time, value, rules.size))
    yield from active.values()


def _crop_face(image: np.ndarray, face: Face, time: float, sharpness: float, size: int) -> _Shot:
    crop = face_crop(face.landmarks)
    return _Shot(
        time=time,
        image=crop_image(image, crop, size),
        landmarks=points_to_crop(face.landmarks, crop, size),
        confidence=face.confidence,
        detection=detection_to_crop(face.detection, crop, size),
        K=K_to_crop(assumed_K(image.shape[1], image.shape[0]), crop, size),
        crop_to_source=crop_to_source(crop, size),
        rotation=face.rotation,
        detector_disagreement=face.detector_disagreement,
        sharpness=sharpness,
    )


def _finish(window: _Window, key: str, name: str, rules: Rules) -> tuple[ClipRecord, Clip | None]:
    """Selects the frames of a window's clip; the caller, who sees all windows, sets the subject."""
    floor = _SOFT * float(np.median([shot.sharpness for shot in window.shots])) if window.shots else 0.0
    shots = [shot for shot in window.shots if shot.sharpness >= floor]
    window.rejected["blurred"] += len(window.shots) - len(shots)
    rejected = {reason: frames for reason, frames in window.rejected.most_common() if frames}
    record = ClipRecord("", window.start, window.end, window.looked_at, rejected=rejected)
    if len(shots) < rules.min_frames:
        record.why_not = f"{count(len(shots), 'usable frame')}, {rules.min_frames} needed"
        return record, None
    rotations, times = np.stack([shot.rotation for shot in shots]), np.array([shot.time for shot in shots])
    disagreements = np.array([shot.detector_disagreement for shot in shots])
    kept = [shots[index] for index in pick_diverse(rotations, times, disagreements, rules.frames_per_clip)]
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
        detection=Detection.stack([shot.detection for shot in kept]),
    )
    return record, clip


def count(number: int, thing: str) -> str:
    """Formats a number of things: "1 clip", "2 clips"."""
    return f"{number} {thing}{'' if number == 1 else 's'}"


def clip_key(name: str, key: str) -> str:
    """Builds a readable clip key: the file's name, then `key`, which makes it unique."""
    stem = re.sub(r"[^A-Za-z0-9]+", "_", Path(name).stem).strip("_")[:40]
    return f"{stem or 'video'}-{key}"
