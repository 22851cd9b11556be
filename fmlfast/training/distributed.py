"""Training with several processes, one a GPU, started by torchrun on one machine or more.

Every process has the same model and computes the mean loss of its equal share of each batch. The batch's loss is then
the mean over processes, and so are its gradients: those of the network through DistributedDataParallel, those of the
large reflectance basis by exchanging their two factors.
"""

import copy
import itertools
import os
import time
from collections.abc import Callable, Iterable
from datetime import timedelta
from types import TracebackType
from typing import Any, Self, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fmlfast.optim import LowRankAdam

Result = TypeVar("Result")

PATIENCE = timedelta(minutes=30)  # for a process that is late in a step, as while the main one writes a checkpoint
_starts = itertools.count()  # so that a second world of a process does not read what the first one left in the store


class World:
    """The processes that train together, seen from one of them.

    `World.start` joins them; as a context manager it leaves when all have come to the end. Alone, as without torchrun,
    no method costs anything and torch.distributed is not touched. All processes call the same methods in the same
    order.

    Attributes:
        rank: number of this process, from 0.
        size: how many there are.
        device: this process's own.
    """

    synchronised: Callable[[nn.Module], nn.Module] = staticmethod(nn.SyncBatchNorm.convert_sync_batchnorm)
    """Lets BatchNorm layers normalise by the batch of all processes; torch's way has kernels for GPUs only."""

    def __init__(self, rank: int, size: int, device: torch.device, store: dist.Store | None = None) -> None:
        self.rank, self.size, self.device = rank, size, device
        self._store = store
        self._works = itertools.count()

    @classmethod
    def start(cls, device: str) -> "World":
        """Joins the processes that torchrun started, on "cuda" with NCCL and a GPU each.

        Raises:
            ValueError: torchrun's environment is incomplete, or a process has no GPU of its own.
        """
        size = _environment("WORLD_SIZE", 1)
        chosen = torch.device(device)
        if size == 1:
            if chosen.type == "cuda" and chosen.index is not None:
                torch.cuda.set_device(chosen)  # events and synchronisation are the current GPU's
            return cls(0, 1, chosen)
        rank = _environment("RANK")
        if chosen.type == "cpu" and cls.synchronised == nn.SyncBatchNorm.convert_sync_batchnorm:
            raise ValueError(
                "several processes need a GPU each; on a CPU start one without torchrun, which uses all cores"
            )
        if chosen.type == "cuda":
            local, found = _environment("LOCAL_RANK"), torch.cuda.device_count()
            if chosen.index is not None:
                raise ValueError(f"device {device} is one GPU for {size} processes; give cuda, and each takes its own")
            if local >= found:
                raise ValueError(
                    f"process {local} of this machine has no GPU: there are {found}; "
                    f"start at most that many with --nproc-per-node, or give device cpu"
                )
            chosen = torch.device("cuda", local)
            torch.cuda.set_device(chosen)
        store = dist.PrefixStore(f"fmlfast/{next(_starts)}", next(dist.rendezvous("env://", timeout=PATIENCE))[0])
        dist.init_process_group(
            "nccl" if chosen.type == "cuda" else "gloo",
            store=store,
            rank=rank,
            world_size=size,
            timeout=PATIENCE,
            device_id=chosen if chosen.type == "cuda" else None,
        )
        return cls(rank, size, chosen, store)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.size == 1:
            return
        if error is not None:  # the others may be in the middle of a step: leave them to the launcher
            if self.main:
                self._report("failed")
            return
        self.once(lambda: None)  # the main process may still evaluate, for longer than a collective waits
        self.barrier()
        dist.destroy_process_group()

    @property
    def main(self) -> bool:
        """Whether this process is the one that writes, logs and evaluates."""
        return self.rank == 0

    def require_equal_shares(self, batch: int) -> None:
        """Raises ValueError where a batch cannot be shared equally: its loss would then be no mean over processes."""
        if batch % self.size:
            raise ValueError(f"batch {batch} does not divide among {self.size} processes; choose a multiple")

    def wrap(self, encoder: nn.Module) -> nn.Module:
        """A twin of `encoder` to train with: the same parameters and buffers, but BatchNorm normalises by all
        processes' batch and `backward` averages the gradients over processes.

        The encoder itself stays as it is, to be saved and evaluated. Call this once it is on its device and set up,
        and keep the result: gradients are averaged only as long as it lives.
        """
        if self.size == 1:
            return encoder
        shared: dict[int, Any] = {id(tensor): tensor for tensor in (*encoder.parameters(), *encoder.buffers())}
        twin = copy.deepcopy(encoder, shared).train()
        twin = self.synchronised(twin)
        devices = [self.device] if self.device.type == "cuda" else None
        wrapped = DistributedDataParallel(twin, devices, gradient_as_bucket_view=True)
        wrapped.broadcast_buffers = False  # running statistics are the same everywhere; torch renames the argument
        return wrapped

    def broadcast(self, module: nn.Module) -> None:
        """Gives every process the main one's parameters and buffers; other machines may have drawn others."""
        if self.size > 1:
            for tensor in (*module.parameters(), *module.buffers()):
                dist.broadcast(tensor.detach(), 0)

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replaces the gradients of parameters outside the wrapped encoder by their mean over processes.

        Those without a gradient, the same in all processes, are left alone.
        """
        gradients = [p.grad for p in parameters if p.grad is not None]
        if self.size == 1 or not gradients:
            return
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        flat /= self.size
        for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))

    def gather_factors(self, decoder: LowRankAdam) -> None:
        """Gives every process the factors of all, in the order of ranks, so that all take the same step, bit for bit.

        N (K + D) numbers a process are exchanged, instead of the K D of a gradient. Call it before clipping. Codes
        are scaled to the mean over processes, upstream is not, as the codes' gradient is that of a process's own loss.
        Nothing happens alone, or before the decoder has factors, which is so in all processes or in none.
        """
        if self.size == 1 or not decoder.has_factors:
            return
        own = torch.cat(decoder.factors(), 1)
        gathered = own.new_empty(self.size * len(own), own.shape[1])
        dist.all_gather(list(gathered.chunk(self.size)), own)
        codes, upstream = gathered.tensor_split([len(decoder.basis)], 1)
        rows = len(own)
        decoder.set_factors(codes / self.size, upstream, slice(rows * self.rank, rows * (self.rank + 1)))

    def mean(self, terms: dict[str, Tensor]) -> dict[str, Tensor]:
        """Means of 0-dim tensors over processes, in one exchange."""
        if self.size == 1:
            return terms
        stacked = torch.stack([term.detach() for term in terms.values()])
        dist.all_reduce(stacked)
        return dict(zip(terms, (stacked / self.size).unbind(), strict=True))

    def barrier(self) -> None:
        """Waits for all processes, at most half an hour."""
        if self.size > 1:
            dist.barrier()

    def once(self, work: Callable[[], Result]) -> Result | None:
        """Lets the main process do `work` while the others wait, for however long it takes.

        What decides whether there is work belongs into it: every process must make the call. Returns what `work` did,
        None in the others.

        Raises ChildProcessError in the others where it fails.
        """
        if self.main:
            try:
                result = work()
            except BaseException:
                self._report("failed")
                raise
            self._report("done")
            return result
        assert self._store is not None
        name = f"work/{next(self._works)}"
        while not self._store.check([name]):  # a wait of the store's own would have an end and could not be interrupted
            time.sleep(0.1)
        if self._store.get(name) != b"done":
            raise ChildProcessError("the main process failed; its own message says why")
        return None

    def _report(self, outcome: str) -> None:
        if self._store is not None:
            self._store.set(f"work/{next(self._works)}", outcome)


def _environment(name: str, default: int | None = None) -> int:
    value = os.environ.get(name, default)
    if value is None:
        raise ValueError(f"WORLD_SIZE is set but {name} is not; start several processes with torchrun")
    return int(value)
