import math
from dataclasses import replace

import pytest
import torch

from fmlfast.data.augment import AugmentConfig, Batch, augment, draw, mirror, tint
from fmlfast.data.frames import Frames
from fmlfast.data.mediapipe478 import SCORE_NAMES
from fmlfast.model.fml import FML


def packed(frames: Frames) -> Frames:
    images = (frames.images * 255).round().to(torch.uint8)
    return replace(frames, images=images)


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


def test_tint_scales_each_channel_and_cuts(frames: Frames) -> None:
    log = torch.linspace(-0.5, 0.5, 24).view(2, 4, 3)
    expected = (frames.images * log.exp()[..., None, None]).clamp(0, 1)
    torch.testing.assert_close(tint(frames, log).images, expected)
    torch.testing.assert_close(tint(packed(frames), log).images, expected)
    assert expected.max() == 1


def test_stored_pixels_are_the_float_ones(frames: Frames) -> None:
    stored = packed(frames)
    torch.testing.assert_close(stored.unpacked().images, frames.images)
    assert frames.unpacked() is frames
    once = mirror(stored, torch.tensor([True, False])).unpacked()
    torch.testing.assert_close(once.images, mirror(frames, torch.tensor([True, False])).images)


def test_draws_depend_on_seed_and_slot_alone() -> None:
    whole = draw(5, range(8, 16), 3)
    for a, b, c in zip(draw(5, [8, 9], 3).tensors(), draw(5, range(10, 16), 3).tensors(), whole.tensors(), strict=True):
        assert torch.equal(torch.cat([a, b]), c)
    others = (draw(6, range(8, 16), 3), draw(5, range(9, 17), 3))
    for other in others:
        assert not torch.equal(other.noise, whole.noise) and not torch.equal(other.hide, whole.hide)
    with pytest.raises(ValueError, match="must not be negative"):
        draw(-1, [0], 3)


def test_draws_have_their_distributions() -> None:
    draws = draw(0, range(2000), 4)
    assert abs(draws.mirror.float().mean() - 0.5) < 0.04
    assert abs(draws.noise.mean()) < 0.06 and abs(draws.noise.std() - 1) < 0.05
    # Exposure is common to the channels: variance 1 + 0.36 each, covariance 1.
    assert abs(draws.undetected.mean() - 0.5) < 0.02 and abs((draws.undetected < 0.25).float().mean() - 0.25) < 0.03
    assert abs(torch.corrcoef(torch.stack([draws.undetected, draws.mirror.float()]))[0, 1]) < 0.07
    covariance = draws.tint.flatten(0, 1).T.cov()
    torch.testing.assert_close(covariance, torch.ones(3, 3) + 0.36 * torch.eye(3), atol=0.08, rtol=0)
    hidden = draws.hide < 0.1
    assert abs(hidden.float().mean() - 0.1) < 0.003
    rates = hidden.float().mean(-1)  # spread over 0..0.2, not 0.1 in every frame
    assert abs(rates.std() - math.sqrt(0.2**2 / 12 + 0.1 * 0.9 / 68)) < 0.006
    flat = torch.cat([draws.noise.flatten(1), draws.hide.flatten(1)], 1)[:, :300]
    between = torch.corrcoef(flat.T).fill_diagonal_(0).abs()
    assert between.max() < 0.13  # nothing is used twice


def test_augmentation_of_a_batch(frames: Frames) -> None:
    batch = Batch(packed(frames), draw(1, [3, 4], 4))
    nothing = AugmentConfig(mirror=False, tint=0, jitter=0, drop=0)
    same, noise, landmark_mask = augment(batch, nothing)
    torch.testing.assert_close(same.images, frames.images)
    assert noise is None and landmark_mask is None

    torch.manual_seed(0)
    changed, noise, landmark_mask = augment(batch, AugmentConfig())
    state = torch.random.get_rng_state()
    again, *_ = augment(batch, AugmentConfig())
    assert torch.equal(changed.images, again.images)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert noise is not None and noise.shape == (2, 4, 68, 2)
    assert abs(noise.std() - 0.005 * 64) < 0.03
    assert (
        landmark_mask is not None and landmark_mask.dtype == torch.bool and 0.75 < landmark_mask.float().mean() < 0.98
    )
    assert changed.images.dtype == torch.float32 and changed.images.is_contiguous()
    assert changed.images.min() >= 0 and changed.images.max() <= 1
    assert not torch.allclose(changed.landmarks, frames.landmarks, atol=1)


