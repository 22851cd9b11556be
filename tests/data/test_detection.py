"""What the face detector says of frames: checked, stored, moved, and used in place of a clip's own landmarks."""

import tarfile
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch

from fmlfast.data.crop import Crop, points_to_crop
from fmlfast.data.detection import LABELS, NUM_SURFACE, Detection, detection_to_crop, from_bytes, to_bytes
from fmlfast.data.frames import ClipTensors, Frames, resize_clip
from fmlfast.data.loader import ClipDataset
from fmlfast.data.shards import Clip, ShardWriter, list_clips, read_clip, write_meta
from fmlfast.ibug68 import OUTER_EYES
from tests.data.test_shards import make_clip, tamper, write
from tests.helpers.detections import random_detection

FOUND = [True, False, True]


def draw(seed: int = 0, found: list[bool] = FOUND) -> Detection:
    return random_detection(np.random.default_rng(seed), found)


def detected_clip(key: str, seed: int = 1, found: list[bool] = FOUND) -> Clip:
    rng = np.random.default_rng(seed)
    return replace(make_clip(rng, key, len(found)), detection=random_detection(rng, found, 33))


def assert_equal(a: Detection | None, b: Detection | None) -> None:
    assert a is not None and b is not None
    for field in fields(Detection):
        x, y = getattr(a, field.name), getattr(b, field.name)
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y, err_msg=field.name)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("found", np.ones(3, np.float32), r"found must be bool \[M\]"),
        ("found", np.ones((3, 1), np.bool_), r"found must be bool \[M\]"),
        ("found", np.ones(2, np.bool_), r"points must be \[2, 478, 2\], got \[3, 478, 2\]"),
        ("points", np.zeros((3, 478, 3), np.float32), r"points must be \[3, 478, 2\]"),
        ("surface", np.zeros((3, 478, 2), np.float32), r"surface must be \[3, 546, 2\]"),
        ("surface", np.zeros((3, 546, 2)), "surface must be float32, got float64"),
        ("surface", np.full((3, 546, 2), np.inf, np.float32), "surface holds NaN or infinity"),
        ("spread", np.full((3, 546), np.nan, np.float32), "spread holds NaN"),
        ("spread", np.zeros((3, 546), np.float32), "spread must be positive where a face was found"),
        ("scores", np.zeros((3, 51), np.float32), r"scores must be \[3, 52\]"),
        ("features", np.zeros((3, 512), np.float32), r"features must be \[3, 2, 512\]"),
        ("rotation", np.zeros((3, 9), np.float32), r"rotation must be \[3, 3, 3\]"),
    ],
)
def test_a_wrong_detection_cannot_be_made(field: str, value: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(draw(), **{field: value})


def renderer_labels(frames: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(frames)
    return {name: rng.uniform(0, 64, (frames, *tail)).astype(np.float32) for name, tail in LABELS.items()}


@pytest.mark.parametrize("labelled", [False, True])
def test_bytes_are_read_back_and_others_refused(labelled: bool) -> None:
    detection = draw()
    labels = renderer_labels(3) if labelled else {}
    payload = to_bytes(detection, labels)
    found, other = from_bytes(payload)
    assert_equal(found, detection)
    assert other.keys() == labels.keys()
    for name, array in labels.items():
        np.testing.assert_array_equal(other[name], array)
    assert to_bytes(draw(), labels) == payload
    arrays = safetensors.numpy.load(payload)
    rest = {name: array for name, array in arrays.items() if name != "scores"}
    for wrong in (
        payload[:-1],
        payload[:40],
        b"",
        b"x" * 99,
        safetensors.numpy.save(rest),
        safetensors.numpy.save(arrays | {"more": arrays["found"]}),
        safetensors.numpy.save(arrays | {"found": np.array(True)}),
        safetensors.numpy.save(arrays | {"spread": -arrays["spread"]}),
    ):
        with pytest.raises(ValueError):
            from_bytes(wrong)


def test_labels_of_the_renderer_need_no_detection() -> None:
    labels = renderer_labels(2)
    detection, found = from_bytes(to_bytes(None, labels))
    assert detection is None and found.keys() == labels.keys()
    for name, array in labels.items():
        np.testing.assert_array_equal(found[name], array)


def test_parts_stack_to_the_whole() -> None:
    detection = draw(2, [True, False, True, True, False])
    parts = [detection.part(0, 2), detection.part(2, 5)]
    assert [len(part.found) for part in parts] == [2, 3]
    np.testing.assert_array_equal(parts[1].surface, detection.surface[2:])
    assert_equal(Detection.stack(parts), detection)


def test_moving_scales_the_spread_and_leaves_frames_without_a_face_empty() -> None:
    detection = draw()
    moved = detection.moved(2.5, (10.0, -4.0))
    for name in ("points", "surface"):
        expected = getattr(detection, name)[::2] * 2.5 + np.array([10, -4])
        np.testing.assert_allclose(getattr(moved, name)[::2], expected, rtol=1e-5, atol=1e-4)
        assert not getattr(moved, name)[1].any()
    np.testing.assert_allclose(moved.spread, 2.5 * detection.spread, rtol=1e-6)
    for name in ("found", "scores", "rotation", "features"):
        np.testing.assert_array_equal(getattr(moved, name), getattr(detection, name))
    none = Detection.none(4)
    assert not any(getattr(none, field.name).any() for field in fields(none)) and len(none.found) == 4
    assert_equal(none.moved(3.0, (1.0, 2.0)), none)


def test_a_crop_moves_a_detection_as_it_moves_landmarks() -> None:
    detection, crop = draw(), Crop(12.0, -7.0, 40.0)
    moved = detection_to_crop(detection, crop, 96)
    for before, after in ((detection.points, moved.points), (detection.surface, moved.surface)):
        np.testing.assert_allclose(after[2], points_to_crop(before[2], crop, 96), rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(moved.spread, detection.spread * 2.4, rtol=1e-6)


def test_confidence_is_a_half_at_three_percent_of_the_eye_distance() -> None:
    detection = draw()
    landmarks = detection.surface[:, 478:]
    apart = np.linalg.norm(landmarks[:, OUTER_EYES[0]] - landmarks[:, OUTER_EYES[1]], axis=1)
    spread = np.repeat(0.03 * apart[:, None], NUM_SURFACE, axis=1) + ~detection.found[:, None]
    spread[2, 478 + 5] *= 3
    confidence = replace(detection, spread=spread.astype(np.float32)).confidence
    assert confidence.shape == (3, 68) and confidence.dtype == np.float32
    np.testing.assert_allclose(confidence[0], 0.5, rtol=1e-5)
    assert confidence[2, 5] == pytest.approx(0.1, rel=1e-5) and confidence[2, 6] == pytest.approx(0.5, rel=1e-5)
    assert np.isfinite(confidence).all() and (confidence >= 0).all() and (confidence <= 1).all()
    doubled = detection.moved(2.0).confidence  # whatever the unit
    np.testing.assert_allclose(doubled[::2], detection.confidence[::2], rtol=1e-5)


# --------------------------------------------------------------------------------------------------------------- clips


def test_clips_keep_their_detection(tmp_path: Path) -> None:
    clips = [
        detected_clip("a"),
        make_clip(np.random.default_rng(2), "b"),
        detected_clip("c", 3, [False, False]),
        detected_clip("d", 4, [True]),
    ]
    write(tmp_path, clips, clips_per_shard=2)
    refs = list_clips(tmp_path, "train")
    assert [ref.key for ref in refs] == ["a", "b", "c", "d"]
    assert [ref.dense is not None for ref in refs] == [True, False, True, True]
    for clip, ref in zip(clips, refs, strict=True):
        got = read_clip(ref)
        np.testing.assert_array_equal(got.landmarks, clip.landmarks)
        if clip.detection is None:
            assert got.detection is None
        else:
            assert_equal(got.detection, clip.detection)
    with ShardWriter(tmp_path / "again", "train", clips_per_shard=2) as writer:
        for ref in refs[:1]:
            writer.add(read_clip(ref))
    (copied,) = list_clips(tmp_path / "again", "train")
    assert_equal(read_clip(copied).detection, clips[0].detection)


def test_a_clip_and_its_detection_have_as_many_frames() -> None:
    clip = detected_clip("a")
    with pytest.raises(ValueError, match="the detection must be of 3 frames"):
        replace(clip, detection=draw(0, [True, True]))
    part = clip.part(1, 3)
    assert part.frames == 2 and clip.detection is not None
    assert_equal(part.detection, clip.detection.part(1, 3))
    np.testing.assert_array_equal(part.images, clip.images[1:])
    assert replace(clip, detection=None).part(0, 1).detection is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: [*m[:3], (m[3][0], m[3][1][:-4]), *m[4:]], "sample first: damaged safetensors"),
        (lambda m: [*m[:3], (m[3][0], b"not safetensors"), *m[4:]], "sample first: damaged safetensors"),
        (lambda m: [*m[:3], (m[3][0], m[9][1]), *m[4:]], "sample first: the detection must be of 3 frames"),
        (lambda m: [m[3], *m[:3], *m[4:]], "sample first: unexpected file first.safetensors"),
        (lambda m: [*m[:2], m[3], m[2], *m[4:]], "sample first: unexpected file first.002.jpg"),
        (lambda m: [*m[:4], m[3], *m[4:]], "sample first: unexpected file first.safetensors"),
        (lambda m: [*m[:3], m[9], *m[4:]], "sample first: its JSON is missing"),
        (lambda m: [*m[:3], m[4], m[3], *m[5:]], "sample first: unexpected file first.safetensors"),
        (lambda m: [*m[:4], *m[5:]], "sample first: its JSON is missing"),
    ],
    ids="cut foreign other-frames first early twice others late no-json".split(),
)
def test_a_damaged_or_misplaced_detection_is_found(tmp_path: Path, change, message: str) -> None:
    write(tmp_path, [detected_clip("first"), detected_clip("second", 2, [True, True, True, False])])
    path = tmp_path / "train-000000.tar"
    with tarfile.open(path) as tar:
        assert [name.split(".")[-1] for name in tar.getnames()[2:10:7]] == ["jpg", "safetensors"]
    tamper(path, change)
    with pytest.raises(ValueError, match=message) as caught:
        read_clip(list_clips(tmp_path, "train")[0])
    assert "train-000000.tar" in str(caught.value)


