"""Records functions as CUDA graphs, so that a step costs one launch instead of a thousand."""

import gc
import os
from collections.abc import Callable, Hashable
from functools import cache

import torch
from torch import Tensor

from fmlfast.common.tensors import TensorBatch

WARM_UP = 3
"""Calls of a variant before it is recorded: they fill caches, compile kernels and create the optimiser's state."""

_Recording = tuple[torch.cuda.CUDAGraph, TensorBatch, dict[str, Tensor]]


class CudaGraphs:
    """Calls function(batch, *variant), on a GPU by replaying a CUDA graph recorded once for each variant.

    The function must do the same work for every batch of a variant: static shapes, no synchronisation with the GPU, no
    random numbers of torch. State that persists between calls (parameters, the optimiser's state) has to exist after
    WARM_UP calls. With FMLFAST_GRAPHS=0 in the environment the function is called directly.

    Args:
        function: (batch, *variant) -> tensors by name. The next call overwrites the results of a call.
        device: of the batches; graphs are recorded on GPUs only.
    """

    def __init__(self, function: Callable[..., dict[str, Tensor]], device: torch.device | str) -> None:
        self.function = function
        self.calls: dict[Hashable, int] = {}
        self.recorded: dict[Hashable, _Recording] = {}
        self.device = torch.device(device)
        self.records = self.device.type == "cuda" and os.environ.get("FMLFAST_GRAPHS") != "0"
        if self.records:
            self.pool = torch.cuda.graph_pool_handle()  # one for all variants, as no two run at once
            self.side = _side_stream(self.device)

    def __call__(self, batch: TensorBatch, *variant: Hashable) -> dict[str, Tensor]:
        """Calls the function and returns its result.

        Raises RuntimeError where the function cannot be recorded.
        """
        if not self.records:
            return self.function(batch, *variant)
        count = self.calls[variant] = self.calls.get(variant, 0) + 1
        if count <= WARM_UP:
            return self._aside(batch, *variant)
        if variant not in self.recorded:
            self.recorded[variant] = self._record(batch, *variant)
        graph, inputs, results = self.recorded[variant]
        for kept, value in zip(inputs.tensors(), batch.tensors(), strict=True):
            kept.copy_(value, non_blocking=True)
        graph.replay()
        return results

    def _aside(self, batch: TensorBatch, *variant: Hashable) -> dict[str, Tensor]:
        """Calls the function on the recording's side stream: autograd keeps the stream of the first accumulation."""
        here = torch.cuda.current_stream(self.device)
        self.side.wait_stream(here)
        with torch.cuda.stream(self.side):
            results = self.function(batch, *variant)
        here.wait_stream(self.side)
        return results

    def _record(self, batch: TensorBatch, *variant: Hashable) -> _Recording:
        graph, inputs = torch.cuda.CUDAGraph(), batch.map(torch.clone)  # without what the batch has cached
        here = torch.cuda.current_stream(self.device)
        collecting = gc.isenabled()
        gc.disable()  # an unused graph must not be freed while this one is recorded
        try:
            # thread_local: other threads prefetch batches meanwhile, which must not fail the recording.
            with torch.cuda.graph(graph, pool=self.pool, stream=self.side, capture_error_mode="thread_local"):
                results = self.function(inputs, *variant)
        except RuntimeError as error:
            torch.cuda.set_stream(here)  # a failed recording leaves its own stream current
            raise RuntimeError(f"no CUDA graph can be recorded ({error}); FMLFAST_GRAPHS=0 does without") from error
        finally:
            if collecting:
                gc.enable()
        return graph, inputs, results


@cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """Returns one side stream for all graphs, since torch keeps work space for every stream ever used."""
    return torch.cuda.Stream(device)
