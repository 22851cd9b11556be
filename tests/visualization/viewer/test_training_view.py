"""Watching a training run."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from fmlfast.model.fml import FML
from tests.helpers.small_model import SMALL
from tests.helpers.training_runs import short_run

sys.path.insert(0, str(Path(__file__).parents[3]))
import train as training

pytest.importorskip("viser")
from fmlfast.visualization.viewer import training_view
from fmlfast.visualization.viewer.training_view import TrainingView


def test_a_run_that_is_watched_is_bit_for_bit_the_same(
    synthetic_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    views: list[TrainingView] = []
    monkeypatch.setattr(training_view, "TrainingView", lambda run: views.append(TrainingView(run, port=0)) or views[-1])
    config = short_run(synthetic_folder, tmp_path / "alone", 4)
    training.train(config)
    training.train(replace(config, run=tmp_path / "watched", viewer=True))
    alone, watched = (load_file(tmp_path / name / "model.safetensors") for name in ("alone", "watched"))
    assert alone.keys() == watched.keys()
    assert all(torch.equal(alone[name], watched[name]) for name in alone)
    (view,) = views
    try:
        assert view.state.content.startswith("Step 4, loss")
        assert len(view.curve.data[0]) == 4 and "landmarks" in view.quantity.options
        preview = np.array(Image.open(tmp_path / "watched" / "previews" / "step-000002.png"))
        assert view.preview.image.shape == preview.shape
        (mesh,) = view.scene(True).meshes
        assert mesh.vertices.isfinite().all() and len(mesh.vertices) == 4615
    finally:
        view.close()


def test_a_view_that_fails_says_so_and_lets_the_training_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    view = TrainingView(tmp_path, port=0)
    try:
        (tmp_path / "metrics.jsonl").write_text("{broken\n")
        model = FML(SMALL)
        view.update(model)
        view.update(model)
        assert capsys.readouterr().err.count("the training view stopped") == 1
    finally:
        view.close()
