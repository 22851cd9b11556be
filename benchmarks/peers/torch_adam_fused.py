"""torch.optim.Adam with fused=True for `low_rank_adam`."""

from functools import partial

from benchmarks.peers.torch_adam import available, update

__all__ = ["NAME", "RUNS", "available"]

NAME = "torch.optim.Adam, fused"
RUNS = {"low_rank_adam": partial(update, fused=True)}
