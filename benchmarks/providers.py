"""Who computes an operation: the kernels, the torch reference, torch.compile of it, and other libraries."""

import importlib
import logging
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from types import ModuleType

import torch

import benchmarks.peers
from benchmarks.case import Bench, Inputs, Outputs
from benchmarks.peers import Difference
from fmlfast.kernels.common.backend import interpreting


@dataclass(frozen=True)
class Provider:
    """One way to compute an operation."""

    name: str
    run: Callable[[Inputs], Outputs]
    missing: str = ""
    """Why it cannot run here, such as "not installed"; empty where it can."""
    differs: Difference | None = None
    """How far another library's results may be from ours, and why."""


def providers(bench: Bench, device: str) -> list[Provider]:
    """Those that have this operation, missing ones included; the kernels only where they can run.

    torch.compile is left to the sizes of training: it compiles anew for each size, which takes longer than a sweep.
    """
    found = [Provider("torch", lambda inputs: bench.run(inputs, "torch"))]
    if device != "cpu" or interpreting():
        found.insert(0, Provider("triton", lambda inputs: bench.run(inputs, "triton")))
    if not bench.sweep:
        found.append(Provider("compile", compiled(bench)))
    return found + [
        Provider(peer.NAME, peer.RUNS[bench.op], peer.available(), getattr(peer, "DIFFERS", {}).get(bench.op))
        for peer in peers()
        if bench.op in peer.RUNS
    ]


def compiled(bench: Bench) -> Callable[[Inputs], Outputs]:
    """torch.compile of the reference, compiled at the first call."""

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


def peers() -> list[ModuleType]:
    """The modules of benchmarks.peers, each of which wraps another library, installed or not."""
    names = sorted(m.name for m in pkgutil.iter_modules(benchmarks.peers.__path__) if not m.name.startswith("_"))
    return [importlib.import_module(f"benchmarks.peers.{name}") for name in names]