def test_detected_landmarks_replace_the_clips_own_where_a_face_was_found() -> None:
    clip = detected_clip("a")
    tensors, seen = ClipTensors.of(clip), clip.detection
    assert seen is not None
    for frame, found in enumerate(FOUND):
        landmarks = seen.surface[frame, 478:] if found else clip.landmarks[frame]
        confidence = seen.confidence[frame] if found else clip.confidence[frame]
        np.testing.assert_array_equal(tensors.landmarks[frame], landmarks)
        np.testing.assert_array_equal(tensors.confidence[frame], confidence)
        np.testing.assert_array_equal(tensors.surface[frame], seen.surface[frame, :478])
        np.testing.assert_array_equal(tensors.scores[frame], seen.scores[frame])
        np.testing.assert_array_equal(tensors.features[frame], seen.features[frame])
    np.testing.assert_allclose(tensors.precision[::2], seen.spread[::2, :478] ** -2.0, rtol=1e-5)
    assert not tensors.precision[1].any()
    np.testing.assert_array_equal(tensors.labels, clip.landmarks)
    np.testing.assert_array_equal(tensors.label_confidence, clip.confidence)
    plain = ClipTensors.of(replace(clip, detection=None))
    np.testing.assert_array_equal(plain.landmarks, clip.landmarks)
    np.testing.assert_array_equal(plain.confidence, clip.confidence)
    assert not plain.surface.any() and not plain.precision.any() and not plain.scores.any()
    assert {value.dtype for name, value in vars(tensors).items() if name != "images"} == {torch.float32}


