"""Reads and checks the files of a trained model: config.json and model.safetensors of a run folder."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from fmlfast.common.stored_arrays import read_tensors
from fmlfast.common.text_files import read_json
from fmlfast.data.landmark_assets import landmarks_version
from fmlfast.model.config import ModelConfig, load_template
from fmlfast.model.encoder import dense_inputs
from fmlfast.template.face_template import FaceTemplate

CONFIG, WEIGHTS = "config.json", "model.safetensors"


@dataclass(frozen=True)
class StoredModel:
    """A trained model as its files tell it, which fit one another."""

    config: ModelConfig
    template: FaceTemplate
    weights: dict[str, Tensor]


def read_model(folder: Path) -> StoredModel:
    """Reads the model of a run folder, and compares its settings with the weights before any network is built of them.

    Raises ValueError, naming the file, where the folder is no run, is damaged, or was trained on another template.
    """
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise ValueError(f"{folder} is not a finished run: {name} is missing; train with train.py first")
    stored = read_json(folder / CONFIG)
    try:
        config, template_told = ModelConfig.from_json(stored["model"]), stored["template"]
        name, fingerprint = str(template_told["name"]), str(template_told["fingerprint"])
    except ValueError as error:
        raise ValueError(f"{folder / CONFIG}: {error}") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder / CONFIG} cannot be read ({error}); copy it anew") from error
    weights = read_tensors(folder / WEIGHTS)
    told = _sizes(config)
    try:
        sizes = _stored_sizes(weights)
    except (KeyError, IndexError) as error:
        raise ValueError(
            f"{folder / WEIGHTS} does not hold this model: {error} is missing or of another rank"
        ) from error
    if other := [name for name in told if told[name] != sizes[name]]:
        differs = ", ".join(f"{name} is {sizes[name]}, but {CONFIG} has {told[name]}" for name in other)
        raise ValueError(f"{folder / WEIGHTS} does not hold this model: {differs}")
    template = load_template(config)
    if template.fingerprint != fingerprint:
        raise ValueError(
            f"{folder} was trained on template {name} ({fingerprint}), but "
            f"{template.name} ({template.fingerprint}) is here; bring that folder or release back"
        )
    if config.described and stored.get("landmarks") != landmarks_version():
        raise ValueError(
            f"{folder} was trained with landmark network {stored.get('landmarks')}, but {landmarks_version()} is "
            "installed; use the release that trained it"
        )
    return StoredModel(config, template, weights)


def is_whole(folder: Path) -> bool:
    """Tells whether the files of a run's model are there and can be read."""
    try:
        return bool(read_json(folder / CONFIG)) and bool(read_tensors(folder / WEIGHTS))
    except (ValueError, OSError):
        return False


def _sizes(config: ModelConfig) -> dict[str, Any]:
    """Lists what the settings say of the weights' sizes."""
    names = ("identity_dim", "reflectance_dim", "channels", "width")
    inputs = dense_inputs(config.input_size, len(config.channels))
    return {name: getattr(config, name) for name in names} | {"inputs of the dense layers": inputs}


def _stored_sizes(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Lists the same of the weights themselves."""
    stages = [weights[name].shape[0] for name in _stages(weights)]
    return {
        "identity_dim": weights["face.identity_basis"].shape[0],
        "reflectance_dim": weights["face.reflectance_basis"].shape[0],
        "channels": tuple(stages),
        "width": weights["encoder.frame_out.weight"].shape[1],
        "inputs of the dense layers": weights["encoder.frame_head.dense.0.weight"].shape[1],
    }


def _stages(weights: Mapping[str, Tensor]) -> list[str]:
    names, stage = [], "encoder.tower.{}.0.weight"
    while (name := stage.format(len(names))) in weights:
        names.append(name)
    return names
