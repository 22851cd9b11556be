"""Counts the instructions of compiled kernels: NVIDIA's machine code (SASS), disassembled, and AMD's assembly."""

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

WIDTHS = (8, 16, 32, 64, 96, 128)
"""Bits that a load or store moves for a thread."""


@dataclass(frozen=True)
class Instruction:
    """One instruction, and which loops it is in."""

    name: str
    loops: tuple[int, ...] = ()
    """Numbers of the loops around it, in the order in which they begin."""


@dataclass(frozen=True)
class Counts:
    """Instructions of a thread, those in a loop once, or as often as the loop is passed."""

    total: float
    loads: tuple[float, ...]
    """From global memory, for each of WIDTHS."""
    stores: tuple[float, ...]
    atomics: float
    """On global memory."""
    fp32: float
    """Additions, multiplications and both at once in float32; AMD's on two numbers count once."""
    special: float
    """Reciprocals, roots, exponentials, logarithms."""
    shared: float
    """Loads and stores of shared memory, and exchanges between lanes through it."""
    branches: float
    loops: int

    @property
    def issued_bytes(self) -> float:
        """Bytes that the loads and stores of a thread ask for."""
        return sum(w / 8 * (a + b) for w, a, b in zip(WIDTHS, self.loads, self.stores, strict=True))


_SASS = {
    "atomics": r"(ATOM|ATOMG|RED|REDG)\.",
    "fp32": r"(FADD|FMUL|FFMA)\b",
    "special": r"MUFU\.",
    "shared": r"(LDS|STS|LDSM|ATOMS|SHFL)\b",
    "branches": r"(BRA|BRX|JMP)\b",
}
_AMD = {
    "atomics": r"(global|buffer|flat)_atomic_",
    "fp32": r"v_(pk_)?(add|sub|subrev|mul|fma|fmac|fmaak|fmamk)_f32",
    "special": r"v_(rcp|rcp_iflag|rsq|sqrt|exp|log|sin|cos)_f32",
    "shared": r"ds_",
    "branches": r"s_c?branch",
}
_AMD_WIDTHS = {"byte": 8, "short": 16, "dwordx2": 64, "dwordx3": 96, "dwordx4": 128, "dword": 32}


def sass(cubin: bytes, folder: Path, tools: Path) -> list[Instruction]:
    """The machine code of a kernel for NVIDIA; `folder` is scratch space, `tools` holds nvdisasm.

    Without the subroutines that follow it, which are for rare numbers such as denormal divisors.
    """
    path = folder / "kernel.cubin"
    path.write_bytes(cubin)
    text = subprocess.run([tools / "nvdisasm", "-c", path], capture_output=True, text=True, check=True).stdout
    names, labels, jumps = [], {}, {}
    for line in text.splitlines():
        if line.startswith("$"):
            break
        if label := re.match(r"\s*(\.L_x_\d+):", line):
            labels[label[1]] = len(names)
        elif found := re.match(r"\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([\w.]+)(.*);", line):
            if target := re.search(r"`\((\.L_x_\d+)\)", found[2]):
                jumps[len(names)] = target[1]
            names.append(found[1])
    # Behind the last exit stand a jump to itself and padding, which nothing reaches.
    end = next((i for i, target in jumps.items() if labels.get(target) == i), len(names))
    return _with_loops(names[:end], labels, {i: target for i, target in jumps.items() if i < end})


def amd(assembly: str) -> list[Instruction]:
    """The instructions of a kernel for AMD."""
    names, labels, jumps = [], {}, {}
    for line in assembly.split("; -- End function")[0].splitlines():
        if label := re.match(r"(\.LBB\w+):", line):
            labels[label[1]] = len(names)
        elif found := re.match(r"\t([a-z]\w+)(.*)", line):
            if target := re.search(r"(\.LBB\w+)", found[2]):
                jumps[len(names)] = target[1]
            names.append(found[1])
    return _with_loops(names, labels, jumps)


def count(instructions: Sequence[Instruction], passes: Sequence[float] = ()) -> Counts:
    """Counts by kind; `passes` says how often each loop is passed, within one pass of the loops around it."""
    kinds = _AMD if any(i.name.startswith("s_") for i in instructions) else _SASS
    found = dict.fromkeys(kinds, 0.0)
    loads, stores = [0.0] * len(WIDTHS), [0.0] * len(WIDTHS)
    total = 0.0
    for instruction in instructions:
        weight = 1.0
        for loop in instruction.loops:
            weight *= passes[loop] if passes else 1.0
        total += weight
        for kind, pattern in kinds.items():
            if re.match(pattern, instruction.name):
                found[kind] += weight
        for moved, pattern in ((loads, r"LDG|(global|buffer)_load_"), (stores, r"STG|(global|buffer)_store_")):
            if re.match(pattern, instruction.name):
                moved[WIDTHS.index(_width(instruction.name))] += weight
    loops = len({loop for instruction in instructions for loop in instruction.loops})
    return Counts(total, tuple(loads), tuple(stores), loops=loops, **found)


def _width(name: str) -> int:
    if bits := re.search(r"\.[US]?(8|16|64|128)\b", name):
        return int(bits[1])
    return next((bits for part, bits in _AMD_WIDTHS.items() if part in name), 32)


def _with_loops(names: list[str], labels: dict[str, int], jumps: dict[int, str]) -> list[Instruction]:
    """A jump back closes a loop, which begins where it leads to."""
    closed: dict[int, int] = {}  # first instruction -> last
    for at, target in jumps.items():
        first = labels.get(target, len(names))
        if first <= at:
            closed[first] = max(at, closed.get(first, at))
    loops = sorted(closed.items())
    inside = [tuple(n for n, (first, last) in enumerate(loops) if first <= i <= last) for i in range(len(names))]
    return [Instruction(name, around) for name, around in zip(names, inside, strict=True)]