def test_clips_with_and_without_detection_make_one_batch() -> None:
    clips = [detected_clip("a"), make_clip(np.random.default_rng(2), "b", 2)]
    frames = Frames.from_clips(clips, 24)
    assert (frames.precision > 0).all(2).tolist() == [[True, False, True], [False, False, False]]
    assert frames.surface.shape == (2, 3, 478, 2) and frames.scores.shape == (2, 3, 52)
    alone = Frames.from_clips(clips[:1], 24)
    assert torch.equal(frames.surface[0], alone.surface[0]) and torch.equal(frames.landmarks[0], alone.landmarks[0])
    assert frames.each_alone().surface.shape == (6, 1, 478, 2)


def test_training_compares_with_stored_landmarks_where_they_are_not_the_detectors() -> None:
    clip = detected_clip("a")
    assert clip.detection is not None
    stored = clip.landmarks.copy()
    stored[2] = clip.detection.surface[2, 478:]
    frames = Frames.from_clips([replace(clip, landmarks=stored)], 33)
    labelled = frames.labelled()
    np.testing.assert_array_equal(labelled.landmarks[0], stored)
    np.testing.assert_array_equal(labelled.confidence[0], clip.confidence)
    assert not labelled.precision[0, :2].any()  # a simulated one, and none
    assert torch.equal(labelled.precision[0, 2], frames.precision[0, 2]) and frames.precision[0, 2].all()
    assert torch.equal(labelled.images, frames.images) and torch.equal(labelled.surface, frames.surface)
    assert not torch.equal(frames.landmarks[0, 0], labelled.landmarks[0, 0])


