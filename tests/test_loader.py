from pathlib import Path

import pytest
import torch

from fmlfast.data.loader import ClipDataset, training_batches
from fmlfast.frames import Frames


def test_a_step_is_the_same_wherever_training_starts(synthetic_folder: Path) -> None:
    clips = ClipDataset(synthetic_folder, "train", 32, 10**9)
    whole = list(training_batches(clips, batch=4, frames=2, steps=6, seed=3))
    late = list(training_batches(clips, batch=4, frames=2, steps=6, seed=3, start=4))
    assert len(whole) == 6 and len(late) == 2
    for a, b in zip(whole[4:], late, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a.tensors(), b.tensors(), strict=True))
    assert not torch.equal(whole[0].frames.images, whole[1].frames.images)
    assert not torch.equal(whole[0].draws.noise, whole[1].draws.noise)


def test_an_epoch_shows_every_clip_once(synthetic_folder: Path) -> None:
    clips = ClipDataset(synthetic_folder, "train", 32, 10**9)
    batches = list(training_batches(clips, batch=3, frames=4, steps=2, seed=0))
    means = torch.cat([b.frames.unpacked().images.mean((1, 2, 3, 4)) for b in batches])
    every = torch.stack([Frames.from_clips([clips[i]], 32).images.mean() for i in range(6)])
    torch.testing.assert_close(means.sort().values, every.sort().values)


def test_decoded_clips_stay_within_the_budget(synthetic_folder: Path) -> None:
    one = ClipDataset(synthetic_folder, "train", 32, 10**9)[0].images.nbytes
    clips = ClipDataset(synthetic_folder, "train", 32, 2 * one)
    for i in range(6):
        clips[i]
    assert len(clips.cache) == 2
    with pytest.raises(ValueError, match="night"):
        ClipDataset(synthetic_folder, "night", 32, 0)


def test_processes_share_a_batch(synthetic_folder: Path) -> None:
    clips = ClipDataset(synthetic_folder, "train", 32, 10**9)
    whole = list(training_batches(clips, batch=4, frames=2, steps=3, seed=3))
    parts = [list(training_batches(clips, batch=4, frames=2, steps=3, seed=3, part=(r, 2))) for r in range(2)]
    for step, both in enumerate(zip(*parts, strict=True)):
        for whole_tensor, *shares in zip(whole[step].tensors(), *(b.tensors() for b in both), strict=True):
            assert torch.equal(torch.cat(shares), whole_tensor)
    with pytest.raises(ValueError, match="batch of 4 clips cannot be shared by 3"):
        training_batches(clips, batch=4, frames=2, steps=3, seed=3, part=(0, 3))
