"""Batches of clips for training: the batch of a step depends on nothing but the seed and the step."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from torch.utils.data import DataLoader, Dataset, Sampler

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
    """For each step from `start` on: `batch` pairs of clip index and frame seed, epochs shuffled by the seed."""

    def __init__(self, clips: int, batch: int, steps: int, seed: int, start: int) -> None:
        self.clips, self.batch, self.steps, self.seed, self.start = clips, batch, steps, seed, start

    def __len__(self) -> int:
        return max(self.steps - self.start, 0)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order, epoch = np.empty(0, int), -1
        for step in range(self.start, self.steps):
            picked = []
            for slot in range(step * self.batch, (step + 1) * self.batch):
                if slot // self.clips != epoch:
                    epoch = slot // self.clips
                    order = np.random.default_rng([self.seed, epoch]).permutation(self.clips)
                picked.append((int(order[slot % self.clips]), slot))
            yield picked


class _Choice(Dataset[Clip]):
    """Clips reduced to M frames drawn by the frame seed."""

    def __init__(self, clips: ClipDataset, frames: int, seed: int) -> None:
        self.clips, self.frames, self.seed = clips, frames, seed

    def __getitem__(self, item: tuple[int, int]) -> Clip:
        index, slot = item
        clip = self.clips[index]
        rng = np.random.default_rng([self.seed, slot, 1])
        chosen = rng.permutation(len(clip.images))[: self.frames]
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
    clips: ClipDataset, batch: int, frames: int, steps: int, seed: int, start: int = 0, workers: int = 0
) -> Iterable[Frames]:
    """Frames of `batch` clips a step, `frames` of each, for steps start..steps-1. `workers` processes decode."""
    return DataLoader(
        _Choice(clips, frames, seed),
        batch_sampler=StepSampler(len(clips), batch, steps, seed, start),
        collate_fn=partial(Frames.from_clips, size=clips.size, frames=frames),
        num_workers=workers,
    )