def test_subjects_can_be_shown_as_if_the_detector_had_not_seen_them() -> None:
    clips = [detected_clip("a"), detected_clip("b", 7)]
    frames = Frames.from_clips(clips, 33)
    shown = frames.undetected(torch.tensor([False, True]))
    plain = Frames.from_clips([replace(clip, detection=None) for clip in clips], 33)
    for name in ("landmarks", "confidence", "precision"):
        assert torch.equal(getattr(shown, name)[0], getattr(frames, name)[0]), name
        assert torch.equal(getattr(shown, name)[1], getattr(plain, name)[1]), name
    assert not torch.equal(shown.landmarks[1], frames.landmarks[1])
    assert torch.equal(shown.labels, frames.labels) and torch.equal(shown.images, frames.images)


def test_a_resized_clip_scales_its_detection() -> None:
    clip = detected_clip("a")
    small = resize_clip(clip, 22)
    assert clip.detection is not None and small.detection is not None
    for name in ("points", "surface", "spread"):
        expected = getattr(clip.detection, name) * (22 / 33)
        np.testing.assert_allclose(getattr(small.detection, name), expected, rtol=1e-5, err_msg=name)
    np.testing.assert_array_equal(small.detection.scores, clip.detection.scores)
    np.testing.assert_allclose(small.detection.confidence, clip.detection.confidence, rtol=1e-4)
    precision = ClipTensors.of(small).precision
    np.testing.assert_allclose(precision, ClipTensors.of(clip).precision * (33 / 22) ** 2, rtol=1e-4)


def test_cached_clips_come_back_with_their_detection(tmp_path: Path) -> None:
    clips = [detected_clip("a"), make_clip(np.random.default_rng(2), "b"), detected_clip("c", 5, [True])]
    write(tmp_path, clips)
    write_meta(tmp_path, {})
    cached, decoded = ClipDataset(tmp_path, "train", 28, 10**9), ClipDataset(tmp_path, "train", 28, 0)
    assert list(tmp_path.glob("decoded/28px/*"))
    for index, ref in enumerate(list_clips(tmp_path, "train")):
        expected = ClipTensors.of(resize_clip(read_clip(ref), 28))
        for name, value in vars(expected).items():
            assert torch.equal(getattr(cached[index], name), value), name
            assert torch.equal(getattr(decoded[index], name), value), name
    assert cached[0].precision.any() and not cached[1].precision.any()
