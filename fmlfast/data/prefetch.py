"""Prefetches batches to the device: one buffer each, copied while earlier steps are computed."""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from fmlfast.data.augment import Batch

_ALIGN = 16  # bytes; every dtype may begin there
_AHEAD = 2  # batches beyond the one in use


@dataclass
class PackedBatch:
    """A batch packed into one buffer: one file descriptor between processes, one copy to a device."""

    buffer: Tensor  # [N] uint8
    layout: list[tuple[torch.dtype, tuple[int, ...]]]

    @classmethod
    def of(cls, batch: Batch, pin: bool = False) -> "PackedBatch":
        """Copies a CPU batch into one buffer, in page-locked memory if `pin`."""
        parts = [tensor.contiguous().view(-1).view(torch.uint8) for tensor in batch.tensors()]
        buffer = torch.empty(sum(_padded(len(part)) for part in parts), dtype=torch.uint8, pin_memory=pin)
        begin = 0
        for part in parts:
            buffer[begin : begin + len(part)] = part
            begin += _padded(len(part))
        return cls(buffer, [(tensor.dtype, tuple(tensor.shape)) for tensor in batch.tensors()])

    def batch(self) -> Batch:
        """Unpacks the batch, as views of the buffer."""
        tensors, begin = [], 0
        for dtype, shape in self.layout:
            size = dtype.itemsize * torch.Size(shape).numel()
            tensors.append(self.buffer[begin : begin + size].view(dtype).view(shape))
            begin += _padded(size)
        return Batch.of_tensors(tensors)


class Prefetcher:
    """Copies batches to `device` ahead of their use and iterates over them.

    On a GPU they are copied from page-locked memory on a side stream, two batches ahead of the step, and the host never
    waits. On the CPU they pass as they are: making one takes 1.5 ms of a step of hundreds, and a thread would take that
    from the same cores. An error of the loader is raised here, at most two batches early.
    """

    def __init__(self, batches: Iterable[Batch], device: torch.device | str) -> None:
        self.batches, self.device = batches, torch.device(device)

    def __iter__(self) -> Iterator[Batch]:
        if self.device.type == "cpu":
            return iter(self.batches)
        return self._ahead()

    def _ahead(self) -> Iterator[Batch]:
        side = torch.cuda.Stream(self.device)
        waiting: deque[tuple[PackedBatch, torch.cuda.Event]] = deque()
        for batch in self.batches:
            packed = PackedBatch.of(batch, pin=True)  # torch keeps this memory until the copy below is over
            with torch.cuda.stream(side):
                copied = packed.buffer.to(self.device, non_blocking=True)
                done = torch.cuda.Event()
                done.record(side)
            waiting.append((PackedBatch(copied, packed.layout), done))
            if len(waiting) > _AHEAD:
                yield self._arrived(*waiting.popleft())
        while waiting:
            yield self._arrived(*waiting.popleft())

    def _arrived(self, packed: PackedBatch, copied: torch.cuda.Event) -> Batch:
        stream = torch.cuda.current_stream(self.device)
        stream.wait_event(copied)
        packed.buffer.record_stream(stream)  # made on the side stream: not to be given away before this one is done
        return packed.batch()


def _padded(size: int) -> int:
    return -(-size // _ALIGN) * _ALIGN
