# SPDX-License-Identifier: Apache-2.0
"""Decodes moves, memory, exchanges between lanes and control flow of PTX; the rest is arithmetic."""

import re

from .arithmetic import decode_arithmetic
from .instruction import OPS, Instruction, Statement

_ATOMICS = ("add", "min_s", "max_s", "min_u", "max_u", "and", "or", "xor", "exch", "cas", "add_f")
"""In the order of their numbers in access.h."""
_SIZES = {"8": 1, "16": 2, "32": 4, "64": 8}
_ACCESSES = set("shared global v2 v4 v8 volatile relaxed gpu cta L1::evict_last L1::evict_first nc".split())
_FULL_MASK = 0xFFFFFFFF
_PLAIN = {"ret": "ret", "exit": "ret", "trap": "trap", "membar": "membar", "fence": "membar", "nop": "nop"}


def decode(s: Statement) -> Instruction:
    """Decodes a statement; raises ValueError for what is not known."""
    if s.base == "mov":
        return _move(s)
    if s.base == "ld" and s.parts[1] == "param":
        return _parameter(s)
    if s.base in ("ld", "st"):
        return _access(s)
    if s.base in ("atom", "red"):
        return _atomic(s)
    if s.base in ("ldmatrix", "stmatrix"):
        return _matrix(s)
    if s.base in ("shfl", "redux", "vote", "bar", "barrier"):
        return _together(s)
    if s.base == "bra":
        s.ins.op, s.ins.target = "bra", s.operands[0]
        return s.ins
    if s.base in _PLAIN:
        s.ins.op = _PLAIN[s.base]
        return s.ins
    return decode_arithmetic(s)


def _move(s: Statement) -> Instruction:
    ins, (to, source) = s.ins, s.operands
    if to.startswith("{"):
        ins.op = "unpack32" if s.bits == "32" else "unpack64"
        ins.d, ins.s = [s.put(o, "4") for o in s.vector(to)], [s.use(source, s.file)]
        return ins
    if source.startswith("{"):
        ins.op = "pack32" if s.bits == "32" else "pack64"
        ins.d, ins.s = [s.put(to, s.file)], [s.use(o, "4") for o in s.vector(source)]
        return ins
    if s.last == "pred" and not source.startswith("%"):
        ins.op, ins.d = "ne32", [s.put(to, "1")]
        ins.s = [s.use(source, "4"), s.constant(0, "4")]
        return ins
    if s.last == "pred":
        return s.simple("movp", "1", "1")
    return s.simple("mov64" if s.file == "8" else "mov32", s.file, s.file)


def _parameter(s: Statement) -> Instruction:
    ins, (to, source) = s.ins, s.operands
    found = re.search(r"param_(\d+)", source)
    if found is None or "+" in source:
        raise s.unknown()
    wide = s.registers.file(to) == "8"
    ins.op = "param64" if s.bits == "64" else "param32s64" if wide else "param32"
    ins.offset, ins.sign, ins.d = int(found[1]), s.last.startswith("s"), [s.put(to, "8" if wide else "4")]
    return ins


def _access(s: Statement) -> Instruction:
    ins, load = s.ins, s.base == "ld"
    spaces = [p for p in s.parts if p in ("shared", "global")]
    if len(spaces) != 1 or s.flags - _ACCESSES or "::cta" in s.mnemonic:
        raise s.unknown()
    ins.op = f"{s.base}_{spaces[0]}"
    values, where = s.operands if load else s.operands[::-1]
    s.address(where, "8" if spaces[0] == "global" else "4")
    names = s.vector(values)
    ins.width, ins.count = _SIZES[s.bits], len(names)
    ins.sign = s.last[0] == "s" and load
    if load:
        ins.cls = 8 if s.registers.file(names[0]) == "8" else 4
        ins.d = [s.put(n, str(ins.cls)) for n in names]
    else:
        ins.cls = int(s.file)
        ins.d = [s.use(n, s.file) for n in names]
    return ins


def _atomic(s: Statement) -> Instruction:
    ins, operands = s.ins, (["_", *s.operands] if s.base == "red" else s.operands)
    kinds = [p for p in s.parts if p in ("add", "min", "max", "and", "or", "xor", "exch", "cas")]
    if "global" not in s.parts or len(kinds) != 1 or "noftz" in s.parts:
        raise s.unknown()
    kind = kinds[0]
    if kind in ("min", "max"):
        kind += "_s" if s.last[0] == "s" else "_u"
    if s.last == "f32":
        kind += "_f"
    if kind not in _ATOMICS:
        raise s.unknown()
    ins.op, ins.kind, ins.width, ins.cls = "atom", _ATOMICS.index(kind), _SIZES[s.bits], int(s.file)
    s.address(operands[1], "8")
    ins.s += [s.use(o, s.file) for o in operands[2:]]
    ins.d = [s.put(operands[0], s.file)]
    return ins


def _matrix(s: Statement) -> Instruction:
    ins, load = s.ins, s.base == "ldmatrix"
    ins.sign = "trans" in s.parts
    if s.parts[1:4] != ["sync", "aligned", "m8n8"] or (ins.sign and not load):
        raise s.unknown()
    values, where = s.operands if load else s.operands[::-1]
    ins.op = s.base
    ins.d = [s.put(o, "4") if load else s.use(o, "4") for o in s.vector(values)]
    ins.count = len(ins.d)
    s.address(where, "4")
    ins.kind = s.constant(_FULL_MASK, "4")
    return ins


def _together(s: Statement) -> Instruction:
    """What the lanes of a warp, or the warps of a block, do together; `kind` holds the mask of the lanes."""
    ins, operands = s.ins, s.operands
    if s.base == "shfl":
        out, _, ok = operands[0].partition("|")
        ins.op = f"shfl_{s.parts[2]}"
        ins.d = [s.put(out, "4"), s.put(ok, "1") if ok else -1]
        ins.s = [s.use(o, "4") for o in operands[1:4]]
        ins.kind = s.use(operands[4], "4")
    elif s.base == "redux":
        kind = s.parts[2]
        ins.op = (
            "redux_add_s32"
            if kind == "add"
            else f"redux_{kind}_{s.last}"
            if kind in ("min", "max")
            else f"redux_{kind}"
        )
        ins.d, ins.s = [s.put(operands[0], "4")], [s.use(operands[1], "4")]
        ins.kind = s.use(operands[2], "4")
    elif s.base == "vote":
        ins.op = f"vote_{s.parts[2]}"
        ins.d = [s.put(operands[0], "4" if s.parts[2] == "ballot" else "1")]
        ins.s = [s.use(operands[1], "1")]
        ins.kind = s.use(operands[2], "4")
    elif s.mnemonic == "bar.warp.sync":
        ins.op, ins.kind = "bar_warp", s.use(operands[0], "4")
    elif s.mnemonic in ("bar.sync", "barrier.sync", "barrier.sync.aligned") and operands == ["0"] and ins.pred < 0:
        ins.op = "bar"
    if ins.op not in OPS:
        raise s.unknown()
    return ins
