"""Constants on a device, uploaded once: making a tensor from numbers anew waits for a GPU each time."""

from functools import cache

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
