"""Helpers for tensors: batches of them, constants uploaded once, and full precision under autocast."""

from collections.abc import Callable, Iterable
from dataclasses import fields, replace
from functools import cache, wraps
from typing import ParamSpec, Self, TypeVar, get_type_hints

import torch
from torch import Tensor

Numbers = tuple[int, ...] | tuple[float, ...] | tuple[tuple[float, ...], ...]


@cache
def constant(
    numbers: Numbers,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """The numbers as a tensor of their shape; not to be changed in place."""
    with torch.inference_mode(False):  # or training could not use what evaluation made first
        return torch.tensor(numbers, dtype=dtype, device=device)


P = ParamSpec("P")
R = TypeVar("R")


def exact(function: Callable[P, R]) -> Callable[P, R]:
    """Keeps autocast around a call from rounding coordinates to 8 bits."""

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            return function(*args, **kwargs)

    return run


class TensorBatch:
    """Common to dataclasses whose fields are tensors with the subject first, or such dataclasses again."""

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        """The same batch with every tensor passed through the function."""
        values = ((f.name, getattr(self, f.name)) for f in fields(self))  # type: ignore[arg-type]
        mapped = {name: function(v) if isinstance(v, Tensor) else v.map(function) for name, v in values}
        return replace(self, **mapped)  # type: ignore[type-var]

    def tensors(self) -> list[Tensor]:
        """All tensors, in the order of the fields."""
        found: list[Tensor] = []
        self.map(lambda tensor: (found.append(tensor), tensor)[1])
        return found

    @classmethod
    def of_tensors(cls, tensors: Iterable[Tensor]) -> Self:
        """The batch that these are the `tensors` of."""
        rest, kinds = iter(tensors), get_type_hints(cls)
        values = {}
        for field in fields(cls):  # type: ignore[arg-type]
            kind = kinds[field.name]
            values[field.name] = next(rest) if kind is Tensor else kind.of_tensors(rest)
        return cls(**values)

    def to(self, device: torch.device | str) -> Self:
        """The same batch on another device."""
        waits = torch.device(device).type == "cpu"  # or it would be read before it is there
        return self.map(lambda tensor: tensor.to(device, non_blocking=not waits))

    def select(self, subjects: Tensor | slice) -> Self:
        """Some of the subjects."""
        return self.map(lambda tensor: tensor[subjects])
