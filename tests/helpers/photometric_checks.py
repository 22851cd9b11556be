"""What the tests of photometric losses at vertices and over pixels compare with."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from fmlfast.kernels.common.backend import Backend

BACKENDS: tuple[Backend, ...] = ("torch", "triton")


def near(actual: Tensor, expected: Tensor, relative: float) -> None:
    """To `relative` of each number or a tenth of it of the largest, where terms cancel."""
    scale = float(expected.abs().max()) if expected.numel() else 0.0
    torch.testing.assert_close(actual.double(), expected, rtol=relative, atol=0.1 * relative * scale)


def cost_of(difference: list[float], kind: str) -> float:
    """The robust cost of one difference of colours, written out."""
    d2 = sum(d * d for d in difference)
    return {
        "squared": d2,
        "l1": math.sqrt(d2),
        "charbonnier": math.sqrt(d2 + 9e-4) - 0.03,
        "geman": 0.1 * d2 / (d2 + 0.01),
    }[kind]


def refused(call: Callable[..., Any], inputs: dict[str, Any], name: str, value: Any, message: str) -> None:
    """Asserts that the call refuses this value of an argument with a ValueError that begins with `message`."""
    with pytest.raises(ValueError, match=f"^{message}"):
        call(**inputs | {name: value})
