# SPDX-License-Identifier: Apache-2.0
"""Addresses beyond 2^31 elements without the memory: a small launch again as the last frames of a huge one.

Memory that is only reserved stands for the other frames, and only the blocks of the last ones run. What they leave must
be the small launch's bits: an address that wrapped round in 32 bits would be out of bounds, or miss its frame.
"""

import math
import mmap
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tools.ptx import driver
from tools.ptx.execute import Finding, Kernel, Schedule

BATCH = 7
"""Sets of frames of a small launch. An argument has frames where this divides its first dimension, so that it must not
divide numbers of vertices, triangles or edges."""
LIMIT = 1 << 31
LEAST = 1000
"""Elements of a set from which on an argument must become larger than LIMIT."""


def reserved(rows: int, like: Tensor) -> Tensor:
    """Zeros with so many rows, which take memory only where they are touched."""
    shape = rows, *like.shape[1:]
    noreserve = 0x4000  # of Linux, which the module does not name
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | noreserve
    memory = mmap.mmap(-1, math.prod(shape) * like.element_size(), flags=flags)
    return torch.frombuffer(memory, dtype=like.dtype).view(shape)  # which keeps the mapping


@dataclass
class Enlarged:
    """Does each launch of a kernel that goes frame by frame again as a huge one: `on_launch` of the driver's settings.

    Adds to the driver's findings what is wrong with it.
    """

    launches: Counter[str] = field(default_factory=Counter)
    """How many there were, by kernel."""

    def __call__(
        self, name: str, kernel: Kernel, grid: tuple[int, int, int], values: list[Any], names: list[str]
    ) -> None:
        small = {n: v.clone() if isinstance(v, Tensor) else v for n, v in zip(names, values, strict=True)}
        tensors = {n: v for n, v in small.items() if isinstance(v, Tensor) and v.numel()}
        framed = {n for n, t in tensors.items() if len(t) % BATCH == 0} - driver.settings.orderless
        sizes = [tensors[n].numel() // BATCH for n in framed]
        queued = name == "rasterize_tile_kernel"  # whose programs share a queue of all frames' triangles
        if not any(size >= LEAST for size in sizes) or (grid[0] % BATCH and not queued):
            return
        self.launches[name] += 1
        added = LIMIT // min(size for size in sizes if size >= LEAST) + 1
        large = small | {n: t.clone() for n, t in tensors.items()}
        for n in framed:
            rows = len(small[n]) // BATCH * added
            large[n] = reserved(rows + len(small[n]), small[n])
            large[n][rows:] = small[n]
        if queued:
            large["queue_ptr"][:, 1] += len(small["keys_ptr"]) // BATCH * added
        first = 0 if queued else grid[0] // BATCH * added
        schedule = Schedule(races=False, blocks=range(first, first + grid[0]))
        kernel(grid, list(small.values()), names, Schedule(races=False))
        driver.findings.extend(kernel((first + grid[0], 1, 1), list(large.values()), names, schedule).findings)
        for n in framed:
            tail = large[n][-len(small[n]) :]
            if not torch.equal(tail.view(torch.uint8), small[n].view(torch.uint8)):
                where = f"{n} {list(large[n].shape)}"
                driver.findings.append(Finding("differs from the small launch", name, n, where=where))
