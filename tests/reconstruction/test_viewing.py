"""A reconstruction in the viewer, without a browser."""

from pathlib import Path

import numpy as np
import pytest
import torch

from fmlfast.reconstruction.pipeline import reconstruct

pytest.importorskip("viser")
from fmlfast.visualization.viewer.open import open_view
from fmlfast.visualization.viewer.result_view import ResultView, close_up
from fmlfast.visualization.viewer.stage import Stage, to_bytes


def test_over_a_photo_the_head_is_as_in_it_and_elsewhere_as_the_sliders_say(
    photos: dict[str, Path], run: Path, tmp_path: Path
) -> None:
    result = reconstruct([photos["left"], photos["right"]], run, refine=1, texture=64, topology="own")
    result.save(tmp_path / "out")
    stage = Stage("test", "127.0.0.1", 0)
    try:
        view = ResultView(stage, result)
        assert view.scene(True).through is None
        for index, name in enumerate(result.names):
            view.photo.value = name
            view.as_in_photo()
            view.through.value = True
            scene = view.scene(True)
            assert scene.through is not None
            height, width = result.photos[index].shape[:2]
            picture = to_bytes(scene.through.draw(scene.meshes, torch.zeros(height, width, 3), 2))
            wanted, photo = result.overlay(index).astype(float), result.photos[index].astype(float)
            assert np.abs(picture - wanted).mean() < 0.25 * np.abs(wanted - photo).mean() + 0.3
            view.opacity.value = 0.0
            scene = view.scene(True)
            assert scene.through is not None
            clear = to_bytes(scene.through.draw(scene.meshes, torch.zeros(height, width, 3), 1))
            assert np.abs(clear - photo).max() <= 1
            view.opacity.value = 1.0
            view.through.value = False
        view.turn.set(torch.eye(3))
        view.expressions.set(torch.zeros(len(view.expressions.names)))
        (mesh,) = view.scene(True).meshes
        torch.testing.assert_close(mesh.vertices, result.neutral, atol=1e-3, rtol=0)
    finally:
        stage.stop()
    for folders in ([tmp_path / "out"], [tmp_path / "out", tmp_path / "out"]):
        opened = open_view(folders, port=0)
        try:
            assert opened.address.startswith("http://127.0.0.1:")
        finally:
            opened.stop()


def test_a_close_up_holds_the_face_even_at_the_edge_of_a_photo() -> None:
    photo = np.zeros((200, 300, 3), np.uint8)
    photo[5:45, 2:42] = 255  # the face
    landmarks = np.stack(np.meshgrid(np.linspace(2, 42, 8), np.linspace(5, 45, 9)), -1).reshape(-1, 2)
    picture = close_up(photo, landmarks)
    assert 0.1 < (picture > 128).mean() < 0.3
    small = close_up(photo[:50, :50], landmarks)  # less than the window: paper around it
    assert (small[:, :5] == 246).all() and (small > 250).any()
