"""Synthetic clips with what the face detector says of them, and without where it is missing."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fmlfast.data.detection import Detection
from fmlfast.data.landmark_assets import landmarks_version
from fmlfast.data.mediapipe478 import SCORE_OF
from fmlfast.data.shards import Clip, list_clips, read_clip, read_meta, read_truth
from fmlfast.data.surface_cells import surface_cells
from fmlfast.data.synthetic import generate as module
from fmlfast.data.synthetic.generate import SyntheticConfig, detected, generate
from fmlfast.template.face_template import FaceTemplate
from tests.data.test_shards import make_clip
from tests.helpers.detections import random_detection
from tests.helpers.real_media import landmarker


def config(out: Path, **changes: Any) -> SyntheticConfig:
    settings: dict[str, Any] = {
        "people": 2,
        "val_people": 0,
        "test_people": 0,
        "frames": 2,
        "size": 96,
        "level": 0,
        "workers": 1,
    }
    return SyntheticConfig(out=out, **(settings | changes))


def missing(*_: object) -> None:
    raise ImportError("this needs mediapipe; install fmlfast[video]")


@pytest.mark.parametrize("error", [ImportError, ValueError])
def test_without_the_detector_clips_have_simulated_landmarks_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: type[Exception]
) -> None:
    def absent() -> None:
        raise error("install fmlfast[video]")

    monkeypatch.setattr(module, "FaceDetector", absent)  # here, not in the workers: they must not be asked for it
    generate(config(tmp_path / "clips"))
    printed = capsys.readouterr().err
    assert "note: the clips get simulated landmarks only: install fmlfast[video]" in printed
    refs = list_clips(tmp_path / "clips", "train")
    clips = [read_clip(ref) for ref in refs]
    assert len(clips) == 2 and all(clip.detection is None for clip in clips)
    truth = read_truth(tmp_path / "clips", "train")
    columns = [SCORE_OF[name] for name in FaceTemplate.default(0).expression_names]
    for clip in clips:  # what the renderer knows
        assert clip.surface_labels is not None and clip.expression_labels is not None
        np.testing.assert_array_equal(clip.expression_labels[:, columns], truth[clip.key]["expression"])
        colors = surface_cells(FaceTemplate.default(0)).numpy() @ truth[clip.key]["reflectance"]
        assert clip.color_labels is not None
        np.testing.assert_allclose(clip.color_labels, np.broadcast_to(colors, clip.color_labels.shape), atol=1e-6)
    assert "landmarks" not in read_meta(tmp_path / "clips")
    assert read_meta(tmp_path / "clips")["settings"]["detect"] is False


def test_nobody_asks_for_a_detector_that_is_not_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "FaceDetector", missing)
    generate(config(tmp_path / "clips", detect=False, people=1))
    assert "note:" not in capsys.readouterr().err
    assert len(list_clips(tmp_path / "clips", "train")) == 1


def test_every_frame_of_a_clip_is_observed() -> None:
    clip = make_clip(np.random.default_rng(0), "c", 3)
    answers = [random_detection(np.random.default_rng(i), [i != 1], 33) for i in range(3)]

    class Observer:
        def __init__(self) -> None:
            self.left: Iterator[Detection] = iter(answers)
            self.seen: list[np.ndarray] = []

        def observe(self, image: np.ndarray) -> Detection:
            self.seen.append(image)
            return next(self.left)

    observer = Observer()
    found: Clip = detected(clip, observer)  # pyright: ignore[reportArgumentType]
    np.testing.assert_array_equal(np.stack(observer.seen), clip.images)
    assert found.detection is not None and found.detection.found.tolist() == [True, False, True]
    np.testing.assert_array_equal(found.detection.surface, Detection.stack(answers).surface)
    np.testing.assert_array_equal(found.landmarks, clip.landmarks)


def test_the_detector_sees_synthetic_faces(tmp_path: Path) -> None:
    landmarker()
    generate(config(tmp_path / "clips", people=4))
    truth, off, simulated = read_truth(tmp_path / "clips", "train"), [], []
    for ref in list_clips(tmp_path / "clips", "train"):
        clip = read_clip(ref)
        assert clip.detection is not None
        marks = truth[ref.key]["landmarks"]
        eyes = np.linalg.norm(marks[:, 36] - marks[:, 45], axis=1)[:, None]
        found = clip.detection.found
        off += (np.linalg.norm(clip.detection.surface[:, 478:] - marks, axis=2) / eyes)[found][:, 17:].mean(1).tolist()
        simulated += (np.linalg.norm(clip.landmarks - marks, axis=2) / eyes)[:, 17:].mean(1).tolist()
    assert len(off) >= 6 and len(simulated) == 8
    assert 0.003 < np.median(off) < 0.1
    meta = read_meta(tmp_path / "clips")
    assert meta["settings"]["detect"] is True and meta["landmarks"] == landmarks_version()
