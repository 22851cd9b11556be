"""Lists who computes an operation: the kernels, the torch reference, torch.compile of it, other libraries."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from types import ModuleType

import torch

from benchmarks.harness.case import Bench, Inputs, Outputs
from fmlfast.kernels.common.backend import interpreting


@dataclass(frozen=True)
class Difference:
    """By how much a library's results may differ from ours, measured by `distance`, and why."""

    why: str
    forward: float
    backward: float


def distance(found: Outputs, expected: Outputs) -> float:
    """Returns the greatest relative root-mean-square error of an output, or the share of integers that differ.

    Numbers that are infinite in either are left out: what is covered is what integers and colours say.
    """
    errors = [torch.zeros((), dtype=torch.float64)]
    for a, b in zip(found, expected, strict=True):
        if b.is_floating_point():
            use = a.isfinite() & b.isfinite()
            a, b = a[use].double(), b[use].double()
            errors.append(((a - b).norm() / b.norm().clamp(min=1e-30)).cpu())
        else:
            errors.append((a != b).double().mean().cpu())
    return float(torch.stack(errors).max())


@dataclass(frozen=True)
class Provider:
    """One way to compute an operation."""

    name: str
    run: Callable[[Inputs], Outputs]
    missing: str = ""
    """Why it cannot run here, such as "not installed"; empty where it can."""
    differs: Difference | None = None
    """How far another library's results may be from ours, and why."""
    gradients: bool = True
    """Whether it has a backward pass."""


def providers(bench: Bench, device: str, libraries: Sequence[ModuleType]) -> list[Provider]:
    """Lists who has this operation, missing libraries included; the kernels only where they can run.

    `libraries` are modules as benchmarks.peers has them.

    torch.compile is left to the sizes of training: it compiles anew for each size, which takes longer than a sweep.
    """
    found = [Provider("torch", lambda inputs: bench.run(inputs, "torch"))]
    if device != "cpu" or interpreting():
        found.insert(0, Provider("triton", lambda inputs: bench.run(inputs, "triton")))
    if not bench.sweep:
        found.append(Provider("compile", compiled(bench)))
    return found + [_library(peer, bench, device) for peer in libraries if bench.op in peer.RUNS]


def _library(peer: ModuleType, bench: Bench, device: str) -> Provider:
    elsewhere = device != "cpu" and getattr(peer, "CPU_ONLY", False)
    return Provider(
        peer.NAME,
        peer.RUNS[bench.op],
        "runs on CPUs alone" if elsewhere else peer.available(),
        getattr(peer, "DIFFERS", {}).get(bench.op),
        getattr(peer, "GRADIENTS", True),
    )


def compiled(bench: Bench) -> Callable[[Inputs], Outputs]:
    """Wraps the reference in torch.compile, which compiles at the first call."""

    def reference(inputs: Inputs) -> Outputs:
        return bench.run(inputs, "torch")

    @cache
    def function() -> Callable[[Inputs], Outputs]:
        from torch._functorch import config

        config.donated_buffer = False  # a backward pass is timed many times after one forward pass
        torch._logging.set_logs(dynamo=logging.ERROR)  # not a line for every part that it leaves out
        torch._dynamo.reset()  # which stops compiling after eight versions of one function
        return torch.compile(reference, dynamic=False)

    return lambda inputs: function()(inputs)
