"""Saves and restores the state of a training run, model, optimisers and step, in one safetensors file."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn

from fmlfast.common.atomic import atomic_path
from fmlfast.common.tensor_file import write_tensors

Optimizers = dict[str, torch.optim.Optimizer]


def save_state(
    path: str | Path, model: nn.Module, optimizers: Optimizers, step: int, settings: dict[str, Any] | None = None
) -> None:
    """Saves model and optimisers after `step` steps, to resume bit for bit.

    settings: JSON types, which `load_state` compares. The file is replaced whole or not at all. Raises
    FloatingPointError, and leaves the file as it was, where a number is NaN or infinite.
    """
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for owner, optimizer in optimizers.items():
        for index, state in optimizer.state_dict()["state"].items():
            tensors |= {f"{owner}.{index}.{name}": torch.as_tensor(value) for name, value in state.items()}
    if broken := [name for name, tensor in tensors.items() if not bool(tensor.isfinite().all())]:
        raise FloatingPointError(f"{broken[0]} is not finite after {step} steps; {path} is left alone; lower the rates")
    with atomic_path(path) as temporary:
        write_tensors(temporary, tensors, {"step": str(step), "settings": json.dumps(settings)})


def load_state(
    path: str | Path, model: nn.Module, optimizers: Optimizers, settings: dict[str, Any] | None = None
) -> int:
    """Restores model and optimisers; returns the number of steps done.

    Raises ValueError when there is no checkpoint, or it belongs to another architecture or to other settings.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path} does not exist: this run has no checkpoint yet; start it without --resume")
    try:
        tensors = load_file(path)
        with safe_open(path, "pt") as file:
            step, stored = int(file.metadata()["step"]), json.loads(file.metadata()["settings"])
        if difference := _difference(stored, settings):
            raise ValueError(f"{path} was made with {difference}; resume a run with the settings it was started with")
        model.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
    except (SafetensorError, RuntimeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} cannot continue this run: {error}") from error
    if unknown := {name.split(".")[0] for name in tensors} - {"model", *optimizers}:
        raise ValueError(f"{path} cannot continue this run: nobody knows its {', '.join(unknown)}; start a new run")
    for owner, optimizer in optimizers.items():
        state: dict[int, dict[str, torch.Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith(f"{owner}."):
                _, index, key = name.split(".")
                state.setdefault(int(index), {})[key] = value
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
        for parameter, values in optimizer.state.items():  # fused Adam needs the parameter's memory layout
            for key, value in values.items():
                if value.shape == parameter.shape:
                    values[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
    return step


def _difference(stored: Any, given: Any, name: str = "") -> str:
    """Describes the first setting, by dotted name, that differs; empty where none does."""
    if isinstance(stored, dict) and isinstance(given, dict):
        found = (_difference(stored.get(key), given.get(key), f"{name}.{key}") for key in stored | given)
        return next(filter(None, found), "")
    return "" if stored == given else f"{name.strip('.') or 'settings'} {stored}, not {given}"
