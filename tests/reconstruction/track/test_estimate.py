"""The second pass: windows of frames of a known person, joined, resumed, and filled where the face was lost."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from fmlfast.data.detection import Detection
from fmlfast.data.frames import Frames
from fmlfast.data.mediapipe478 import NUM_POINTS
from fmlfast.data.shards import Clip, list_clips, read_clip
from fmlfast.model.codes import Codes
from fmlfast.model.fml import FML
from fmlfast.reconstruction.track import estimate as module
from fmlfast.reconstruction.track.estimate import PersonEstimator, Shot, Track
from fmlfast.rotation import FRONTAL, axis_angle_from_rotation, rotation_from_axis_angle

COUNT, RATE = 40, 25.0


@pytest.fixture
def still(detected_folder) -> Clip:
    """One frame over and over, with points that err by half of what the detector says."""
    clip = read_clip(list_clips(detected_folder, "train")[0])
    assert clip.detection is not None
    names = ("images", "landmarks", "confidence", "Ks", "crop_to_source", "times")
    arrays = {name: np.repeat(getattr(clip, name)[:1], COUNT, 0) for name in names}
    seen = Detection.stack([clip.detection.part(0, 1)] * COUNT)
    noise = np.random.default_rng(0).standard_normal(seen.surface.shape).astype(np.float32)
    seen = replace(seen, surface=seen.surface + 0.5 * seen.spread[..., None] * noise)
    return replace(clip, detection=seen, surface_labels=None, expression_labels=None, color_labels=None, **arrays)


@pytest.fixture
def person(model: FML, still: Clip) -> Codes:
    with torch.no_grad():
        return model.encode(Frames.from_clips([still.part(0, 4)], 64))


@pytest.fixture
def short_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WINDOW", 12)
    monkeypatch.setattr(module, "LAG", 8)
    monkeypatch.setattr(module, "BATCH", 10)


def estimator(model: FML, person: Codes, steps: int = 0) -> PersonEstimator:
    with torch.no_grad():
        return PersonEstimator(model, person, person.identity[:, model.config.identity_dim :], steps, [1.0])


def shot(clip: Clip, numbers: Sequence[int]) -> Shot:
    return Shot(clip, np.ones(len(numbers), bool), numbers, [n / RATE for n in numbers])


def shots(clip: Clip, first: int = 0, size: int = 10) -> Iterator[tuple[Shot]]:
    """The clip in segments of `size` frames, from frame `first` on."""
    for start in range(0, COUNT, size):
        chosen = range(max(start, first), min(start + size, COUNT))
        if len(chosen):
            yield (shot(clip.part(chosen[0], chosen[-1] + 1), chosen),)


def run(model: FML, person: Codes, clip: Clip, steps: int = 0) -> list[Track]:
    with torch.no_grad():
        return [window for (window,) in estimator(model, person, steps).track(shots(clip))]


def turns(track: Track) -> np.ndarray:
    return axis_angle_from_rotation(track.rotation @ torch.tensor(FRONTAL).mT).numpy()


def test_every_frame_is_estimated_once_and_in_order(
    model: FML, person: Codes, still: Clip, short_windows: None
) -> None:
    windows = run(model, person, still)
    assert len(windows) > 2
    whole = Track.join(windows)
    assert whole.frame.tolist() == list(range(COUNT))
    np.testing.assert_allclose(whole.time.numpy(), np.arange(COUNT) / RATE)
    assert whole.time.dtype == torch.float64 and whole.seen.all()
    assert whole.rotation.shape == (COUNT, 3, 3) and whole.sh.shape == (COUNT, 9, 3)
    assert whole.expression.shape == (COUNT, model.num_expressions)


def test_landmarks_are_those_of_the_video(model: FML, person: Codes, still: Clip) -> None:
    moved = replace(still, crop_to_source=still.crop_to_source.copy())
    moved.crop_to_source[:] = [[3.0, 0, 100], [0, 3.0, 200]]
    (window,) = run(model, person, moved)
    assert still.detection is not None
    wanted = 3 * still.detection.surface[:, NUM_POINTS:] + np.array([100, 200])
    np.testing.assert_allclose(window.landmarks.numpy(), wanted, rtol=1e-5)


def test_windows_join_without_a_step(model: FML, person: Codes, still: Clip, monkeypatch: pytest.MonkeyPatch) -> None:
    (whole,) = run(model, person, still)
    monkeypatch.setattr(module, "WINDOW", 12)
    monkeypatch.setattr(module, "LAG", 8)
    windows = run(model, person, still)
    joined = Track.join(windows)
    seams = np.cumsum([len(w.frame) for w in windows])[:-1]
    for values in (turns, lambda t: t.translation.numpy(), lambda t: t.expression.numpy()):
        steps = np.linalg.norm(np.diff(values(joined), axis=0), axis=1)
        others = np.delete(steps, seams - 1)
        assert steps[seams - 1].max() <= 1.5 * others.max() + 1e-6
        distance = np.linalg.norm(values(joined) - values(whole), axis=1).mean()
        assert distance < 0.05 * np.linalg.norm(values(whole), axis=1).mean()


def test_a_still_head_is_still(model: FML, person: Codes, still: Clip, monkeypatch: pytest.MonkeyPatch) -> None:
    (smooth,) = run(model, person, still)
    monkeypatch.setattr(
        module, "smooth_path", lambda fit, *_: module.Path(fit.rotation, fit.translation, fit.expression)
    )
    (rough,) = run(model, person, still)
    for values in (turns, lambda t: t.translation.numpy()):
        before, after = (np.linalg.norm(np.diff(values(t), axis=0), axis=1).mean() for t in (rough, smooth))
        assert after < before / 4


@pytest.mark.parametrize("steps", [0, 2])
def test_an_interrupted_track_ends_as_if_it_had_not_been(
    model: FML, person: Codes, still: Clip, short_windows: None, steps: int
) -> None:
    whole = run(model, person, still, steps)
    for done in range(1, len(whole)):
        after = int(whole[done - 1].frame[-1])
        with torch.no_grad():
            rest = [w for (w,) in estimator(model, person, steps).track(shots(still, after + 1), whole[done - 1])]
        assert [w.frame.tolist() for w in rest] == [w.frame.tolist() for w in whole[done:]]
        a, b = Track.join(rest), Track.join(whole[done:])
        torch.testing.assert_close(a.rotation, b.rotation, atol=2e-4, rtol=0)
        torch.testing.assert_close(a.translation, b.translation, atol=0.2, rtol=0)
        torch.testing.assert_close(a.expression, b.expression, atol=2e-3, rtol=0)
        torch.testing.assert_close(a.sh, b.sh, atol=2e-2, rtol=0)


def test_a_finished_track_has_nothing_left(model: FML, person: Codes, still: Clip) -> None:
    (whole,) = run(model, person, still)
    assert list(estimator(model, person).track(iter([]), whole)) == []


def test_refinement_changes_the_pose_but_not_the_depth(
    model: FML, person: Codes, still: Clip, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[tuple[module.Path, module.Path]] = []
    refine = PersonEstimator._refine

    def spied(self, window, path, light, some):
        result = refine(self, window, path, light, some)
        found.append((path, result))
        return result

    monkeypatch.setattr(PersonEstimator, "_refine", spied)
    monkeypatch.setattr(module, "BATCH", COUNT)
    run(model, person, still, steps=3)
    ((before, after),) = found
    torch.testing.assert_close(after.translation[:, 2], before.translation[:, 2], rtol=1e-5, atol=0)
    assert (after.translation - before.translation)[:, :2].abs().max() > 0.01
    assert axis_angle_from_rotation(after.rotation @ before.rotation.mT).norm(dim=1).max() > 1e-4


@pytest.mark.parametrize("steps", [0, 2])
def test_the_person_stays_who_it_is(model: FML, person: Codes, still: Clip, steps: int) -> None:
    known = [values.clone() for values in person.tensors()]
    tensors = {name: values.clone() for name, values in model.state_dict().items()}
    run(model, person, still, steps)
    assert all(torch.equal(a, b) for a, b in zip(known, person.tensors(), strict=True))
    assert all(torch.equal(tensors[name], values) for name, values in model.state_dict().items())


def test_light_times_tone_is_smooth_and_divided_by_the_tone(model: FML, person: Codes, still: Clip) -> None:
    (window,) = run(model, person, still)
    darker = replace(person, tone=person.tone - 0.7)
    (dark,) = run(model, darker, still)
    torch.testing.assert_close(dark.sh, window.sh * torch.tensor(0.7).exp(), rtol=1e-3, atol=1e-4)


def test_gaps_are_interpolated_with_the_right_numbers_and_times() -> None:
    times = np.cumsum(np.random.default_rng(0).uniform(0.02, 0.06, 20)).tolist()
    frames = [5, 6, 10, 11]
    angle = torch.tensor([0.0, 0.1, 0.5, 0.6])
    track = Track(
        frame=torch.tensor(frames),
        time=torch.tensor([times[n] for n in frames], dtype=torch.float64),
        seen=torch.ones(4, dtype=torch.bool),
        rotation=rotation_from_axis_angle(torch.stack([angle, 0 * angle, 0 * angle], 1)) @ torch.tensor(FRONTAL),
        translation=torch.tensor([[0.0, 0, 500], [1, 0, 500], [5, 8, 520], [6, 8, 520]]),
        expression=torch.tensor([[0.0], [0.2], [0.6], [0.7]]),
        sh=torch.zeros(4, 9, 3),
        landmarks=torch.zeros(4, 68, 2),
    )
    full = track.filled(times, 0)
    assert full.frame.tolist() == list(range(5, 12))
    assert full.seen.tolist() == [True, True, False, False, False, True, True]
    np.testing.assert_allclose(full.time.numpy(), times[5:12])
    torch.testing.assert_close(full.expression[:, 0], torch.tensor([0.0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]))
    torch.testing.assert_close(full.translation[3], torch.tensor([3.0, 4, 510]))
    turned = axis_angle_from_rotation(full.rotation @ torch.tensor(FRONTAL).mT)[:, 0]
    torch.testing.assert_close(turned, torch.tensor([0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6]), atol=1e-5, rtol=0)
    shifted = track.filled(times[5:], 5)
    torch.testing.assert_close(shifted.tensors(), full.tensors())


def test_a_track_of_one_frame_is_estimated(model: FML, person: Codes, still: Clip) -> None:
    with torch.no_grad():
        ((window,),) = estimator(model, person, 1).track(iter([(shot(still.part(0, 1), [7]),)]))
    assert window.frame.tolist() == [7] and window.rotation.isfinite().all()
