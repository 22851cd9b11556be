"""Describes what is measured: an operation, its inputs, and what it must move."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fmlfast.kernels.common.backend import Backend

Inputs = dict[str, Any]  # arguments by name: tensors, sizes, and dataclasses of tensors
Outputs = tuple[Tensor, ...]


def largest_error(
    found: Outputs,
    expected: Outputs,  # in float64
) -> float:
    """Returns the largest error relative to a result's largest number; of integers, the share that differs."""
    errors = []
    for a, b in zip(found, expected, strict=True):
        if not b.is_floating_point():
            errors.append((a != b).double().mean())
            continue
        same = (a == b) | (a.isnan() & b.isnan())  # also where both are infinite
        size = b.abs().masked_fill(~b.isfinite(), 0.0).max().clamp(min=1e-30)
        error = (a.double() - b).abs().masked_fill(same, 0.0)
        errors.append(error.nan_to_num(torch.inf, torch.inf).max() / size)
    return float(torch.stack(errors).max())


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
    """The forward pass through the public function: differentiable outputs first. Optimisers change their inputs."""
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
    elements: float = 0.0
    """How many vertices, triangles, pixels or numbers there are, over all frames, for a sweep's time of one; or 0."""
    element: str = ""
    """What an element is, such as "vertex"."""
    dtype: str = "float32"
    """What the large inputs are stored in."""
    reference: Callable[[Inputs], Outputs] | None = None
    """The results in float64 from inputs in float64, where `run` with backend "torch" does not give them."""
    error: Callable[[Outputs, Outputs], float] = largest_error
    """Compares the results of `run` with those in float64, and so the gradients."""
