"""Provides batches of tensors, constants uploaded once per device, and independence of the caller's modes of torch."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
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
    """Returns the numbers as a cached tensor of their shape; not to be changed in place."""
    with torch.inference_mode(False):  # training cannot use inference tensors cached by evaluation
        return torch.tensor(numbers, dtype=dtype, device=device)


P = ParamSpec("P")
R = TypeVar("R")


def exact(function: Callable[P, R]) -> Callable[P, R]:
    """Disables autocast in a function, which would round coordinates to 8 bits; its new tensors are float32."""

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False), _float32_by_default():
            return function(*args, **kwargs)

    return run


@contextmanager
def _float32_by_default() -> Iterator[None]:
    default = torch.get_default_dtype()
    if default == torch.float32:  # the usual case touches nothing that other threads see
        yield
        return
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(default)


def independent(function: Callable[P, R]) -> Callable[P, R]:
    """Makes a function compute alike whatever modes of torch its caller has set, and leave random numbers as they are.

    The modes are autocast, default dtype and device, and inference mode; what it returns can be trained on.
    """

    @exact
    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        with ExitStack() as stack:
            stack.enter_context(torch.random.fork_rng(devices=[]))
            if torch.is_inference_mode_enabled():
                stack.enter_context(torch.inference_mode(False))
            if torch.get_default_device().type != "cpu":
                stack.enter_context(torch.device("cpu"))
            return function(*args, **kwargs)

    return run


class TensorBatch:
    """Base of dataclasses whose fields are tensors with the subject as first axis, or nested such dataclasses."""

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        """Applies a function to every tensor; returns a new batch."""
        values = ((f.name, getattr(self, f.name)) for f in fields(self))  # type: ignore[arg-type]
        mapped = {name: function(v) if isinstance(v, Tensor) else v.map(function) for name, v in values}
        return replace(self, **mapped)  # type: ignore[type-var]

    def tensors(self) -> list[Tensor]:
        """Lists all tensors, in the order of the fields."""
        found: list[Tensor] = []
        self.map(lambda tensor: (found.append(tensor), tensor)[1])
        return found

    @classmethod
    def of_tensors(cls, tensors: Iterable[Tensor]) -> Self:
        """Builds a batch from its `tensors`."""
        rest, kinds = iter(tensors), get_type_hints(cls)
        values = {}
        for field in fields(cls):  # type: ignore[arg-type]
            kind = kinds[field.name]
            values[field.name] = next(rest) if kind is Tensor else kind.of_tensors(rest)
        return cls(**values)

    def to(self, device: torch.device | str) -> Self:
        """Copies the batch to another device."""
        waits = torch.device(device).type == "cpu"  # the CPU would read it before the copy is done
        return self.map(lambda tensor: tensor.to(device, non_blocking=not waits))

    def differentiable(self) -> Self:
        """Copies tensors that were made in inference mode, which autograd does not take."""
        return self.map(lambda tensor: tensor.clone() if tensor.is_inference() else tensor)

    def select(self, subjects: Tensor | slice) -> Self:
        """Selects subjects by index, mask or slice."""
        return self.map(lambda tensor: tensor[subjects])
