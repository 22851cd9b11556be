"""Files of runs and results from elsewhere: wrong types, wrong sizes, NaN and scripts."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from fmlfast.common.stored_arrays import read_arrays
from fmlfast.common.text_files import read_json
from fmlfast.evaluation.report import read_history, write_report
from fmlfast.model.config import ModelConfig
from fmlfast.model.stored_model import is_whole, read_model
from fmlfast.reconstruction.result import Reconstruction
from fmlfast.reconstruction.track.tracked import TrackedPerson
from fmlfast.template.face_template import FaceTemplate
from fmlfast.training.checkpoint import load_state
from tests.helpers.readers import READERS
from tests.helpers.stored_examples import optimised, state, weights

DEEP = "[" * 100_000 + "]" * 100_000


CONFIGS: dict[str, Any] = {
    "the settings of the model must be an object": {"model": [1]},
    "channels must be": {"channels": 5},
    "channels must be one or more": {"channels": []},
    "identity_dim must be int": {"identity_dim": "x"},
    "identity_dim is 3, but config.json has 1000000": {"identity_dim": 10**6},
    "width must lie in": {"width": -1},
    "width must lie in 1": {"width": 10**12},
    "template must be str": {"template": 5},
    "input_size must be int": {"input_size": None},
    "inputs of the dense layers": {"input_size": 4096},
    "image_size must lie in": {"image_size": 10**9},
    "level must be int": {"level": {}},
    "level must lie in 0..2": {"level": 30},
    "learned_mean must be bool": {"learned_mean": "no"},
    "visibility must be": {"visibility": "x-ray"},
}


@pytest.mark.parametrize("message", CONFIGS)
def test_settings_of_a_model_are_checked_before_it_is_built(message: str, tmp_path: Path) -> None:
    path = weights(tmp_path).with_name("config.json")
    stored, change = json.loads(path.read_text()), CONFIGS[message]
    path.write_text(json.dumps(stored | change if "model" in change else stored | {"model": stored["model"] | change}))
    with pytest.raises(ValueError, match=rf"config\.json.*{message}|model\.safetensors.*{message}"):
        read_model(tmp_path)


def test_a_model_that_is_not_finite_is_refused_by_name(tmp_path: Path) -> None:
    path = weights(tmp_path)
    tensors = load_file(path)
    for value in (torch.nan, torch.inf):
        save_file(tensors | {"encoder.frame_out.bias": torch.full((33,), value)}, path)
        with pytest.raises(ValueError, match=r"model\.safetensors: encoder\.frame_out\.bias holds NaN"):
            read_model(tmp_path)


Change = Callable[[dict[str, Any], dict[str, str]], Any]
STATES: dict[str, Change] = {
    "tensors": lambda tensors, _: [tensors.pop(name) for name in [*tensors] if name.startswith("adam")],
    "of 8": lambda tensors, _: tensors.pop("adam.0.exp_avg"),
    "exp_avg is missing": lambda tensors, told: (tensors.pop("adam.0.exp_avg"), told.pop("tensors")),
    "has shape": lambda tensors, _: tensors.update({"adam.0.exp_avg": torch.zeros(7)}),
    "NaN": lambda tensors, _: tensors.update({"adam.0.exp_avg": torch.full((3, 4), torch.nan)}),
    "weight holds NaN": lambda tensors, _: tensors.update({"model.weight": torch.full((3, 4), torch.inf)}),
    "is negative": lambda tensors, _: tensors.update({"adam.0.exp_avg_sq": -torch.ones(3, 4)}),
    "step -5": lambda _, told: told.update(step="-5"),
    "invalid literal": lambda _, told: told.update(step="x"),
    "adam.99": lambda tensors, told: (tensors.update({"adam.99.exp_avg": torch.zeros(2)}), told.pop("tensors")),
    "adam.0; start": lambda tensors, told: (tensors.update({"adam.0": torch.zeros(2)}), told.pop("tensors")),
    "nobody knows": lambda tensors, told: (tensors.update({"sgd.0.x": torch.zeros(2)}), told.pop("tensors")),
    "damaged": lambda _, told: told.update(settings=DEEP),
}


@pytest.mark.parametrize("message", STATES)
def test_damaged_states_are_not_resumed(message: str, tmp_path: Path) -> None:
    path = state(tmp_path)
    tensors, told = load_file(path), {"step": "5", "settings": '{"steps": 9}', "tensors": "8"}
    save_file(tensors, path, told)
    model, optimizers = optimised()
    assert load_state(path, model, optimizers, {"steps": 9}) == 5
    STATES[message](tensors, told)
    save_file(tensors, path, told)
    with pytest.raises(ValueError, match=rf"state\.safetensors.*{message}"):
        load_state(path, *optimised(), {"steps": 9})


# ------------------------------------------------------------------------------------------------------------- reports


EVIL = "<script>alert(1)</script>"


def test_text_of_files_is_text_of_the_report(tmp_path: Path) -> None:
    path = READERS["evaluation.json"].make(tmp_path)
    text = path.read_text()
    for old in ("test", "jawOpen", "own", "frames_4"):
        text = text.replace(f'"{old}"', json.dumps(old + EVIL))
    stored = json.loads(text) | {"people": EVIL, "clips": EVIL, "frames": EVIL}
    stored["floor"]["complement_rank"] = EVIL
    stored["expressions"]["mean_error"] = {"mean_face": 0.5}
    path.write_text(json.dumps(stored))
    (tmp_path / "config.json").write_text(json.dumps({EVIL: {EVIL: [EVIL, {EVIL: EVIL}]}, f"a{EVIL}": EVIL}))
    (tmp_path / "previews").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "previews" / "step-1<b>.png")
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert page.count("&lt;script&gt;") > 10 and "<script" not in page and "<b>.png" not in page and "1<b>" not in page


@pytest.mark.parametrize(
    "change",
    [{"ratios": 5}, {"ratios": {"frames_4": {"vertex_mm": [1]}}}, {"mean_face": {"vertex_mm": "x"}}, {"floor": [1]},
     {"split": None, "expressions": {"mean_error": 3}}, {"spread": {"frames_4": 7}}, {"expressions": 7}],
)  # fmt: skip
def test_damaged_evaluations_are_named(change: dict[str, Any], tmp_path: Path) -> None:
    path = READERS["evaluation.json"].make(tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=r"evaluation\.json: damaged"):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


LOGS = {
    "numbers": "5\n6\n7\n",
    "step": '{"step": 1}\n{"step": "a"}\n{"step": 2}\n',
    "digits": '{"step": 1, "a": 1' + "0" * 400 + '}\n{"step": 2}\n',
    "deep": f"{DEEP}\n{{}}\n",
    "quantities": json.dumps({"step": 1} | {f"loss {i}": 1 for i in range(500)}) + "\n",
}


@pytest.mark.parametrize("text", LOGS.values(), ids=LOGS)
def test_damaged_logs_are_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text(text)
    with pytest.raises(ValueError, match=r"metrics\.jsonl: (damaged|line 1|line 2)"):
        read_history(tmp_path / "metrics.jsonl")


def test_names_of_quantities_are_no_formulas(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    (tmp_path / "config.json").write_text("{}")
    rows = [json.dumps({"step": step, r"$\frac{$": step, "\ud800": 1}) for step in range(3)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(rows) + "\n")
    write_report(tmp_path)


# ------------------------------------------------------------------------------------------------------------- results


@pytest.mark.parametrize("name", ["../x", "a/b", 7, None])
def test_names_of_photos_lead_nowhere_else(name: Any, tmp_path: Path) -> None:
    path = READERS["parameters.json"].make(tmp_path)
    stored = read_json(path)
    stored["photos"][0]["name"] = name
    path.write_text(json.dumps(stored))
    target = f"photo-{name}.png"
    if "/" in target:
        (path.parent / target.split("/")[0]).mkdir()
    shutil.copy(path.with_name("photo-left.png"), path.parent / target)
    with pytest.raises(ValueError, match="photos need names"):
        Reconstruction.load(path.parent)


def test_numbers_of_a_result_are_finite_and_of_its_shape(tmp_path: Path) -> None:
    path = READERS["codes.safetensors"].make(tmp_path)
    tensors = load_file(path)
    wrong = {"tone": torch.zeros(2, 3), "detail": torch.zeros(1, 4), "sh": torch.full((1, 1, 9, 3), torch.nan)}
    wrong |= {"rotation": torch.zeros(1, 1, 3, 3, dtype=torch.int64), "texture_confidence": torch.zeros(64, 32)}
    for name, value in (wrong | {"more": torch.zeros(1)}).items():
        save_file(tensors | {name: value}, path)
        with pytest.raises(ValueError, match=rf"codes.safetensors: {name}"):
            Reconstruction.load(path.parent)


def test_numbers_of_a_track_are_finite_and_of_its_shape(tmp_path: Path) -> None:
    path = READERS["parameters.npz of a track"].make(tmp_path)
    arrays = read_arrays(path)
    wrong: dict[str, Any] = {"time": arrays["time"][:2], "rotation": arrays["rotation"] * np.float32("nan")}
    wrong |= {"seen": np.array(["x"] * 3), "expression": arrays["expression"][:, :5], "more": np.zeros(1)}
    for name, value in wrong.items():
        changed: dict[str, Any] = arrays | {name: value}
        np.savez_compressed(path, **changed)
        with pytest.raises(ValueError, match=r"person-0 cannot be read"):
            TrackedPerson.load(path.parent)


def test_a_template_is_not_subdivided_without_end(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"level must lie in 0\.\.4, got 30"):
        FaceTemplate.from_folder(tmp_path, level=30)
    with pytest.raises(ValueError, match="level must lie in"):
        ModelConfig(level=3)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_model_is_whole_or_not(name: str, tmp_path: Path) -> None:
    run = READERS["model.safetensors"].make(tmp_path).parent
    assert is_whole(run)
    stored = (run / name).read_bytes()
    for damaged in (b"", stored[: len(stored) // 2], None):
        (run / name).unlink()
        if damaged is not None:
            (run / name).write_bytes(damaged)
        assert not is_whole(run)