def test_mirroring_brings_each_surface_point_to_the_other_side(dense_frames: Frames) -> None:
    frames = dense_frames
    chosen = torch.tensor([False, True])
    once = mirror(frames, chosen)
    for name in ("surface", "precision", "scores"):
        assert torch.equal(getattr(once, name)[0], getattr(frames, name)[0])
    left, right = 263, 33  # outer eye corners
    assert (frames.surface[..., left, 0] > frames.surface[..., right, 0] + 3).all()
    moved = once.surface[1, :, left]
    torch.testing.assert_close(moved[:, 0], 64 - frames.surface[1, :, right, 0])
    torch.testing.assert_close(moved[:, 1], frames.surface[1, :, right, 1])
    assert (once.surface[1, :, left, 0] > once.surface[1, :, right, 0] + 3).all()
    known = replace(frames, precision=frames.precision.clone())
    known.precision[..., left] = 7.0
    assert (mirror(known, chosen).precision[1, :, right] == 7).all()
    blink = SCORE_NAMES.index("eyeBlinkLeft")
    known = replace(frames, scores=torch.zeros_like(frames.scores))
    known.scores[..., blink] = 0.5
    scores = mirror(known, chosen).scores
    assert (scores[1, :, SCORE_NAMES.index("eyeBlinkRight")] == 0.5).all() and not scores[1, :, blink].any()
    assert torch.equal(once.color_labels[0], frames.color_labels[0])
    assert torch.equal(once.color_labels[1, :, left], frames.color_labels[1, :, right])
    assert torch.equal(once.features[1], frames.features[1].flip(1))
    assert torch.equal(once.features[0], frames.features[0])
    twice = mirror(once, chosen)
    for name, value in vars(frames).items():
        torch.testing.assert_close(getattr(twice, name), value)


def test_a_share_of_the_clips_is_shown_without_the_detector(dense_frames: Frames) -> None:
    draws = draw(1, [3, 4], 4)
    draws.undetected[:] = torch.tensor([0.3, 0.1])
    nothing = AugmentConfig(mirror=False, tint=0, jitter=0, drop=0, undetected=0)
    batch = Batch(dense_frames, draws)
    assert torch.equal(augment(batch, nothing)[0].precision, dense_frames.precision)
    shown = augment(batch, replace(nothing, undetected=0.25))[0]
    assert torch.equal(shown.precision[0], dense_frames.precision[0]) and not shown.precision[1].any()
    assert torch.equal(shown.landmarks[1], dense_frames.labels[1])
    draws.mirror[:] = True
    mirrored = augment(batch, replace(nothing, undetected=0.25, mirror=True))[0]
    assert torch.equal(mirrored.landmarks[1], mirror(dense_frames, draws.mirror).labels[1])


def test_a_mirrored_fit_is_the_mirrored_face(model: FML, dense_frames: Frames) -> None:
    both = torch.tensor([True, True])
    plain, turned = (model.observe(frames).start for frames in (dense_frames, mirror(dense_frames, both)))
    assert plain is not None and turned is not None
    flip = torch.diag(torch.tensor([-1.0, 1, 1]))
    torch.testing.assert_close(turned.rotation, flip @ plain.rotation @ flip, atol=0.08, rtol=0)
    assert (turned.rotation - plain.rotation).abs().max() > 0.3


@pytest.mark.gpu
def test_a_graph_can_hold_it(frames: Frames) -> None:
    config = AugmentConfig()
    batches = [Batch(packed(frames), draw(1, slots, 4)).to("cuda") for slots in ([3, 4], [8, 9])]
    expected = augment(batches[1], config)  # also uploads the constants
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        augment(batches[0], config)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = augment(batches[0], config)
    for target, source in zip(batches[0].tensors(), batches[1].tensors(), strict=True):
        target.copy_(source)
    graph.replay()
    for a, b in zip((*found[0].tensors(), *found[1:]), (*expected[0].tensors(), *expected[1:]), strict=True):
        torch.testing.assert_close(a, b)
