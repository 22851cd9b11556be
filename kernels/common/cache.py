"""A cache of what was derived from a constant tensor, kept as long as that tensor lives."""

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

Value = TypeVar("Value")


class TensorCache:
    """Values made from a tensor, once for every `key`, and anew after the tensor was changed in place.

    Looking at indices means waiting for a GPU, and sorting them takes longer than a frame: both are done once a mesh.
    """

    def __init__(self) -> None:
        self._known: WeakTensorKeyDictionary = WeakTensorKeyDictionary()  # tensor -> (version, {key: value})

    def get(self, tensor: Tensor, key: Hashable, make: Callable[[], Value]) -> Value:
        """The value for `tensor` and `key`, from `make()` where it is not known yet; it must not hold the tensor."""
        if tensor.is_inference():  # counts no versions
            return make()
        known: tuple[int, dict[Hashable, Any]] | None = self._known.get(tensor)
        if known is None or known[0] != tensor._version:
            known = self._known[tensor] = (tensor._version, {})
        values = known[1]
        if key not in values:
            with torch.inference_mode(False):  # what evaluation made first must also do for training
                values[key] = make()
        return values[key]
