"""The model that ships."""

import json
from pathlib import Path

from fmlfast.evaluation.protocol import measure
from fmlfast.model.fml import FML
from fmlfast.model.pretrained import default_checkpoint


def test_it_is_small_says_how_it_was_made_and_beats_the_mean_face(synthetic_folder: Path) -> None:
    folder = default_checkpoint()
    assert sum(path.stat().st_size for path in folder.iterdir()) < 20e6
    config = json.loads((folder / "config.json").read_text())
    assert "python train.py" in config["made_by"]["command"] and config["machine"]["commit"]
    model = FML.load(folder)
    assert model.face.reflectance_mean.min() >= 0 and model.face.reflectance_mean.max() <= 1
    table = measure(model, synthetic_folder).table
    for metric, share in {"vertex_mm": 0.8, "landmark_nme": 0.7, "photometric": 1.0}.items():
        assert table["frames_4"][metric] < share * table["mean_face"][metric], metric
