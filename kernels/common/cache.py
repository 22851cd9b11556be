"""A cache of what was derived from a constant tensor, kept as long as that tensor lives."""

from collections.abc import Callable, Hashable
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

Value = TypeVar("Value")


class _State(NamedTuple):
    """A tensor as it was looked at."""

    version: int
    address: int
    values: NDArray[Any] | None  # a copy, on the CPU


_states = WeakTensorKeyDictionary()  # tensor -> _State


def _state(tensor: Tensor) -> _State:
    """The state of a tensor: the same object until it is changed, on the CPU also through `.data` or NumPy.

    Those changes count no version. Comparing values on a GPU would mean waiting for it.
    """
    known: _State | None = _states.get(tensor)
    version, address = tensor._version, tensor.data_ptr()
    now = tensor.detach().numpy() if tensor.is_cpu else None  # NumPy compares five times as fast
    if known is not None and (known.version, known.address) == (version, address):
        if known.values is None or now is None or np.array_equal(known.values, now):
            return known
    values = None if now is None else now.copy()
    state = _states[tensor] = _State(version, address, values)
    return state


class TensorCache:
    """Values made from a tensor, once for every `key`, and anew after the tensor was changed: see `_state`.

    Looking at indices means waiting for a GPU, and sorting them takes longer than a frame: both are done once a mesh.
    """

    def __init__(self) -> None:
        self._known: WeakTensorKeyDictionary = WeakTensorKeyDictionary()  # tensor -> (state, {key: value})

    def get(self, tensor: Tensor, key: Hashable, make: Callable[[], Value]) -> Value:
        """The value for `tensor` and `key`, from `make()` where it is not known yet; it must not hold the tensor."""
        if tensor.is_inference():  # counts no versions
            return make()
        state = _state(tensor)
        known: tuple[_State, dict[Hashable, Any]] | None = self._known.get(tensor)
        if known is None or known[0] is not state:
            known = self._known[tensor] = (state, {})
        values = known[1]
        if key not in values:
            with torch.inference_mode(False):  # what evaluation made first must also do for training
                values[key] = make()
        return values[key]
