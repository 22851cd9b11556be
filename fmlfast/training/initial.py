"""Loads the model that a training run starts from."""

from dataclasses import fields
from pathlib import Path

from fmlfast.model.config import ModelConfig
from fmlfast.model.fml import FML
from fmlfast.model.pretrained import default_checkpoint

SHIPPED = Path("shipped")
"""Stands for the model that comes with fmlfast."""


def load_initial(init: Path, wanted: ModelConfig | None = None) -> FML:
    """Loads the model of a run folder, or the shipped one for "shipped", to start training from.

    Raises ValueError where it is none, or its settings are not the `wanted` ones, naming those that differ.
    """
    model = FML.load(default_checkpoint() if init == SHIPPED else init)
    if wanted not in (None, model.config):
        has = [
            _option(field.name, getattr(model.config, field.name))
            for field in fields(ModelConfig)
            if getattr(model.config, field.name) != getattr(wanted, field.name)
        ]
        raise ValueError(f"--init {init}: this model has {' '.join(has)}; train with these settings, or without --init")
    return model


def _option(name: str, value: object) -> str:
    """Writes a setting as on the command line."""
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return f"--model.{'' if value else 'no-'}{flag}"
    values = value if isinstance(value, tuple) else [value]
    return " ".join([f"--model.{flag}", *map(str, values)])
