"""Trains data-parallel with several processes, one per GPU, started by torchrun on one machine or more.

Every process has the same model and computes the mean loss of its equal share of each batch. The batch's loss is then
the mean over processes, and so are its gradients: those of the encoder through DistributedDataParallel, those of the
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

PATIENCE = timedelta(minutes=30)  # timeout of collectives, as while the main process writes a checkpoint
_starts = itertools.count()  # prefix of the store's keys, so that a second world does not read the first one's


class World:
    """The process group of data-parallel training, as one of its processes sees it.

    `World.start` joins it; as a context manager it leaves when all processes have finished. With one process, as
    without torchrun, methods do nothing and torch.distributed is not used. All processes call the same methods in the
    same order.

    Attributes:
        rank: number of this process, from 0.
        size: number of processes.
        device: this process's device.
    """

    synchronised: Callable[[nn.Module], nn.Module] = staticmethod(nn.SyncBatchNorm.convert_sync_batchnorm)
    """Converts BatchNorm layers to normalise by the batch of all processes; torch's SyncBatchNorm needs GPUs."""

    def __init__(self, rank: int, size: int, device: torch.device, store: dist.Store | None = None) -> None:
        self.rank, self.size, self.device = rank, size, device
        self._store = store
        self._works = itertools.count()

    @classmethod
    def start(cls, device: str) -> "World":
        """Joins the processes that torchrun started, on "cuda" with NCCL and one GPU per process.

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
                    f"start at most that many with --nproc-per-node"
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
        if error is not None:  # the others may be in the middle of a step: the launcher ends them
            if self.main:
                self._report("failed")
            return
        self.once(lambda: None)  # the main process may still evaluate, for longer than a collective waits
        self.barrier()
        dist.destroy_process_group()

    @property
    def main(self) -> bool:
        """Checks whether this is the main process, which writes, logs and evaluates."""
        return self.rank == 0

    def require_equal_shares(self, batch: int) -> None:
        """Raises ValueError for a batch that processes cannot share equally; its loss would be no mean over them."""
        if batch % self.size:
            raise ValueError(f"--batch {batch} does not divide among {self.size} processes; choose a multiple")
        if batch < 2:
            raise ValueError(f"--batch {batch}: batch normalisation needs two subjects a step or more")

    def wrap(self, encoder: nn.Module) -> nn.Module:
        """Wraps `encoder` for data-parallel training (DistributedDataParallel with synchronised BatchNorm).

        The result shares parameters and buffers; the encoder itself is not changed, to be saved and evaluated. Call
        this once it is on its device and set up, and keep the result: gradients are averaged only while it exists.
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
        """Copies the main process's parameters and buffers to all, as other machines may initialise differently."""
        if self.size > 1:
            for tensor in (*module.parameters(), *module.buffers()):
                dist.broadcast(tensor.detach(), 0)

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Averages the gradients of parameters outside the wrapped encoder over processes, in place.

        Parameters without a gradient, the same ones in all processes, are skipped.
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
        """Gathers the gradient factors of all processes in every one, so that all take identical steps.

        Each process sends N (K + D) numbers, for codes [N, K] and upstream gradients [N, D], instead of the K D of a
        gradient. Call it before clipping. Codes are divided by the number of processes; upstream is not scaled, as the
        codes' gradient is that of a process's own loss. Does nothing with one process.

        Raises ValueError where the decoder has no factors yet.
        """
        if self.size == 1:
            return
        own = torch.cat(decoder.factors(), 1)
        gathered = own.new_empty(self.size * len(own), own.shape[1])
        dist.all_gather(list(gathered.chunk(self.size)), own)
        codes, upstream = gathered.tensor_split([len(decoder.basis)], 1)
        rows = len(own)
        decoder.set_factors(codes / self.size, upstream, slice(rows * self.rank, rows * (self.rank + 1)))

    def mean(self, terms: dict[str, Tensor]) -> dict[str, Tensor]:
        """Averages 0-dim tensors over processes, in one collective."""
        if self.size == 1:
            return terms
        stacked = torch.stack([term.detach() for term in terms.values()])
        dist.all_reduce(stacked)
        return dict(zip(terms, (stacked / self.size).unbind(), strict=True))

    def barrier(self) -> None:
        """Waits for all processes, at most 30 minutes."""
        if self.size > 1:
            dist.barrier()

    def once(self, work: Callable[[], Result]) -> Result | None:
        """Runs `work` in the main process while the others wait, without a timeout.

        Every process must make the call, so conditions belong into `work`. Returns its result, None in the others.

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
        while not self._store.check([name]):  # the store's own wait has a timeout and cannot be interrupted
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
