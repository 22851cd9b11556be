import shutil
from pathlib import Path

import pytest
import torch

from fmlfast.data.frames import Frames
from fmlfast.data.loader import ClipDataset, training_batches
from fmlfast.data.shards import list_clips


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
    every = torch.stack([Frames.whole([clips[i]]).images.mean() for i in range(6)])
    torch.testing.assert_close(means.sort().values, every.sort().values)


def test_processes_share_a_batch(synthetic_folder: Path) -> None:
    clips = ClipDataset(synthetic_folder, "train", 32, 10**9)
    whole = list(training_batches(clips, batch=4, frames=2, steps=3, seed=3))
    parts = [list(training_batches(clips, batch=4, frames=2, steps=3, seed=3, part=(r, 2))) for r in range(2)]
    for step, both in enumerate(zip(*parts, strict=True)):
        for whole_tensor, *shares in zip(whole[step].tensors(), *(b.tensors() for b in both), strict=True):
            assert torch.equal(torch.cat(shares), whole_tensor)
    with pytest.raises(ValueError, match="batch of 4 clips cannot be shared by 3"):
        training_batches(clips, batch=4, frames=2, steps=3, seed=3, part=(0, 3))


def test_no_such_split(synthetic_folder: Path) -> None:
    with pytest.raises(ValueError, match="no clips of split 'night'"):
        ClipDataset(synthetic_folder, "night", 32, 0)


def test_decoded_and_undecoded_clips_make_the_same_batches(synthetic_folder: Path) -> None:
    decoded = ClipDataset(synthetic_folder, "train", 40, 10**9)
    assert list(synthetic_folder.glob("decoded/40px/*.safetensors"))
    fresh = ClipDataset(synthetic_folder, "val", 40, 0)
    assert not list(synthetic_folder.glob("decoded/40px/val*"))
    later = ClipDataset(synthetic_folder, "val", 40, 10**9)
    for index in range(2):
        for name, value in vars(fresh[index]).items():
            assert torch.equal(getattr(later[index], name), value), name
    batches = (next(training_batches(clips, batch=2, frames=3, steps=1, seed=0)) for clips in (fresh, later))
    for a, b in zip(*(batch.tensors() for batch in batches), strict=True):
        assert torch.equal(a, b)
    assert len(decoded) == 6 and decoded[3].images.shape == (4, 3, 40, 40)


def test_short_clips_are_padded(synthetic_folder: Path) -> None:
    clips = ClipDataset(synthetic_folder, "train", 32, 10**9)
    frames = next(training_batches(clips, batch=2, frames=6, steps=1, seed=0)).frames
    assert frames.mask.tolist() == [[True] * 4 + [False] * 2] * 2
    assert torch.equal(frames.images[:, 4:], frames.images[:, :2])
    assert torch.equal(frames.landmarks[:, 4:], frames.landmarks[:, :2])


def test_worker_processes_give_the_same_batches(synthetic_folder: Path) -> None:
    clips = ClipDataset(synthetic_folder, "train", 32, 10**9)
    alone = list(training_batches(clips, batch=3, frames=2, steps=4, seed=1))
    helped = list(training_batches(clips, batch=3, frames=2, steps=4, seed=1, workers=2))
    for a, b in zip(alone, helped, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a.tensors(), b.tensors(), strict=True))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_clip_is_named(synthetic_folder: Path, tmp_path: Path, workers: int) -> None:
    folder = tmp_path / "clips"
    shutil.copytree(synthetic_folder, folder, ignore=shutil.ignore_patterns("decoded"))
    shard = folder / "train-000000.tar"
    ref = list_clips(folder, "train")[3]
    damaged = bytearray(shard.read_bytes())
    damaged[ref.images[0][0] + 300] ^= 255
    shard.write_bytes(damaged)
    clips = ClipDataset(folder, "train", 32, 0)
    with pytest.raises(ValueError, match=rf"^\S*train-000000.tar: sample {ref.key}: image 000 is damaged"):
        for _ in training_batches(clips, batch=2, frames=2, steps=20, seed=0, workers=workers):
            pass
    with pytest.raises(ValueError, match="image 000 is damaged"):  # or when it would be decoded for good
        ClipDataset(folder, "train", 32, 10**9)
    assert not list(folder.glob("decoded/32px/*"))
