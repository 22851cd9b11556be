"""Converts videos to training clips: `fmlfast prepare VIDEOS... --out DIR`.

Every video is decoded once. Scenes are split at cuts; faces are detected in about six frames a second and tracked by
their landmarks. Frames with a small, cut-off, blurred or uncertain face are rejected; of the rest the M with the most
different poses become a clip. Several videos are prepared at once, each in its own process.
"""

import hashlib
import os
import re
from collections import deque
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from fmlfast.common.child_processes import WorkerPool
from fmlfast.common.extras import require
from fmlfast.common.locks import lock_folder
from fmlfast.common.progress import ProgressBar
from fmlfast.data.detector_model import face_landmarker_file
from fmlfast.data.face_detector import FaceDetector
from fmlfast.data.shards import Clip, ShardWriter, list_clips, list_splits, write_meta
from fmlfast.data.video.clips import Rules, Source, SourceRecord, prepare_video
from fmlfast.data.video.decode import VIDEO_SUFFIXES
from fmlfast.data.video.parts import merge_parts, part_of
from fmlfast.data.video.prepared_folder import (
    CLIPS_A_SHARD,
    PrepareConfig,
    PrepareReport,
    check_folder,
    folder_meta,
    open_folder,
    write_report,
)

_CLIPS_A_COMMIT = 256
_CRASHED = "reading it crashed the process"
_VOXCELEB_ID = re.compile(r"id\d+")  # id00012/video/00001.mp4


def prepare(config: PrepareConfig) -> PrepareReport:
    """Converts videos to clips in `config.out`: shards, meta.json and report.json.

    A video that was prepared before, by path, size and modification time, is skipped, unless it crashed its process. A
    file that cannot be read is reported, not fatal. An interruption keeps what is finished. With `config.part` only
    that part's videos are prepared, into a folder of their own; with `config.merge` the parts become one folder.

    Raises ValueError when an input is missing, no video is found, the folder holds clips made otherwise, or the face
    landmark model cannot be had; BlockingIOError, naming the process, while another one writes the folder; ImportError
    without the `video` extra.
    """
    require("av", "video")
    paths = find_videos(config.inputs)
    if config.merge:
        keys = [source.key for source in _name_sources(paths, {})]
        return merge_parts(config, {key: name for key, (_, name) in zip(keys, paths, strict=True)})
    check_folder(config.folder)
    with lock_folder(config.folder):
        return _add(config, paths)


def _add(config: PrepareConfig, paths: list[tuple[Path, str]]) -> PrepareReport:
    """Prepares the videos that are missing in a folder that nobody else writes."""
    report = open_folder(config.folder, config)
    stored = report.sources
    if config.share is not None:
        paths = [(path, name) for path, name in paths if part_of(name, config.share[1]) == config.share[0]]
        stored = open_folder(config.out, config).sources | stored  # what was merged before
    done = {key for key, record in stored.items() if record.trouble != _CRASHED}  # perhaps out of memory
    sources = [source for source in _name_sources(paths, stored) if source.key not in done]
    if sources or config.share is not None:
        write_meta(config.folder, folder_meta(config))
    if config.share is not None:  # a part without videos is a part, too
        write_report(config.folder, report)
    if sources:
        model = face_landmarker_file(config.face_landmarker)
        with _Output(config, report) as output:
            results = _run(sources, config, model)
            for source, (record, clips) in ProgressBar(results, total=len(sources), unit="video", desc="prepare"):
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


def _name_sources(paths: list[tuple[Path, str]], stored: dict[str, SourceRecord]) -> list[Source]:
    names = {record.name: key for key, record in stored.items()}
    sources = []
    for path, name in paths:
        stat = path.stat()
        told = f"{path}|{stat.st_size}|{stat.st_mtime_ns}".encode(errors="surrogatepass")  # names may be no Unicode
        key = hashlib.sha256(told).hexdigest()[:12]
        if names.setdefault(name, key) != key:  # another file of this name: its people are not the same
            name = f"{name}~{key}"
        person = path.parent.parent.name
        sources.append(Source(path, key, name, person if _VOXCELEB_ID.fullmatch(person) else None))
    return sources


class _Output:
    """Writes shards and report together: a video counts as done once all its clips are visible on disk."""

    def __init__(self, config: PrepareConfig, report: PrepareReport) -> None:
        self._out, self._report = config.folder, report
        splits = list_splits(self._out)
        self._present = {ref.key for split in splits for ref in list_clips(self._out, split)}
        self._writer = ShardWriter(self._out, config.split, clips_per_shard=CLIPS_A_SHARD)
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
        if self._added >= _CLIPS_A_COMMIT:
            self._commit()

    def _commit(self) -> None:
        waiting, self._waiting, self._added = self._waiting, {}, 0
        self._writer.flush()
        self._report.sources |= waiting
        self._report.new += len(waiting)
        write_report(self._out, self._report)


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
        with WorkerPool(workers) as pool:
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
        for source in suspects:
            with WorkerPool(1) as pool:
                try:
                    yield source, pool.submit(_work, source, config.rules, model).result()
                except BrokenProcessPool:
                    yield source, (SourceRecord(source.name, trouble=_CRASHED), [])


def _work(source: Source, rules: Rules, model: Path) -> _Result:
    return prepare_video(source, rules, _detector(model))


_loaded: dict[Path, FaceDetector] = {}  # of this process, used for one video after the other


def _detector(model: Path) -> FaceDetector:
    if model not in _loaded:
        _loaded[model] = FaceDetector(model)
    return _loaded[model]
