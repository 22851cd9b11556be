"""Decoded clips on disk, beside their shards: pixels ready for training, mapped into memory instead of decoded again.

`<data>/decoded/<size>px/<shard>.u8` holds the clips of one shard, resized: the pixels of all frames [F, 3, S, S] uint8,
filled up to 8 bytes; `starts` [N + 1] int64, where each clip's frames begin; the labels [F, 220] float32; words about
each clip as JSON; an index as JSON; and the index's length, int64. A file is made once, whole or not at all, and made
anew when its shard's size or time of change are no longer those in the index. All processes that read it share the
pages in the operating system's cache. The folder may be removed at any time.
"""

import fcntl
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from fmlfast.common.atomic import atomic_path
from fmlfast.data.shards import Clip, ClipRef, read_clip
from fmlfast.data.frames import ClipTensors, resize_clip

FORMAT = 1
_LABELS = {"landmarks": (68, 2), "confidence": (68,), "Ks": (3, 3), "crop_to_source": (2, 3), "times": ()}
_WIDTHS = [int(np.prod(shape)) for shape in _LABELS.values()]
_WORDS = ("key", "subject", "source", "focal_source")


@dataclass
class CachedShard:
    """The decoded clips of one shard; the file is mapped when the first clip is read."""

    path: Path
    size: int  # px
    clips: int
    frames: int
    words: int  # bytes

    @cached_property
    def _arrays(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Pixels [F, 3, S, S], labels [F, 220], starts [N + 1], and the bytes of the words."""
        # Not np.memmap: it keeps a file descriptor for as long as it lives, and a data set has thousands of shards.
        data = torch.from_file(str(self.path), shared=False, size=self.path.stat().st_size, dtype=torch.uint8)
        starts, labels, words = _offsets(self.size, self.clips, self.frames)
        return (
            data[: self.frames * 3 * self.size**2].view(self.frames, 3, self.size, self.size),
            data[labels:words].view(torch.float32).view(self.frames, sum(_WIDTHS)),
            data[starts:labels].view(torch.int64),
            data[words : words + self.words],
        )

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_arrays"}  # each process maps for itself

    def tensors(self, clip: int) -> ClipTensors:
        """Pixels and labels of a clip; nothing is read before it is used."""
        pixels, labels, starts, _ = self._arrays
        begin, end = starts[clip : clip + 2].tolist()
        landmarks, confidence, Ks, *_ = labels[begin:end].split(_WIDTHS, 1)
        return ClipTensors(pixels[begin:end], landmarks.unflatten(1, (68, 2)), confidence, Ks.unflatten(1, (3, 3)))

    def clip(self, index: int) -> Clip:
        """A whole clip."""
        pixels, labels, starts, words = self._arrays
        begin, end = starts[index : index + 2].tolist()
        parts = zip(_LABELS.items(), labels[begin:end].split(_WIDTHS, 1), strict=True)
        fields: dict[str, Any] = {name: part.reshape(-1, *shape).numpy() for (name, shape), part in parts}
        fields |= json.loads(words.numpy().tobytes())[index]
        return Clip(images=pixels[begin:end].permute(0, 2, 3, 1).numpy(), **fields)


def open_cached(shard: Path, size: int) -> CachedShard | None:
    """The decoded clips of a shard at `size` px; None when there are none, or they are damaged or not this shard's."""
    path = _decoded_path(shard, size)
    try:
        with path.open("rb") as file:
            total = file.seek(-8, os.SEEK_END) + 8
            length = int.from_bytes(file.read(8), "little")
            file.seek(total - 8 - length)
            index = json.loads(file.read(length))
        *_, words = _offsets(size, index["clips"], index["frames"])
        whole = total == words + index["words"] + length + 8
        if whole and (index["format"], index["shard"], index["size"]) == (FORMAT, _stamp(shard), size):
            return CachedShard(path, size, index["clips"], index["frames"], index["words"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # as good as none
    return None


def cache_shards(shards: Sequence[tuple[Path, list[ClipRef]]], size: int) -> None:
    """Makes the decoded clips of these shards at `size` px, on all cores, with a progress bar.

    Several processes may do so at once: each shard is made by one of them while the others wait. A disk that cannot be
    written, or that would lose over half of its free room, is no error: a warning goes to stderr and the rest is left
    out. Raises ValueError for a damaged clip.
    """
    total = sum(len(clips) for _, clips in shards)
    pool = ThreadPoolExecutor(os.cpu_count())  # threads do: the JPEG decoder leaves Python's lock to the others
    try:
        with tqdm(total=total, desc=f"decoding clips to {size} px, once", unit="clip", mininterval=0.5) as progress:
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
        stamp, path = _stamp(shard), _decoded_path(shard, size)
        path.parent.mkdir(parents=True, exist_ok=True)
        need = stored_bytes(refs, size)
        if need > shutil.disk_usage(path.parent).free / 2:
            raise OSError(f"{path} would take {need / 1e6:.0f} MB, over half of the disk's free room")
        starts, labels, words = [0], [], []
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            for ref in refs:
                clip = resize_clip(read_clip(ref), size)
                file.write(np.ascontiguousarray(clip.images.transpose(0, 3, 1, 2)).data)
                starts.append(starts[-1] + clip.frames)
                labels.append(np.concatenate([getattr(clip, n).reshape(clip.frames, -1) for n in _LABELS], 1))
                words.append({name: getattr(clip, name) for name in _WORDS})
                advance(1)
            frames = starts[-1]
            begin, *_ = _offsets(size, len(refs), frames)
            file.write(bytes(begin - file.tell()))
            file.write(np.array(starts, "<i8").data)
            file.write(np.concatenate(labels).astype("<f4").data)
            text = json.dumps(words).encode()
            index: dict[str, Any] = {"format": FORMAT, "shard": stamp, "size": size}
            index |= {"clips": len(refs), "frames": frames, "words": len(text)}
            end = json.dumps(index).encode()
            file.write(text + end + len(end).to_bytes(8, "little"))


def stored_bytes(refs: Sequence[ClipRef], size: int) -> int:
    """What the decoded clips take up on the disk, but for some words."""
    return sum(len(ref.images) for ref in refs) * (3 * size**2 + 4 * sum(_WIDTHS))


def _decoded_path(shard: Path, size: int) -> Path:
    return shard.parent / "decoded" / f"{size}px" / f"{shard.stem}.u8"


def _stamp(shard: Path) -> list[int]:
    state = shard.stat()
    return [state.st_size, state.st_mtime_ns]


def _offsets(size: int, clips: int, frames: int) -> tuple[int, int, int]:
    """Where `starts`, the labels and the words begin."""
    starts = -(-frames * 3 * size**2 // 8) * 8
    labels = starts + 8 * (clips + 1)
    return starts, labels, labels + 4 * sum(_WIDTHS) * frames


@contextmanager
def _only_one(shard: Path) -> Iterator[None]:
    """Holds the shard's lock; where the file system has none, work may be done twice, which harms nothing."""
    with shard.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            pass
        yield  # closing the file gives the lock back
