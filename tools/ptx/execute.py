# SPDX-License-Identifier: Apache-2.0
"""Executes a parsed kernel on tensors in the CPU's memory, through core.c; says what went wrong and what it cost."""

import ctypes
import functools
import hashlib
import os
import platform
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from . import memory
from .instruction import OPS
from .parse import Program, bits_of
from .structures import COUNTERS, Area, Counters, Event, Ins, Launch

SHARED_BASE = 0x1000
TYPES = (
    "",
    "out of bounds",
    "misaligned",
    "uninitialised read",
    "shared out of bounds",
    "shared uninitialised",
    "shared race",
    "shared race within a warp",
    "race write-write",
    "race read-write",
    "race of equal values",
    "atomic and plain write",
    "atomic and plain read",
    "race within a warp",
    "lanes write different values",
    "lanes write equal values",
    "division by zero",
    "shuffle from an inactive lane",
    "deadlock at a synchronisation",
    "runaway",
    "wild address",
    "conversion out of range",
    "trap",
    "barrier after threads have left",
    "lanes write different values to shared memory",
    "shared race of equal values",
    "",
    "What is found, by the numbers of events in state.h.",
    "",
)
"""What is found, by the numbers of events in state.h."""
BENIGN = {
    "race of equal values",
    "shared race of equal values",
    "atomic and plain read",
    "lanes write equal values",
    "conversion out of range",
}
"""Reported, but no fault in themselves."""


@dataclass
class Schedule:
    """How a launch is run, and what is looked at."""

    seed: int = 0
    resident: int = 1
    """Blocks at once."""
    random: bool = False
    divergent: bool = False
    races: bool = True
    counting: bool = False
    approximate: bool = False
    limit: int = 20_000_000_000
    blocks: Sequence[int] | None = None
    """Which blocks; all if None, in random order where the schedule is random."""


@dataclass
class Finding:
    type: str
    kernel: str
    source: str
    text: str = ""
    line: int = 0
    other_source: str = ""
    other_text: str = ""
    block: int = 0
    thread: int = 0
    other_block: int = 0
    other_thread: int = 0
    count: int = 1
    where: str = ""
    detail: str = ""

    @property
    def benign(self) -> bool:
        return self.type in BENIGN

    def __str__(self) -> str:
        other = ""
        if self.other_text:
            who = f"block {_some(self.other_block)} thread {_some(self.other_thread)}"
            other = f"; the other, {who}: {self.other_text!r} at {self.other_source}"
        return (
            f"{self.type}, {self.count} times, {self.kernel}: {self.text!r} (PTX line {self.line}) at {self.source}, "
            f"block {self.block} thread {self.thread}, {self.where}{self.detail}{other}"
        )


def _some(number: int) -> str:
    return str(number) if number < 1 << 31 else "several"


