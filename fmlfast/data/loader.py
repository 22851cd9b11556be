"""Loads batches of clips for training; a step's batch depends on the seed and the step only."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
from torch.utils.data import DataLoader, Dataset, Sampler

from fmlfast.data.augment import Batch, draw
from fmlfast.data.frames import ClipTensors, Frames, resize_clip
from fmlfast.data.meta import check_landmarks
from fmlfast.data.pixel_cache import CachedShard, cache_shards, open_cached, stored_bytes
from fmlfast.data.prefetch import PackedBatch
from fmlfast.data.shards import ClipRef, list_clips, list_splits, read_clip
from fmlfast.data.tar_files import shard_paths


class ClipDataset(Dataset[ClipTensors]):
    """Map-style dataset of the clips of a split, resized to `size` px.

    Decoded shards are cached on disk (`fmlfast.data.pixel_cache`), as many as fit into `decoded_bytes`; missing ones
    are written here. Clips of the other shards are decoded on each access.

    Raises ValueError for a split without clips or a damaged shard.
    """

    def __init__(self, folder: str | Path, split: str, size: int, decoded_bytes: int) -> None:
        self.size = size
        folder = Path(folder)
        check_landmarks(folder)
        if split not in list_splits(folder):
            raise ValueError(f"{folder} holds no clips of split {split!r}; make some: fmlfast prepare --split {split}")
        found = {path: open_cached(path, size) for path in shard_paths(folder, split, "")}
        refs: dict[Path, list[ClipRef]] = {}
        if None in found.values():
            refs = {path: list(some) for path, some in groupby(list_clips(folder, split), lambda ref: ref.shard)}
            room = decoded_bytes - sum(shard.path.stat().st_size for shard in found.values() if shard is not None)
            todo = []
            for path in (path for path, shard in found.items() if shard is None):
                room -= stored_bytes(refs[path], size)
                if room >= 0:
                    todo.append((path, refs[path]))
            if todo:
                cache_shards(todo, size)
                found = {path: shard or open_cached(path, size) for path, shard in found.items()}
        self._places: list[tuple[CachedShard, int] | ClipRef] = []
        for path, shard in found.items():
            self._places += refs[path] if shard is None else ((shard, index) for index in range(shard.clips))

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> ClipTensors:
        """Returns images and labels of a clip; those of a cached clip are memory-mapped and read on use."""
        place = self._places[index]
        if isinstance(place, ClipRef):
            return ClipTensors.of(resize_clip(read_clip(place), self.size))
        shard, clip = place
        return shard[clip]


class StepSampler(Sampler[list[tuple[int, int]]]):
    """Yields, for each step from `start` on, the (clip index, slot) pairs of one process's share of the batch.

    Every epoch is shuffled by the seed. Clip i of a global batch of n has slot step * n + i; process r of p takes the
    r-th of p equal runs of slots, `part` = (r, p). Raises ValueError for a batch that p does not divide.
    """

    def __init__(self, clips: int, batch: int, steps: int, seed: int, start: int, part: tuple[int, int]) -> None:
        self.clips, self.batch, self.steps, self.seed, self.start = clips, batch, steps, seed, start
        rank, processes = part
        if batch % processes:
            raise ValueError(f"a batch of {batch} clips cannot be shared by {processes} processes; use a multiple")
        self.first, self.share = rank * (batch // processes), batch // processes

    def __len__(self) -> int:
        return max(self.steps - self.start, 0)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order, epoch = np.empty(0, int), -1
        for step in range(self.start, self.steps):
            picked = []
            begin = step * self.batch + self.first
            for slot in range(begin, begin + self.share):
                if slot // self.clips != epoch:
                    epoch = slot // self.clips
                    order = np.random.default_rng([self.seed, epoch]).permutation(self.clips)
                picked.append((int(order[slot % self.clips]), slot))
            yield picked


class _Steps(Dataset[PackedBatch | Exception]):
    """Builds a batch from (clip index, slot) pairs: M frames of each clip, drawn by its slot."""

    def __init__(self, clips: ClipDataset, frames: int, seed: int) -> None:
        self.clips, self.frames, self.seed = clips, frames, seed

    def __getitem__(self, picked: list[tuple[int, int]]) -> PackedBatch | Exception:
        try:
            return PackedBatch.of(self.batch(picked))
        except (ValueError, OSError) as error:
            return error  # to be raised in the training process, where no worker's traceback surrounds it

    def batch(self, picked: list[tuple[int, int]]) -> Batch:
        """Reads the clips, selects their frames by their slots, and draws the random numbers."""
        slots = [slot for _, slot in picked]
        clips = [self.clips[index] for index, _ in picked]
        chosen = [self._choose(len(clip.images), slot) for clip, slot in zip(clips, slots, strict=True)]
        return Batch(Frames.stack(clips, chosen, self.frames), draw(self.seed, slots, self.frames))

    def _choose(self, available: int, slot: int) -> Sequence[int]:
        return np.random.default_rng([self.seed, slot, 1]).permutation(available)[: self.frames].tolist()


def training_batches(
    clips: ClipDataset,
    batch: int,
    frames: int,
    steps: int,
    seed: int,
    start: int = 0,
    workers: int = 0,
    part: tuple[int, int] = (0, 1),
) -> Iterator[Batch]:
    """Yields the batches of steps start..steps-1: `frames` frames of each clip, images uint8.

    `batch` counts the clips of all training processes together; `part` is this one's (rank, number of processes).
    `workers` subprocesses read ahead. Raises ValueError when the batch cannot be shared equally, and while iterating
    for a damaged clip, naming its shard.
    """
    sampler = StepSampler(len(clips), batch, steps, seed, start, part)
    made = _Steps(clips, frames, seed)
    if workers == 0:
        return (made.batch(picked) for picked in sampler)
    return _received(DataLoader(made, batch_size=None, sampler=sampler, num_workers=workers))


def _received(batches: Iterable[PackedBatch | Exception]) -> Iterator[Batch]:
    for packed in batches:
        if isinstance(packed, Exception):
            raise packed
        yield packed.batch()
