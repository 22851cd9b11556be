"""Caches decoded clips on disk beside their shards; training maps them into memory instead of decoding JPEGs again.

`<data>/decoded/<size>px/<shard>.safetensors` holds the clips of one shard, resized: `images` [F, 3, S, S] uint8 of all
frames, their labels, `starts` [N + 1] int64, where each clip's frames begin, and `checksums` [N] int64 of the clips. A
file is written once, whole or not at all, and again when its shard's size or modification time are no longer those in
its header. All processes that read it share the pages in the operating system's cache. The folder may be removed at any
time.
"""

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from fmlfast.common.atomic import atomic_path
from fmlfast.common.progress import ProgressBar
from fmlfast.common.tensor_file import checksum, write_tensors
from fmlfast.data.frames import ClipTensors, resize_clip
from fmlfast.data.landmark_assets import FEATURES
from fmlfast.data.mediapipe478 import NUM_POINTS, NUM_SCORES
from fmlfast.data.shards import ClipRef, read_clip
from fmlfast.ibug68 import NUM_LANDMARKS

FORMAT = 6
_NAMES = tuple(field.name for field in fields(ClipTensors))
_LABEL_BYTES = 4 * (6 * NUM_LANDMARKS + 12 + 8 * NUM_POINTS + 2 * NUM_SCORES + 2 * FEATURES)  # a frame's
_MEMORY = 4 * 10**9  # bytes of shards that are decoded at once, each whole in memory before it is written


@dataclass
class CachedShard:
    """The decoded clips of one shard; the file is memory-mapped when the first clip is read."""

    path: Path
    clips: int
    _sound: set[int] = field(default_factory=set)  # clips whose checksum was compared

    @cached_property
    def _tensors(self) -> dict[str, Tensor]:
        return load_file(self.path)  # maps it: nothing is read before it is used, no file descriptor stays open

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_tensors"}  # each process maps for itself

    def __getitem__(self, clip: int) -> ClipTensors:
        """Returns images and labels of a clip, as views of the mapped file.

        When a process reads a clip for the first time, its checksum is compared: ValueError naming the file.
        """
        begin, end = self._tensors["starts"][clip : clip + 2].tolist()
        parts = {name: self._tensors[name][begin:end] for name in _NAMES}
        if clip not in self._sound:
            if checksum(parts) != int(self._tensors["checksums"][clip]):
                raise ValueError(f"{self.path}: clip {clip} is damaged (checksum); remove the file, it is made again")
            self._sound.add(clip)
        return ClipTensors(**parts)


def open_cached(shard: Path, size: int) -> CachedShard | None:
    """Opens the cached clips of a shard at `size` px; None when missing, damaged or out of date."""
    path = _cache_path(shard, size)
    try:
        with safe_open(path, "pt") as file:
            if file.metadata() == _header(shard, size) and {*file.keys()} == {*_NAMES, "starts", "checksums"}:
                return CachedShard(path, file.get_slice("starts").get_shape()[0] - 1)
    except (OSError, SafetensorError):
        pass  # damaged: same as missing
    return None


def cache_shards(shards: Sequence[tuple[Path, list[ClipRef]]], size: int) -> None:
    """Decodes the clips of these shards at `size` px into the cache, on all cores, with a progress bar.

    Several processes may do so at once: each shard is decoded by one of them while the others wait. A disk that cannot
    be written, or that would lose over half of its free room, is no error: a warning goes to stderr and the rest is
    left out. Raises ValueError for a damaged clip.
    """
    total = sum(len(clips) for _, clips in shards)
    at_once = _MEMORY // max(stored_bytes(refs, size) for _, refs in shards)
    workers = max(1, min(os.cpu_count() or 1, at_once))
    pool = ThreadPoolExecutor(workers)  # threads do: the JPEG decoder leaves Python's lock to the others
    try:
        with ProgressBar(total=total, desc=f"decoding clips to {size} px, once", unit="clip") as progress:
            for _ in pool.map(lambda shard: _make(shard[0], shard[1], size, progress.update), shards):
                pass
    except OSError as error:
        print(f"warning: not all decoded clips can be kept, the rest is decoded each time: {error}", file=sys.stderr)
    finally:
        pool.shutdown(cancel_futures=True)


def _make(shard: Path, refs: list[ClipRef], size: int, advance: Callable[[int], Any]) -> None:
    """Writes the decoded clips of one shard, unless another process has done so meanwhile."""
    with _only_one(shard):
        if open_cached(shard, size) is not None:
            advance(len(refs))
            return
        header, path = _header(shard, size), _cache_path(shard, size)
        path.parent.mkdir(parents=True, exist_ok=True)
        need = stored_bytes(refs, size)
        if need > shutil.disk_usage(path.parent).free / 2:
            raise OSError(f"{path} would take {need / 1e6:.0f} MB, over half of the disk's free room")
        counts = [len(ref.images) for ref in refs]
        starts = torch.tensor([0, *counts]).cumsum(0)
        tensors: dict[str, Tensor] = {}
        checksums = []
        for ref, begin in zip(refs, starts.tolist(), strict=False):
            parts = vars(ClipTensors.of(resize_clip(read_clip(ref), size)))
            checksums.append(checksum(parts))
            for name, part in parts.items():
                if name not in tensors:
                    tensors[name] = torch.empty(sum(counts), *part.shape[1:], dtype=part.dtype)
                tensors[name][begin : begin + len(part)] = part
            advance(1)
        with atomic_path(path) as temporary:
            places = {"starts": starts, "checksums": torch.tensor(checksums)}
            write_tensors(temporary, tensors | places, header, checked=False)  # a clip at a time instead
            temporary.chmod(shard.stat().st_mode & 0o666)  # who reads the shard may read this


def stored_bytes(refs: Sequence[ClipRef], size: int) -> int:
    """Returns the size in bytes of the cached clips, without the file's header."""
    return sum(len(ref.images) for ref in refs) * (3 * size**2 + _LABEL_BYTES)


def _cache_path(shard: Path, size: int) -> Path:
    return shard.parent / "decoded" / f"{size}px" / f"{shard.stem}.safetensors"


def _header(shard: Path, size: int) -> dict[str, str]:
    """Returns the metadata that a cache file must have to match the shard's present size and modification time."""
    state = shard.stat()
    made_of = {"format": FORMAT, "shard": [state.st_size, state.st_mtime_ns], "size": size}
    return {"made_of": json.dumps(made_of)}  # one entry: safetensors writes several in any order


@contextmanager
def _only_one(shard: Path) -> Iterator[None]:
    """Holds an exclusive file lock on the shard; where locks fail, work may be done twice, harmlessly."""
    with shard.open("rb") as file:
        try:
            import fcntl  # not on Windows

            fcntl.flock(file, fcntl.LOCK_EX)
        except (ImportError, OSError):
            pass
        yield  # closing the file gives the lock back
