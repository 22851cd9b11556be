"""Writes what is seen of every face in every frame of a video, segment by segment: the first pass of tracking.

A segment's clips lie in `sNNNNN-000000.tar` (see `fmlfast.data.shards`), its times and the follower's state in
`sNNNNN.json`, which is written last: an interrupted pass goes on after the last segment that has one.
"""

import json
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fmlfast.common.atomic import atomic_path
from fmlfast.common.text_files import read_json
from fmlfast.common.typed import of_values
from fmlfast.data.crop import K_to_crop, crop_image, crop_to_source, face_crop, points_to_crop
from fmlfast.data.detection import Detection, detection_to_crop
from fmlfast.data.face_detector import FaceDetector, Glimpse
from fmlfast.data.mediapipe478 import NUM_POINTS
from fmlfast.data.shards import Clip, ShardWriter, list_clips, read_clip
from fmlfast.data.video.decode import CutDetector, Video
from fmlfast.data.video.tracking import sharpness
from fmlfast.ibug68 import INNER, OUTER_EYES
from fmlfast.reconstruction.track.follow import FaceFollower, Followed
from fmlfast.reconstruction.track.threads import ahead

SEGMENT = 256  # frames
SHARP_EVERY = 0.2  # seconds between frames of a track whose sharpness is measured: the candidates for identity
CUT_MEMORY = 60  # frames that the cut detector sees again where an interrupted pass goes on
IN_FLIGHT = 8  # looks that wait for the landmark network, at most
QUALITY = 95  # of the crops' JPEGs


@dataclass(frozen=True)
class Sight:
    """What is known of one face in one frame, beside its clip."""

    frame: int  # number in the video
    time: float  # seconds
    uncertainty: float  # mean standard deviation of the inner landmarks, share of the outer-eye distance
    sharpness: float  # see `sharpness`; -1 where it was not measured
    side: float  # px of the video, of the face's crop
    rotation: tuple[float, ...]  # 9, the detector's, row by row; empty where the sharpness was not measured


@dataclass(frozen=True)
class Segment:
    """A segment of a video that has been observed."""

    number: int
    first: int  # number of its first frame
    times: tuple[float, ...]  # of all its frames, seconds
    tracks: dict[int, tuple[Sight, ...]]  # those that were seen, by track
    cuts: tuple[int, ...]  # numbers of frames that begin a new scene
    state: dict[str, Any]  # of the follower, after its last frame

    @property
    def end(self) -> int:
        """Number of the frame after its last one."""
        return self.first + len(self.times)


def observed_segments(folder: Path) -> list[Segment]:
    """Reads the segments that were finished, in order."""
    found: list[Segment] = []
    while (path := _json_path(folder, len(found))).is_file():
        stored = read_json(path)
        try:
            tracks = {int(n): tuple(_sight(told) for told in sights) for n, sights in stored.pop("tracks").items()}
            listed = {name: tuple(stored.pop(name)) for name in ("times", "cuts")}
            found.append(of_values(Segment, {**stored, **listed, "number": len(found), "tracks": tracks}))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{path}: damaged ({error}); remove {folder} to observe the video anew") from error
    return found


def read_sights(folder: Path, segment: Segment, track: int) -> Clip:
    """Reads the crops and detections of a track in a segment, in the order of its sights."""
    (ref,) = (ref for ref in list_clips(folder, _split(segment.number)) if ref.key == _key(track))
    return read_clip(ref)


def observe_video(
    video: Video,
    folder: Path,
    K: np.ndarray,  # [3, 3] px
    size: int,
    detector: FaceDetector,
    last: float | None,
    count: Callable[[int], object],
) -> Iterator[Segment]:
    """Observes a video from where `folder` ends up to `last` seconds; yields each segment once it is written.

    K: intrinsics of the frames, or a guess. size: side of the crops, px. `count` is called for every frame.
    """
    before = observed_segments(folder)
    start = before[-1].end if before else 0
    follower, measured = FaceFollower(detector), {}
    if before:
        state = before[-1].state
        tracks = [Followed(t["number"], np.array(t["landmarks"]), t["time"]) for t in state["tracks"]]
        follower = FaceFollower(detector, tracks, state["count"], state["searched"])
        measured = {int(number): time for number, time in state["measured"].items()}
    pending = _Pending(len(before), start, measured)
    cuts, waiting = CutDetector(), deque[Future[_Look]]()
    with ThreadPoolExecutor(1) as pool, closing(ahead(_frames(video, start, last))) as frames:
        for number, time, image, thumbnail in frames:
            cut = cuts.step(thumbnail)
            if image is None:
                continue
            if cut:
                pending.cuts.append(number)
            pending.times.append(time)
            for track, glimpse in follower.step(time, image, cut):
                job = pool.submit(_look, number, time, image, glimpse, K, size, pending.measure(track, time))
                pending.sights.setdefault(track, []).append(job)
                waiting.append(job)
                if len(waiting) > IN_FLIGHT:  # each holds its frame
                    waiting.popleft().result()
            count(1)
            if len(pending.times) == SEGMENT:
                yield pending.write(folder, video.path.name, follower)
                pending = pending.next()
        if pending.times:
            yield pending.write(folder, video.path.name, follower)


