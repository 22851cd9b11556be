"""Saves and restores the state of a training run, model, optimisers and step, in one safetensors file."""

import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from fmlfast.common.atomic import atomic_path
from fmlfast.common.stored_arrays import read_tensors
from fmlfast.common.tensor_file import write_tensors
from fmlfast.common.text_files import parse_json

Optimizers = dict[str, torch.optim.Optimizer]
_ADAM = ("step", "exp_avg", "exp_avg_sq")  # what Adam and LowRankAdam keep of a parameter
_MOMENT = re.compile(rf"\w+\.(\d{{1,6}})\.({'|'.join(_ADAM)})")


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
        told = {"step": str(step), "settings": json.dumps(settings), "tensors": str(len(tensors))}
        write_tensors(temporary, tensors, told)


def load_state(
    path: str | Path, model: nn.Module, optimizers: Optimizers, settings: dict[str, Any] | None = None
) -> int:
    """Restores model and optimisers; returns the number of steps done.

    Raises ValueError, naming the file, when there is no checkpoint, it is damaged, or belongs to another architecture
    or other settings.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path} does not exist: this run has no checkpoint yet; start it without --resume")
    try:
        tensors = read_tensors(path)
        with safe_open(path, "pt") as file:
            told = file.metadata()
        step, stored = int(told["step"]), parse_json(told["settings"], path)
        if step < 0 or int(told.get("tensors", len(tensors))) != len(tensors):  # checkpoints of before tell no number
            raise ValueError(f"step {step}, {len(tensors)} of {told.get('tensors')} tensors")
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} cannot continue this run: {error}; start a new run") from error
    if difference := _difference(stored, settings):
        raise ValueError(f"{path} was made with {difference}; resume a run with the settings it was started with")
    try:
        parts = _by_owner(tensors, optimizers)
        for owner, optimizer in optimizers.items():
            _check_moments(owner, parts[owner], optimizer)
        model.load_state_dict({name.removeprefix("model."): tensors[name] for name in parts["model"]})
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"{path} cannot continue this run: {error}; start a new run") from error
    for owner, optimizer in optimizers.items():
        state: dict[int, dict[str, torch.Tensor]] = {}
        for name, value in parts[owner].items():
            _, index, key = name.split(".")
            state.setdefault(int(index), {})[key] = value
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
        for parameter, values in optimizer.state.items():  # fused Adam needs the parameter's memory layout
            for key, value in values.items():
                if value.shape == parameter.shape:
                    values[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
    return step


def _by_owner(tensors: dict[str, torch.Tensor], optimizers: Optimizers) -> dict[str, dict[str, torch.Tensor]]:
    """Sorts a checkpoint's tensors by the first part of their names; ValueError for one that nobody knows."""
    parts: dict[str, dict[str, torch.Tensor]] = {owner: {} for owner in ("model", *optimizers)}
    for name, value in tensors.items():
        owner = name.split(".")[0]
        if owner not in parts:
            raise ValueError(f"nobody knows its {name}")
        parts[owner][name] = value
    return parts


def _check_moments(owner: str, stored: dict[str, torch.Tensor], optimizer: torch.optim.Optimizer) -> None:
    """Raises ValueError where the stored moments of Adam are not those of the optimiser's parameters."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for name, value in stored.items():
        match = _MOMENT.fullmatch(name)
        if match is None or int(match[1]) >= len(parameters):
            raise ValueError(f"nobody knows its {name}")
        shape = () if match[2] == "step" else tuple(parameters[int(match[1])].shape)
        if tuple(value.shape) != shape:
            raise ValueError(f"{name} has shape {list(value.shape)}, not {list(shape)}")
        if match[2] != "exp_avg" and bool((value < 0).any()):
            raise ValueError(f"{name} is negative")
    begun = {name.split(".")[1] for name in stored}
    if missing := {f"{owner}.{index}.{key}" for index in begun for key in _ADAM} - {*stored}:
        raise ValueError(f"{min(missing)} is missing")


def _difference(stored: Any, given: Any, name: str = "") -> str:
    """Describes the first setting, by dotted name, that differs; empty where none does."""
    if isinstance(stored, dict) and isinstance(given, dict):
        found = (_difference(stored.get(key), given.get(key), f"{name}.{key}") for key in stored | given)
        return next(filter(None, found), "")
    return "" if stored == given else f"{name.strip('.') or 'settings'} {stored}, not {given}"
