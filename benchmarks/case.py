"""What is measured: an operation, its inputs, and what it must move."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from fmlfast.kernels._backend import Backend

Inputs = dict[str, Any]  # arguments by name: tensors, sizes, and dataclasses of tensors


@dataclass(frozen=True)
class Cost:
    """What an implementation cannot do without, each byte counted once."""

    bytes: float
    """Read and written in memory, inputs and outputs once each, at the precision of the inputs."""
    flops: float
    """Additions and multiplications."""


@dataclass(frozen=True)
class Bench:
    """One operation at one size."""

    op: str
    """Name of the public function, such as "linear_decode"."""
    shape: str
    """The size in words, such as "8 x 500 x 166,575"."""
    make: Callable[[str, int], Inputs]
    """Fresh random inputs from (device, seed), float32; the tests make theirs in the same way."""
    run: Callable[[Inputs, Backend | None], tuple[Tensor, ...]]
    """The forward pass through the public function: its differentiable outputs first."""
    differentiable: tuple[str, ...]
    """Inputs that have gradients; none where the operation has no backward pass."""
    forward: Cost
    backward: Cost | None = None
    suites: frozenset[str] = frozenset({"cpu", "gpu"})
    """"test": so small that the test suite runs it; "cpu": for `make bench`; "gpu": for a GPU."""
    sweep: str = ""
    """What varies, "subjects", "image", "area", "vertices" or "dimensions"; empty for the sizes of training."""
    x: float = 0.0
    """Where on that axis."""
    tolerance: Mapping[str, float] = field(default_factory=lambda: {"forward": 1e-4, "backward": 1e-3})
    """Largest error allowed against float64, relative to the largest number of a result."""