@dataclass(frozen=True)
class _Look:
    sight: Sight
    image: np.ndarray  # [S, S, 3] uint8
    landmarks: np.ndarray  # [68, 2] crop px
    confidence: np.ndarray  # [68]
    detection: Detection
    K: np.ndarray
    crop_to_source: np.ndarray


class _Pending:
    """Collects a segment."""

    def __init__(self, number: int, first: int, measured: dict[int, float] | None = None) -> None:
        self.number, self.first = number, first
        self.times: list[float] = []
        self.cuts: list[int] = []
        self.sights: dict[int, list[Future[_Look]]] = {}
        self._measured = measured or {}  # time of each track's last measured sharpness

    def measure(self, track: int, time: float) -> bool:
        """Tells whether the sharpness of a track's frame is to be measured."""
        due = time - self._measured.get(track, -np.inf) >= SHARP_EVERY
        if due:
            self._measured[track] = time
        return due

    def next(self) -> "_Pending":
        """Begins the next segment."""
        return _Pending(self.number + 1, self.first + len(self.times), self._measured)

    def write(self, folder: Path, source: str, follower: FaceFollower) -> Segment:
        """Waits for the looks, and writes clips and then the record."""
        split = _split(self.number)
        for stale in folder.glob(f"{split}-*.tar"):  # of a pass that was interrupted here
            stale.unlink()
        looks = {track: [job.result() for job in jobs] for track, jobs in self.sights.items()}
        with ShardWriter(folder, split, quality=QUALITY) as writer:
            for track, seen in looks.items():
                writer.add(_clip(track, source, seen))
        tracks = [{**asdict(track), "landmarks": track.landmarks.tolist()} for track in follower.tracks]
        segment = Segment(
            self.number,
            self.first,
            tuple(self.times),
            {track: tuple(look.sight for look in seen) for track, seen in looks.items()},
            tuple(self.cuts),
            {
                "tracks": tracks,
                "count": follower.count,
                "searched": follower.searched,
                "measured": {str(number): time for number, time in self._measured.items()},
            },
        )
        stored = {key: value for key, value in asdict(segment).items() if key != "number"}
        with atomic_path(_json_path(folder, self.number)) as temporary:
            temporary.write_text(json.dumps(stored))
        return segment


def _frames(video: Video, start: int, last: float | None) -> Iterator[tuple[int, float, np.ndarray | None, np.ndarray]]:
    """Decodes frames from number `start` on; shortly before it only their thumbnails."""
    for number, frame in enumerate(video.frames()):
        if last is not None and frame.time > last:
            return
        if number >= start - CUT_MEMORY:
            yield number, frame.time, frame.image() if number >= start else None, frame.thumbnail()


def _look(
    number: int, time: float, image: np.ndarray, glimpse: Glimpse, K: np.ndarray, size: int, measured: bool
) -> _Look:
    """Runs the landmark network on a glimpse and crops the face."""
    detection = glimpse.detection()
    marks, spread = detection.surface[0, NUM_POINTS:], detection.spread[0, NUM_POINTS:]
    eyes = float(np.linalg.norm(np.subtract(*marks[list(OUTER_EYES)])))
    crop = face_crop(marks)
    sight = Sight(
        frame=number,
        time=time,
        uncertainty=float(spread[INNER].mean()) / max(eyes, 1e-6),
        sharpness=sharpness(image, marks) if measured else -1.0,
        side=crop.side,
        rotation=tuple(detection.rotation[0].flatten().tolist()) if measured else (),
    )
    return _Look(
        sight,
        crop_image(image, crop, size),
        points_to_crop(marks, crop, size),
        detection.confidence[0],
        detection_to_crop(detection, crop, size),
        K_to_crop(K, crop, size),
        crop_to_source(crop, size),
    )


def _sight(stored: dict[str, Any]) -> Sight:
    return of_values(Sight, {**stored, "rotation": tuple(stored["rotation"])})


def _clip(track: int, source: str, looks: list[_Look]) -> Clip:
    return Clip(
        key=_key(track),
        subject=_key(track),
        source=source,
        images=np.stack([look.image for look in looks]),
        landmarks=np.stack([look.landmarks for look in looks]),
        confidence=np.stack([look.confidence for look in looks]),
        Ks=np.stack([look.K for look in looks]),
        crop_to_source=np.stack([look.crop_to_source for look in looks]),
        times=np.array([look.sight.time for look in looks], np.float32),
        focal_source="assumed",
        detection=Detection.stack([look.detection for look in looks]),
    )


def _split(segment: int) -> str:
    return f"s{segment:05d}"


def _key(track: int) -> str:
    return f"track-{track}"


def _json_path(folder: Path, segment: int) -> Path:
    return folder / f"{_split(segment)}.json"
