# SPDX-License-Identifier: Apache-2.0
"""Reads the PTX that Triton emits into the form that core.c executes. Unknown instructions raise ValueError."""

import re
import struct
from dataclasses import dataclass
from typing import Any

from .decode import decode
from .instruction import Instruction, Registers, Statement


@dataclass
class Program:
    """A kernel, decoded."""

    name: str
    target: str
    params: list[str]
    """Types of the parameters: u64, u32, f32, ..."""
    threads: int
    static_shared: int
    code: list[Instruction]
    registers: dict[str, int]
    """Register files 4 (32 bits), 8 (64 bits) and 1 (predicates): how many."""
    constants: dict[str, dict[int, int]]
    """Register files "4" and "8": value -> register."""
    special: dict[str, int]


def parse(ptx: str, shared_base: int = 0x1000) -> Program:
    """The kernel of a PTX file; that with one entry."""
    registers = Registers()
    code: list[Instruction] = []
    labels: dict[str, int] = {}
    params: list[str] = []
    variables: dict[str, int] = {}
    shared = 0
    name, target, threads = "", "", 0
    inside = False
    source = ""
    lines = ptx.splitlines()
    pending = ""
    for number, raw in enumerate(lines, 1):
        stripped = raw.strip()
        if not inside:
            if found := re.match(r"\.target\s+(\w+)", stripped):
                target = found[1]
            if found := re.match(r"(?:\.visible|\.weak)?\s*\.entry\s+([\w$]+)", stripped):
                name = found[1]
            if name and (found := re.match(r"\.param\s+\.(\w+)\s", stripped)):
                params.append(found[1])
            if found := re.match(r"\.(?:reqntid|maxntid)\s+(\d+)", stripped):
                threads = int(found[1])
            if found := re.match(
                r"(?:\.extern|\.visible)?\s*\.shared\s+\.align\s+(\d+)\s+\.b8\s+([\w$]+)\[(\d*)\]", stripped
            ):
                align = int(found[1])
                if found[3]:
                    shared = -(-shared // align) * align
                    variables[found[2]] = shared_base + shared
                    shared += int(found[3])
                else:
                    variables[found[2]] = shared_base
            if stripped == "{" and name:
                inside = True
            continue
        if raw.startswith("}"):
            break
        if found := re.match(r"\.loc\s+\d+ \d+ \d+\S*\s*(?:,.*)?//\s*(.*)", stripped):
            source = found[1]
            continue
        if stripped.startswith((".loc", ".reg", ".pragma", ".file", "//", ".local")) or not stripped:
            if stripped.startswith(".local"):
                raise ValueError(f"line {number}: local memory is not implemented")
            continue
        if found := re.match(r"([$\w]+):", stripped):
            labels[found[1]] = len(code)
            continue
        if stripped in "{}":
            continue
        statement = (pending + " " + re.sub(r"//.*", "", stripped)).strip()
        if not statement.endswith(";"):
            pending = statement
            continue
        pending = ""
        for part in filter(None, (p.strip() for p in statement.split(";"))):
            code.append(decode(Statement(part, registers, variables, number, source)))
    for instruction in code:
        if isinstance(instruction.target, str):
            instruction.target = labels[instruction.target]
    # Constants lie behind the registers.
    counts = {file: len(table) for file, table in registers.names.items()}
    for file in ("4", "8"):
        registers.constants[file] = {value: counts[file] + n for n, value in enumerate(registers.constants[file])}
    for instruction in code:
        instruction.s = [_place(s, registers) for s in instruction.s]
        instruction.d = [_place(d, registers) for d in instruction.d]
        if isinstance(instruction.kind, tuple):
            instruction.kind = _place(instruction.kind, registers)
    special = {n: r for n, r in registers.names["4"].items() if "." in n or n in ("%laneid", "%warpid")}
    return Program(
        name,
        target,
        params,
        threads,
        shared,
        code,
        {file: counts[file] + len(registers.constants.get(file, ())) for file in counts},
        registers.constants,
        special,
    )


def _place(operand: Any, registers: Registers) -> int:
    """The register of an operand: its own, or that of the constant."""
    if isinstance(operand, int):
        return operand
    file, value = operand
    return registers.constants[file][value]


def bits_of(value: float | int, kind: str) -> int:
    """The bits of an argument of a kernel."""
    if kind == "f32":
        return struct.unpack("<I", struct.pack("<f", value))[0]
    if kind == "f64":
        return struct.unpack("<Q", struct.pack("<d", value))[0]
    return int(value) & ((1 << 64) - 1)
