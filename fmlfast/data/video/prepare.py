"""Converts videos to training clips: `fmlfast prepare VIDEOS... --out DIR`.

Every video is decoded once. Scenes are split at cuts; faces are detected in about six frames a second and tracked by
their landmarks. Frames with a small, cut-off, blurred or uncertain face are rejected; of the rest the M with the most
different poses become a clip. Several videos are prepared at once, each in its own process.
"""

import hashlib
import json
import multiprocessing
import os
import re
from collections import deque
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

from tqdm import tqdm
from tyro.conf import Positional, arg

from fmlfast.common.atomic import atomic_path
from fmlfast.common.extras import require
from fmlfast.common.version import __version__
from fmlfast.data.detector_model import face_landmarker_file
from fmlfast.data.face_detector import FaceDetector
from fmlfast.data.landmark_assets import landmarks_version
from fmlfast.data.meta import check_landmarks
from fmlfast.data.shards import Clip, ShardWriter, list_clips, list_splits, read_meta, write_meta
from fmlfast.data.video.clips import Rules, Source, SourceRecord, count, prepare_video
from fmlfast.data.video.decode import VIDEO_SUFFIXES

GENERATOR = "prepare"
_CLIPS_A_SHARD = 256
_CRASHED = "reading it crashed the process"
_VOXCELEB_ID = re.compile(r"id\d+")  # id00012/video/00001.mp4


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
    face_landmarker: Path | None = None
    """MediaPipe's model file face_landmarker.task; taken from the cache or downloaded when not given."""

    def __post_init__(self) -> None:
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


def prepare(config: PrepareConfig) -> PrepareReport:
    """Converts videos to clips in `config.out`: shards, meta.json and report.json.

    A video that was prepared before, by path, size and modification time, is skipped, unless it crashed its process. A
    file that cannot be read is reported, not fatal. An interruption keeps what is finished.

    Raises ValueError when an input is missing, no video is found, the folder holds clips made otherwise, or the face
    landmark model cannot be had; ImportError without the `video` extra.
    """
    require("av", "video")
    paths = find_videos(config.inputs)
    report = _open_folder(config)
    done = {key for key, record in report.sources.items() if record.trouble != _CRASHED}  # perhaps out of memory
    sources = [source for source in _name_sources(paths, report) if source.key not in done]
    if sources:
        model = face_landmarker_file(config.face_landmarker)
        write_meta(config.out, _meta(config))
        with _Output(config, report) as output:
            results = _run(sources, config, model)
            for source, (record, clips) in tqdm(results, total=len(sources), unit="video", desc="prepare"):
                output.add(source, record, clips)
    return report


def find_videos(inputs: tuple[Path, ...]) -> list[tuple[Path, str]]:
    """Lists (absolute path, name) of every video, each once; a name starts with the folder that was given.

    Raises ValueError when an input is missing, a folder holds no video, or there is no input.
    """
    if not inputs:
        raise ValueError("no videos given; name files or folders")
    found: dict[Path, str] = {}
    for given in inputs:
        root = given.resolve()
        if root.is_file():
            found.setdefault(root, f"{root.parent.name}/{root.name}")
        elif root.is_dir():
            files = [path for path in sorted(root.rglob("*")) if _is_video(path.relative_to(root)) and path.is_file()]
            if not files:
                raise ValueError(f"{given}: no videos in this folder (looked for {' '.join(sorted(VIDEO_SUFFIXES))})")
            for path in files:
                found.setdefault(path.resolve(), path.relative_to(root.parent).as_posix())
        else:
            raise ValueError(f"{given}: no such file or folder")
    return list(found.items())


def _is_video(relative: Path) -> bool:
    hidden = any(part.startswith(".") for part in relative.parts)
    return relative.suffix.lower() in VIDEO_SUFFIXES and not hidden


def _name_sources(paths: list[tuple[Path, str]], report: PrepareReport) -> list[Source]:
    names = {record.name: key for key, record in report.sources.items()}
    sources = []
    for path, name in paths:
        stat = path.stat()
        key = hashlib.sha256(f"{path}|{stat.st_size}|{stat.st_mtime_ns}".encode()).hexdigest()[:12]
        if names.setdefault(name, key) != key:  # another file of this name: its people are not the same
            name = f"{name}~{key}"
        person = path.parent.parent.name
        sources.append(Source(path, key, name, person if _VOXCELEB_ID.fullmatch(person) else None))
    return sources


# --------------------------------------------------------------------------------------------------------- the folder


def _meta(config: PrepareConfig) -> dict[str, Any]:
    made = {"generator": GENERATOR, "version": __version__, "landmarks": landmarks_version()}
    return made | {"settings": asdict(config.rules)}


