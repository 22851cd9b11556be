from pathlib import Path

import pytest
import torch

from fmlfast.data.augment import mirror, tint, warp
from fmlfast.data.loader import ClipDataset, training_batches
from fmlfast.frames import Frames


def test_a_step_is_the_same_wherever_training_starts(synthetic_folder: Path) -> None:
    clips = ClipDataset(synthetic_folder, "train", 32, 10**9)
    whole = list(training_batches(clips, batch=4, frames=2, steps=6, seed=3))
    late = list(training_batches(clips, batch=4, frames=2, steps=6, seed=3, start=4))
    assert len(whole) == 6 and len(late) == 2
    for a, b in zip(whole[4:], late, strict=True):
        assert torch.equal(a.images, b.images) and torch.equal(a.landmarks, b.landmarks)
    assert not torch.equal(whole[0].images, whole[1].images)


def test_an_epoch_shows_every_clip_once(synthetic_folder: Path) -> None:
    clips = ClipDataset(synthetic_folder, "train", 32, 10**9)
    batches = list(training_batches(clips, batch=3, frames=4, steps=2, seed=0))
    means = torch.cat([b.images.mean((1, 2, 3, 4)) for b in batches])
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


def test_mirroring_twice_is_nothing(frames: Frames) -> None:
    both = torch.tensor([True, False])
    once = mirror(frames, both)
    assert torch.equal(once.images[1], frames.images[1])
    assert torch.equal(once.images[0], frames.images[0].flip(-1))
    # The subject's right outer eye corner stays on the image's left.
    assert (
        (once.landmarks[0, :, 36, 0] < once.landmarks[0, :, 45, 0])
        .eq(frames.landmarks[0, :, 36, 0] < frames.landmarks[0, :, 45, 0])
        .all()
    )
    twice = mirror(once, both)
    for name, value in vars(frames).items():
        torch.testing.assert_close(getattr(twice, name), value)


def test_warp_moves_landmarks_with_the_image() -> None:
    torch.manual_seed(0)
    size = 64
    points = torch.rand(2, 3, 68, 2) * 20 + 22
    y, x = torch.meshgrid(torch.arange(size) + 0.5, torch.arange(size) + 0.5, indexing="ij")
    spot = points[:, :, 30]
    blob = torch.exp(-((x - spot[..., 0, None, None]) ** 2 + (y - spot[..., 1, None, None]) ** 2) / 8)
    K = torch.tensor([[90.0, 0, 30], [0, 90, 34], [0, 0, 1]]).expand(2, 3, 3, 3)
    frames = Frames(
        blob[:, :, None].expand(-1, -1, 3, -1, -1), points, torch.ones(2, 3, 68), K, torch.ones(2, 3).bool()
    )
    warped = warp(frames, roll=0.3, scale=0.1, shift=0.03)
    assert (warped.landmarks - points).norm(dim=-1).mean() > 1
    weight = warped.images[:, :, 0]
    center = torch.stack([(weight * x).sum((2, 3)), (weight * y).sum((2, 3))], -1) / weight.sum((2, 3))[..., None]
    assert (center - warped.landmarks[:, :, 30]).norm(dim=-1).max() < 0.3

    # Distances from the principal point over the focal length, the angle to the axis, survive.
    def angle(f: Frames) -> torch.Tensor:
        return ((f.landmarks - f.Ks[:, :, None, :2, 2]) / f.Ks[:, :, None, None, 0, 0]).norm(dim=-1)

    torch.testing.assert_close(angle(warped), angle(frames), atol=1e-4, rtol=0)


def test_tint_stays_in_range(frames: Frames) -> None:
    tinted = tint(frames, 0.2)
    assert tinted.images.min() >= 0 and tinted.images.max() <= 1
    assert (tinted.images - frames.images).abs().mean() > 0.01
