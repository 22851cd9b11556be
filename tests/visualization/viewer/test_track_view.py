"""Playing tracked videos."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from fmlfast.reconstruction.head import Head, Motion
from fmlfast.rotation import FRONTAL
from fmlfast.template.face_template import FaceTemplate
from fmlfast.visualization.appearance import standard_light
from fmlfast.visualization.viewer.figure import plain_head
from tests.helpers.videos import smooth, write_video

RATE = 10


@dataclass
class Person:
    """One person of a tracked video, as the view asks for it."""

    head: Head
    motion: Motion
    Ks: np.ndarray
    sh: Tensor
    size: tuple[int, int]
    video: Path | None


def person(frames: int, video: Path | None = None, first: int = 0) -> Person:
    head = plain_head(FaceTemplate.default(0))
    expression = torch.zeros(frames, len(head.template.expressions))
    expression[:, head.template.expression_names.index("jawOpen")] = torch.linspace(0, 1, frames)
    rotation = torch.tensor(FRONTAL).expand(frames, 3, 3)
    translation = torch.stack([torch.linspace(-50, 50, frames), torch.zeros(frames), torch.full((frames,), 500.0)], 1)
    times = (first + np.arange(frames)) / RATE
    K = torch.tensor([[100.0, 0, 40], [0, 100, 30], [0, 0, 1]])
    light = standard_light().expand(frames, 9, 3)
    return Person(
        head, Motion(times, expression, rotation, translation), K.expand(frames, 3, 3), light, (80, 60), video
    )


def test_frames_are_found_by_time_forwards_backwards_and_far_ahead(tmp_path: Path) -> None:
    from fmlfast.visualization.viewer.track_view import VideoFrames

    rng = np.random.default_rng(0)
    pictures = [smooth(rng, 60, 80) for _ in range(60)]
    frames = VideoFrames(write_video(tmp_path / "video.mkv", pictures, RATE))
    for index in (0, 1, 2, 7, 7, 3, 55, 20, 59, 0):
        for offset in (0.001, 0.09):  # a frame is shown until the next
            found = frames.at(index / RATE + offset)
            assert found is not None and np.abs(found.astype(int) - pictures[index]).mean() < 3, index
    late = frames.at(99.0)
    assert late is None or np.abs(late.astype(int) - pictures[59]).mean() < 3


def test_the_scene_is_the_frame_of_the_time(tmp_path: Path) -> None:
    pytest.importorskip("viser")
    from fmlfast.visualization.viewer.stage import Stage
    from fmlfast.visualization.viewer.track_view import TrackView

    pictures = [np.full((60, 80, 3), 20 * i, np.uint8) for i in range(11)]
    one = person(11, write_video(tmp_path / "video.mkv", pictures, RATE))
    two = person(5, one.video, first=6)
    stage = Stage("test", "127.0.0.1", 0)
    try:
        view = TrackView(stage, [one, two])
        view.play.value = False
        for index in (0, 5, 10):
            view.time = index / RATE
            scene = view.scene(True)
            assert scene.through is not None and abs(int(scene.through.photo[30, 40, 0]) - 20 * index) <= 2
            mesh = scene.meshes[0]
            camera = mesh.vertices @ torch.tensor(FRONTAL).T + scene.through.origin
            wanted = one.head.posed(one.motion.expression[index]) @ one.motion.rotation[index].T
            torch.testing.assert_close(camera, wanted + one.motion.translation[index], atol=1e-3, rtol=0)
        view.time = 0.0
        assert len(view.scene(True).meshes) == 1  # the second one comes later
        view.time = 0.8
        assert len(view.scene(True).meshes) == 2
        view.through.value = False
        assert view.scene(False).through is None
        assert view.advanced(0.5) == 0.5 and view.advanced(1.2) == 0.0
    finally:
        stage.stop()


def test_a_video_that_shows_nobody_is_refused() -> None:
    from fmlfast.visualization.viewer.track_view import TrackView

    with pytest.raises(ValueError, match="shows nobody"):
        TrackView(None, [])  # pyright: ignore[reportArgumentType]
