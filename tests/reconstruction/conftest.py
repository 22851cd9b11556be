"""Fixtures of reconstruction: two rendered photos and a run folder."""

from pathlib import Path

import pytest
from PIL import Image

from fmlfast.model.fml import FML
from fmlfast.reconstruction import pipeline
from tests.helpers.photographs import PLACES, FakeDetector, photograph


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Two photos of the mean face, left.png and right.png, and a detector that knows them."""
    faces, paths = {}, {}
    for name, place in PLACES.items():
        image, face = photograph(*place)
        paths[name] = tmp_path / f"{name}.png"
        Image.fromarray(image).save(paths[name])
        faces[place[:2]] = [face]
    monkeypatch.setattr(FakeDetector, "faces", faces)
    monkeypatch.setattr(pipeline, "FaceDetector", FakeDetector)
    return paths


@pytest.fixture
def run(tmp_path: Path, model: FML) -> Path:
    """A run folder with the small untrained model."""
    model.save(tmp_path / "run")
    return tmp_path / "run"