def _open_folder(config: PrepareConfig) -> PrepareReport:
    """Reads the report of earlier runs; ValueError when the folder cannot be added to."""
    out, report = config.out, PrepareReport()
    if not out.exists():
        return report
    if not out.is_dir():
        raise ValueError(f"{out} is a file; choose another output")
    if not (out / "meta.json").exists():
        if any(out.iterdir()):
            raise ValueError(f"{out} is not empty and holds no prepared clips; choose another output")
        return report
    meta = read_meta(out)
    check_landmarks(out)
    if meta.get("generator") != GENERATOR or meta.get("settings") != _meta(config)["settings"]:
        raise ValueError(
            f"{out} holds clips made in another way: {meta.get('generator')} with {meta.get('settings')}, "
            f"not {GENERATOR} with {asdict(config.rules)}; choose another output"
        )
    path = out / "report.json"
    if path.exists():
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))["sources"]
            report.sources = {key: SourceRecord.from_json(record) for key, record in stored.items()}
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{path}: damaged ({error}); delete it to have all videos looked at again") from error
    return report


class _Output:
    """Writes shards and report together: a video counts as done once all its clips are visible on disk."""

    def __init__(self, config: PrepareConfig, report: PrepareReport) -> None:
        self._out, self._report = config.out, report
        splits = list_splits(config.out)
        self._present = {ref.key for split in splits for ref in list_clips(config.out, split)}
        self._writer = ShardWriter(config.out, config.split, clips_per_shard=4 * _CLIPS_A_SHARD)
        self._waiting: dict[str, SourceRecord] = {}
        self._added = 0

    def __enter__(self) -> "_Output":
        return self

    def __exit__(self, *error: object) -> None:
        self._commit()  # an interruption keeps what is finished, too

    def add(self, source: Source, record: SourceRecord, clips: list[Clip]) -> None:
        """Writes the clips of a video and keeps its record until they are visible on disk."""
        try:
            for clip in clips:
                if clip.key not in self._present:  # present: the last run stopped between shard and report
                    self._writer.add(clip)
        except BaseException:
            self._waiting.clear()  # the unfinished shard is lost, and its videos are not done
            raise
        self._waiting[source.key] = record
        self._added += len(clips)
        if self._added >= _CLIPS_A_SHARD:
            self._commit()

    def _commit(self) -> None:
        waiting, self._waiting, self._added = self._waiting, {}, 0
        self._writer.flush()
        self._report.sources |= waiting
        self._report.new += len(waiting)
        stored = {key: record.to_json() for key, record in self._report.sources.items()}
        with atomic_path(self._out / "report.json") as temporary:
            temporary.write_text(json.dumps({"clips": self._report.clips, "sources": stored}, indent=1) + "\n")


# -------------------------------------------------------------------------------------------------------- the workers

_Result = tuple[SourceRecord, list[Clip]]


def _run(sources: list[Source], config: PrepareConfig, model: Path) -> Iterator[tuple[Source, _Result]]:
    """Yields results as they finish; a video that kills its process is reported like any other broken file."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = min(config.workers or cpus, len(sources))
    if workers == 1:
        try:
            for source in sources:
                yield source, _work(source, config.rules, model)
        finally:
            while _loaded:  # else MediaPipe prints errors at Python's exit
                _loaded.popitem()[1].close()
        return
    pending = deque(sources)
    while pending:
        suspects: list[Source] = []
        with _pool(workers) as pool:
            running: dict[Future[_Result], Source] = {}
            try:
                while pending or running:
                    while pending and len(running) < 2 * workers:
                        source = pending[0]
                        running[pool.submit(_work, source, config.rules, model)] = source
                        pending.popleft()
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        result = future.result()
                        yield running.pop(future), result
            except BrokenProcessPool:
                suspects = list(running.values())
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        for source in suspects:
            with _pool(1) as pool:
                try:
                    yield source, pool.submit(_work, source, config.rules, model).result()
                except BrokenProcessPool:
                    yield source, (SourceRecord(source.name, trouble=_CRASHED), [])


def _pool(workers: int) -> ProcessPoolExecutor:
    # spawn: MediaPipe's threads do not survive a fork.
    return ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"))


def _work(source: Source, rules: Rules, model: Path) -> _Result:
    return prepare_video(source, rules, _detector(model))


_loaded: dict[Path, FaceDetector] = {}  # of this process, used for one video after the other


def _detector(model: Path) -> FaceDetector:
    if model not in _loaded:
        _loaded[model] = FaceDetector(model)
    return _loaded[model]
