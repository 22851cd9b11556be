"""Batches of clips for training: the batch of a step depends on nothing but the seed and the step."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from torch.utils.data import DataLoader, Dataset, Sampler

from fmlfast.data.draws import Batch, draw
from fmlfast.data.shards import Clip, list_clips, read_clip
from fmlfast.frames import Frames, resize_clip


class ClipDataset(Dataset[Clip]):
    """The clips of a split, resized; decoded clips stay in memory up to `cache_bytes`."""

    def __init__(self, folder: str | Path, split: str, size: int, cache_bytes: int) -> None:
        self.refs = list_clips(folder, split)
        if not self.refs:
            raise ValueError(f"{folder} holds no clips of split {split!r}; prepare or generate some first")
        self.size = size
        self.room = cache_bytes
        self.cache: dict[int, Clip] = {}

    def __len__(self) -> int:
        return len(self.refs)

    def __getitem__(self, index: int) -> Clip:
        if index in self.cache:
            return self.cache[index]
        clip = resize_clip(read_clip(self.refs[index]), self.size)
        if clip.images.nbytes <= self.room:
            self.room -= clip.images.nbytes
            self.cache[index] = clip
        return clip


class StepSampler(Sampler[list[tuple[int, int]]]):
    """For each step from `start` on: clip index and slot of every clip that one process takes, epochs shuffled by the
    seed. Clip i of a global batch of n is slot step * n + i; process r of p takes the r-th of p equal runs of them."""

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


class _Steps(Dataset[Batch]):
    """Batches by their (clip index, slot) pairs: M frames of each clip, drawn by its slot."""

    def __init__(self, clips: ClipDataset, frames: int, seed: int) -> None:
        self.clips, self.frames, self.seed = clips, frames, seed

    def __getitem__(self, picked: list[tuple[int, int]]) -> Batch:
        chosen = [self._frames(self.clips[index], slot) for index, slot in picked]
        frames = Frames.from_clips(chosen, self.clips.size, self.frames)
        return Batch(frames, draw(self.seed, [slot for _, slot in picked], self.frames))

    def _frames(self, clip: Clip, slot: int) -> Clip:
        chosen = np.random.default_rng([self.seed, slot, 1]).permutation(len(clip.images))[: self.frames]
        return replace(
            clip,
            images=clip.images[chosen],
            landmarks=clip.landmarks[chosen],
            confidence=clip.confidence[chosen],
            Ks=clip.Ks[chosen],
            crop_to_source=clip.crop_to_source[chosen],
            times=clip.times[chosen],
        )


def training_batches(
    clips: ClipDataset,
    batch: int,
    frames: int,
    steps: int,
    seed: int,
    start: int = 0,
    workers: int = 0,
    part: tuple[int, int] = (0, 1),
) -> Iterable[Batch]:
    """Batches of steps start..steps-1: `frames` frames of each clip. `batch` counts the clips of all processes
    together; `part` is this process's (rank, number of processes). `workers` processes of its own decode."""
    return DataLoader(
        _Steps(clips, frames, seed),
        batch_size=None,
        sampler=StepSampler(len(clips), batch, steps, seed, start, part),
        num_workers=workers,
    )