@dataclass
class Result:
    findings: list[Finding]
    counters: dict[str, int]
    unique_read: int = 0
    unique_written: int = 0
    issued: np.ndarray | None = None
    sectors: np.ndarray | None = None
    by_storage: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Bytes of sectors read and written, by the names of the arguments in a storage."""


@functools.cache
def library() -> ctypes.CDLL:
    """core.c, compiled once and kept where temporary files go."""
    folder = Path(__file__).parent
    command = "gcc -O3 -march=native -ffp-contract=off -fno-math-errno -fno-trapping-math -shared -fPIC".split()
    texts = [path.read_bytes() for path in sorted(folder.glob("*.[ch]"))]
    key = hashlib.sha256(b"".join(texts) + platform.node().encode()).hexdigest()[:16]  # for this processor
    path = Path(tempfile.gettempdir()) / f"ptx_core_{key}.so"
    if not path.exists():
        scratch = path.with_suffix(f".{os.getpid()}.tmp")
        subprocess.run([*command, str(folder / "core.c"), "-o", str(scratch), "-lm"], check=True)
        scratch.replace(path)
    found = ctypes.CDLL(str(path))
    found.launch.argtypes = [ctypes.c_void_p]
    return found


class Kernel:
    """A program, encoded for core.c."""

    def __init__(self, program: Program, shared: int, threads: int | None = None) -> None:
        self.program = program
        self.shared = max(shared, program.static_shared)
        self.warps = (threads or program.threads) // 32
        code = (Ins * len(program.code))()
        for to, ins in zip(code, program.code, strict=True):
            to.op = OPS[ins.op]
            to.pred, to.negated, to.ftz = ins.pred, ins.negated, ins.ftz
            to.width, to.count, to.cls, to.sign = ins.width, ins.count, ins.cls, ins.sign
            to.d[:] = (ins.d + [-1] * 4)[:4]
            to.s[:] = (ins.s + [-1] * 4)[:4]
            to.target, to.kind, to.offset = int(ins.target), ins.kind, ins.offset
        self.code = code
        self.init: dict[str, np.ndarray] = {}
        self.fixed: dict[str, int] = {}
        for file, dtype in (("4", np.uint32), ("8", np.uint64)):
            values = np.zeros(program.registers[file] + 1, dtype)
            for value, register in program.constants[file].items():
                values[register] = value
            self.init[file] = values
            self.fixed[file] = program.registers[file] - len(program.constants[file])

    def __call__(
        self,
        grid: tuple[int, int, int],
        values: Sequence[Any],
        names: Sequence[str],
        schedule: Schedule,
    ) -> Result:
        """Runs it: `values` are tensors, numbers and None (no pointer), one for each of its first parameters."""
        tensors = {n: v for n, v in zip(names, values, strict=True) if isinstance(v, torch.Tensor)}
        arguments = memory.arguments_of(tensors)
        storages = memory.storages_of(arguments, schedule.races, schedule.counting)
        by_name = {a.name: a for a in arguments}
        params = np.zeros(len(self.program.params) + 1, np.uint64)
        for n, (name, value) in enumerate(zip(names, values, strict=True)):
            if name in by_name:
                params[n] = by_name[name].space if by_name[name].host else 0
            elif value is not None:
                params[n] = bits_of(value, self.program.params[n])
        areas = (Area * max(len(arguments), 1))()
        for area, a in zip(areas, arguments, strict=False):
            area.host, area.bytes, area.space, area.granule = a.host, a.bytes, a.space, a.granule
            area.poisoned = memory.is_poisoned(a.storage)
            s = storages.get(a.storage)
            if s is not None:
                area.granule = s.granule
                at = a.host - a.storage
                if s.shadow is not None:
                    area.shadow = s.shadow.ctypes.data + at // s.granule * memory.SHADOW_BYTES
                if s.sectors is not None and s.touched is not None:
                    area.sectors, area.touched = s.sectors.ctypes.data + at // 32 * 4, s.touched.ctypes.data + at // 32
        total = grid[0] * grid[1] * grid[2]
        order = np.arange(total, dtype=np.uint32) if schedule.blocks is None else np.asarray(schedule.blocks, np.uint32)
        if schedule.random:
            order = np.random.default_rng(schedule.seed).permutation(order)
        counters, events = Counters(), (Event * 512)()
        issued = np.zeros(len(self.code), np.uint64)
        sectors = np.zeros(len(self.code), np.uint64)
        L = Launch()
        L.code, L.instructions = ctypes.addressof(self.code), len(self.code)
        L.r32, L.r64, L.preds = (self.program.registers[f] for f in ("4", "8", "1"))
        L.init32, L.init64 = self.init["4"].ctypes.data, self.init["8"].ctypes.data
        L.fixed32, L.fixed64 = self.fixed["4"], self.fixed["8"]
        special = self.program.special
        for field_, prefix in ((L.tid, "%tid"), (L.ctaid, "%ctaid"), (L.nctaid, "%nctaid"), (L.ntid, "%ntid")):
            field_[:] = [special.get(f"{prefix}.{x}", -1) for x in "xyz"]
        L.laneid = special.get("%laneid", -1)
        L.warps, L.shared, L.shared_base = self.warps, self.shared, SHARED_BASE
        L.params, L.areas, L.area_count = params.ctypes.data, ctypes.addressof(areas), len(arguments)
        L.order, L.blocks, L.grid[:] = order.ctypes.data, len(order), grid
        L.resident, L.random, L.divergent = schedule.resident, schedule.random, schedule.divergent
        L.races, L.counting, L.approximate = schedule.races, schedule.counting, schedule.approximate
        L.seed, L.limit = schedule.seed + 1, schedule.limit
        L.counters, L.events = ctypes.addressof(counters), ctypes.addressof(events)
        L.issued, L.sectors_by_pc = issued.ctypes.data, sectors.ctypes.data
        library().launch(ctypes.addressof(L))
        found = [self._finding(events[n], arguments) for n in range(L.event_count)]
        result = Result(found, {name: getattr(counters, name) for name in COUNTERS}, issued=issued, sectors=sectors)
        for s in storages.values():
            if s.touched is not None:
                read, written = 32 * int((s.touched & 1 > 0).sum()), 32 * int((s.touched & 2 > 0).sum())
                result.unique_read += read
                result.unique_written += written
                result.by_storage["/".join(s.names)] = (read, written)
        return result

    def _finding(self, e: Event, arguments: list[memory.Argument]) -> Finding:
        ins = self.program.code[e.pc]
        other = self.program.code[e.otherpc] if e.otherpc >= 0 and e.type not in (1, 3, 4, 20, 21) else None
        where = ""
        if e.address >= 1 << 40 and (e.address >> 40) <= len(arguments):
            a = arguments[(e.address >> 40) - 1]
            kind = f"{list(a.tensor.shape)} {str(a.tensor.dtype).removeprefix('torch.')}"
            where = f"argument {a.name} {kind}, byte {e.address - a.space} of {a.bytes}"
        elif e.type in (4, 5, 6, 7, 24):
            where = f"shared byte {e.address - SHARED_BASE if e.address >= SHARED_BASE else e.address} of {self.shared}"
        elif e.address:
            where = f"address {e.address:#x}"
        detail = ""
        if e.type in (1, 3, 4, 20):
            detail = f" ({('read', 'written', 'atomic')[max(e.otherpc, 0)]})"
        if e.type == 21:
            detail = f" ({'NaN' if e.otherpc == 0 else 'saturated'}, from bits {e.address:#010x})"
            where = ""
        return Finding(
            TYPES[e.type], self.program.name, ins.source, ins.text, ins.line, other.source if other else "",
            other.text if other else "", e.block, e.thread, e.otherblock, e.otherthread, e.count, where, detail,
        )  # fmt: skip
