"""What the renderer of synthetic clips knows of a frame, on its way from a clip to a batch."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fmlfast.data.frames import ClipTensors, Frames, resize_clip
from fmlfast.data.shards import list_clips, read_clip
from tests.data.test_detection import detected_clip, renderer_labels
from tests.data.test_shards import make_clip, write


def test_clips_keep_the_renderers_labels(tmp_path: Path) -> None:
    labels = renderer_labels(3)
    surface, expressions = labels["surface_labels"], labels["expression_labels"]
    clips = [
        replace(detected_clip("a"), **labels),
        replace(make_clip(np.random.default_rng(2), "b"), surface_labels=surface[::-1].copy()),
        replace(detected_clip("c"), expression_labels=expressions[::-1].copy()),
        detected_clip("d"),
        replace(make_clip(np.random.default_rng(3), "e"), color_labels=labels["color_labels"]),
    ]
    write(tmp_path, clips)
    for clip, ref in zip(clips, list_clips(tmp_path, "train"), strict=True):
        got = read_clip(ref)
        assert got.labels.keys() == clip.labels.keys()
        for name, array in clip.labels.items():
            np.testing.assert_array_equal(getattr(got, name), array)
        assert (got.detection is None) == (clip.detection is None)
    for name, array in labels.items():
        np.testing.assert_array_equal(clips[0].part(1, 3).labels[name], array[1:])
    assert not clips[3].part(1, 3).labels
    resized = resize_clip(clips[0], 66)
    np.testing.assert_allclose(resized.labels["surface_labels"], 2 * surface, rtol=1e-6)
    for name in ("expression_labels", "color_labels"):
        np.testing.assert_array_equal(resized.labels[name], labels[name])
    tensors = [ClipTensors.of(clip) for clip in clips]
    assert [part.surface_known[0] for part in tensors] == [1, 1, 0, 0, 0]
    assert [part.expression_known[0] for part in tensors] == [1, 0, 1, 0, 0]
    assert [part.color_known[0] for part in tensors] == [1, 0, 0, 0, 1]
    np.testing.assert_array_equal(tensors[0].surface_labels, surface)
    np.testing.assert_array_equal(tensors[0].expression_labels, expressions)
    np.testing.assert_array_equal(tensors[4].color_labels, labels["color_labels"])
    assert not tensors[3].surface_labels.any() and not tensors[3].expression_labels.any()
    frames = Frames.whole(tensors)
    for name in ("surface_known", "expression_known", "color_known"):
        assert not getattr(frames.unlabelled(), name).any() and getattr(frames, name).any()
    for name, array in labels.items():
        for wrong in (array[:2], array[:, :50], array.astype(np.float64), array * np.float32(np.nan)):
            with pytest.raises(ValueError, match=f"{name} must be finite float32 "):
                replace(clips[0], **{name: wrong})
