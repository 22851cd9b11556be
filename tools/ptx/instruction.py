# SPDX-License-Identifier: Apache-2.0
"""Instructions of PTX in the form that core.c executes, and the operands that they are made of."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_STATE = (Path(__file__).parent / "state.h").read_text()
OPS = {
    name: number
    for number, name in enumerate(
        re.findall(r"X\((\w+)\)", _STATE.split("#define OPS(X)")[1].split("#define X(name)")[0])
    )
}
"""Names of operations and their numbers in core.c."""


@dataclass
class Instruction:
    op: str
    text: str
    line: int
    """Of the PTX, from 1."""
    source: str
    """As "file.py:line:column @ caller"."""
    pred: int = -1
    negated: bool = False
    ftz: bool = False
    width: int = 0
    count: int = 0
    cls: int = 4
    sign: bool = False
    d: list[int] = field(default_factory=list)
    s: list[int] = field(default_factory=list)
    target: str | int = -1
    kind: int = -1
    offset: int = 0


class Registers:
    """Registers of a kernel, numbered in files of 32 bits ("4"), 64 bits ("8") and predicates ("1"); and constants."""

    def __init__(self) -> None:
        self.names: dict[str, dict[str, int]] = {"4": {}, "8": {}, "1": {}}
        self.constants: dict[str, dict[int, int]] = {"4": {}, "8": {}}
        """Values, and from the end of the kernel on the registers that hold them."""

    @staticmethod
    def file(name: str) -> str:
        """The file that a register is in, by its name."""
        if name.startswith("%p"):
            return "1"
        if name.startswith(("%rd", "%fd")):
            return "8"
        if name.startswith(("%r", "%f", "%rs", "%h", "%tid", "%ctaid", "%nctaid", "%ntid", "%laneid", "%warpid")):
            return "4"
        raise ValueError(f"unknown register {name}")

    def get(self, name: str) -> int:
        """The number of a register."""
        table = self.names[self.file(name)]
        return table.setdefault(name, len(table))


def number(text: str) -> int | None:
    """The bits of a literal, None where it is none."""
    if re.fullmatch(r"0[fF][0-9a-fA-F]{8}", text):
        return int(text[2:], 16)
    if re.fullmatch(r"0[dD][0-9a-fA-F]{16}", text):
        return int(text[2:], 16)
    if re.fullmatch(r"-?(0[xX][0-9a-fA-F]+|\d+)U?", text):
        return int(text.rstrip("U"), 0)
    return None


def split(text: str) -> list[str]:
    """Operands, those in braces or brackets as one."""
    parts, depth, last = [], 0, ""
    for c in text:
        if c in "{[":
            depth += 1
        if c in "}]":
            depth -= 1
        if c == "," and depth == 0:
            parts.append(last.strip())
            last = ""
        else:
            last += c
    return [*parts, last.strip()] if last.strip() else parts


class Statement:
    """One instruction as it is written, with what helps to decode its operands."""

    def __init__(self, text: str, registers: Registers, variables: dict[str, int], line: int, source: str) -> None:
        pred, negated, rest = -1, False, text
        if found := re.match(r"@(!?)(%p\w*)\s+", text):
            pred, negated, rest = registers.get(found[2]), bool(found[1]), text[found.end() :]
        mnemonic, *more = rest.split(None, 1)
        self.registers, self.variables = registers, variables
        self.mnemonic, self.operands = mnemonic, split("".join(more))
        self.parts = mnemonic.split(".")
        self.base, self.last = self.parts[0], self.parts[-1]
        self.flags = set(self.parts[1:-1])
        self.bits = self.last[1:] if self.last[1:].isdigit() else "16" if self.last == "bf16" else ""
        self.file = "8" if self.bits == "64" else "4"
        """The registers that the type of the instruction needs."""
        self.ins = Instruction("", text, line, source, pred, negated, "ftz" in self.parts)

    def unknown(self, what: str = "") -> ValueError:
        """The error of an instruction that is not implemented."""
        return ValueError(f"line {self.ins.line}: {what}{self.ins.text!r}")

    def constant(self, value: int, file: str) -> Any:
        """A number as an operand."""
        value &= (1 << 64) - 1 if file == "8" else (1 << 32) - 1
        self.registers.constants[file].setdefault(value, 0)
        return file, value

    def use(self, operand: str, file: str) -> Any:
        """The register of an operand, or the constant."""
        if operand.startswith("%"):
            return self.put(operand, file)
        value = self.variables.get(operand, number(operand))
        if value is None or file == "1":
            raise self.unknown(f"operand {operand!r} of ")
        return self.constant(value, file)

    def put(self, operand: str, file: str) -> int:
        """The register of a result, -1 where it is dropped."""
        if operand == "_":
            return -1
        if self.registers.file(operand) != file:
            raise self.unknown(f"{operand} is of another size than needs ")
        return self.registers.get(operand)

    def address(self, operand: str, file: str) -> None:
        """Appends the register of an address, and keeps its offset."""
        found = re.fullmatch(r"([%\w$.]+?)\s*(?:\+\s*(-?\d+|-?0x[0-9a-f]+))?", operand.strip("[] "))
        if not found:
            raise self.unknown(f"address {operand!r} of ")
        self.ins.s.append(self.use(found[1], file))
        self.ins.offset = int(found[2] or "0", 0)

    @staticmethod
    def vector(operand: str) -> list[str]:
        """The operands in braces."""
        return [o.strip() for o in operand.strip("{} ").split(",")]

    def simple(self, op: str, d: str, *s: str) -> Instruction:
        """An operation with one result: register files of the result and of the operands."""
        if op not in OPS or len(self.operands) != 1 + len(s):
            raise self.unknown()
        self.ins.op = op
        self.ins.d = [self.put(self.operands[0], d)]
        self.ins.s = [self.use(operand, file) for operand, file in zip(self.operands[1:], s, strict=True)]
        return self.ins
