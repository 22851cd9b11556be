"""Measures frames a second that reach a training step: from JPEG, decoded clips, and augmented on the device."""

import itertools
import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.harness.rows import Row
from benchmarks.harness.timing import summarize
from fmlfast.data.augment import AugmentConfig, Batch, augment
from fmlfast.data.loader import ClipDataset, training_batches
from fmlfast.data.prefetch import Prefetcher
from fmlfast.data.shards import Clip, ShardWriter, list_clips, read_clip
from fmlfast.data.synthetic.generate import SyntheticConfig, render_person

SUBJECTS, FRAMES = 8, 4
SIZES = (128, 240)  # px: the CPU preset's and the paper's
PEOPLE = 6
CLIPS = 96  # more than a batch uses again soon
CHUNK = 4  # batches a sample: workers deliver in bursts


def measure(device: str, folder: Path | None = None, seconds: float = 1.0) -> Iterator[Row]:
    """Measures the loader, about `seconds` a row: 8 clips of 4 frames a batch, by the wall clock.

    The clips are synthetic ones of 128 and 240 px, or up to 96 of the split "train" of `folder`, of the size they have.
    Everything is written to a scratch folder. Times with workers depend on how many cores are free.
    """
    if folder is not None:
        refs = list_clips(folder, "train")[:CLIPS]
        sets: Iterable[list[Clip]] = [[read_clip(ref) for ref in refs]]
    else:
        sets = (rendered_clips(size) for size in SIZES)
    for clips in sets:
        with tempfile.TemporaryDirectory() as scratch:
            yield from _rows(write_clips(Path(scratch) / "clips", clips), clips[0].images.shape[1], device, seconds)


def rendered_clips(size: int) -> list[Clip]:
    """Renders synthetic clips."""
    config = SyntheticConfig(out=Path("unused"), size=size, frames=FRAMES)
    return [render_person(config, "train", person).clip for person in range(PEOPLE)]


def write_clips(folder: Path, clips: Sequence[Clip]) -> Path:
    """Writes a data set of 96 clips: these, over and over."""
    with ShardWriter(folder, "train", clips_per_shard=CLIPS // 4) as writer:
        for number, clip in zip(range(CLIPS), itertools.cycle(clips), strict=False):
            writer.add(replace(clip, key=f"clip-{number:03d}"))
    return folder


def _rows(folder: Path, size: int, device: str, seconds: float) -> Iterator[Row]:
    shape = f"{SUBJECTS} x {FRAMES} frames of {size} px"
    row = Row("clip loader", "data", "", shape, x=float(size), dtype="uint8", frames=float(SUBJECTS * FRAMES))
    jpeg = ClipDataset(folder, "train", size, 0)
    yield replace(row, provider="JPEG", **_time(_batches(jpeg), "cpu", seconds))
    for workers in sorted({1, os.cpu_count() or 1}):
        timed = _time(_batches(jpeg, workers), "cpu", seconds)
        yield replace(row, provider=f"JPEG, {workers} worker{'s'[: workers > 1]}", **timed)
    decoded = ClipDataset(folder, "train", size, 10**12)
    yield replace(row, provider="memory map", **_time(_batches(decoded), "cpu", seconds))
    arrived = Prefetcher(_batches(decoded), device)
    yield replace(row, provider=f"memory map, on {device}", **_time(arrived, device, seconds))
    augmented = (augment(batch, AugmentConfig()) for batch in Prefetcher(_batches(decoded), device))
    yield replace(row, provider=f"memory map, augmented on {device}", **_time(augmented, device, seconds))


def _batches(clips: ClipDataset, workers: int = 0) -> Iterator[Batch]:
    return training_batches(clips, SUBJECTS, FRAMES, 10**9, 0, workers=workers)


def _time(batches: Iterable[object], device: str, seconds: float) -> dict[str, float]:
    """Measures the time of a batch; the first chunk, in which processes and pages come up, does not count."""
    source, samples, begin = iter(batches), [], time.perf_counter()
    while not samples or time.perf_counter() - begin < seconds:
        start = time.perf_counter()
        for _ in range(CHUNK):
            next(source)
        if device != "cpu":
            torch.cuda.synchronize(device)
        samples.append((time.perf_counter() - start) / CHUNK)
    return vars(summarize(samples[1:] or samples))
