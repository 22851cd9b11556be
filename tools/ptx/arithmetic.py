# SPDX-License-Identifier: Apache-2.0
"""Decodes comparisons, conversions and arithmetic of PTX."""

from .instruction import Instruction, Statement

_INTEGERS = {f"{kind}{bits}" for kind in "sub" for bits in (16, 32, 64)}
_WIDE = {"s64", "u64", "b64", "f64"}
_ROUNDED = {"rmi": "floor_f", "rpi": "ceil_f", "rzi": "trunc_f", "rni": "rint_f"}
_CONVERSIONS = {
    ("u64", "u32"): "cvt_u64_u32", ("s64", "s32"): "cvt_s64_s32", ("u32", "u64"): "cvt_u32_u64",
    ("u64", "u16"): "cvt_u64_u32", ("s32", "s64"): "cvt_u32_u64", ("u16", "u32"): "cvt_u16", ("u32", "u16"): "cvt_u16",
    ("s16", "s8"): "cvt_s16_s8", ("s32", "s8"): "cvt_s32_s8", ("s32", "s16"): "cvt_s32_s16", ("u16", "u8"): "cvt_u8",
    ("u32", "u8"): "cvt_u8", ("s8", "s32"): "cvt_s16_s8",
}  # fmt: skip
_EXTENDED = {"cvt_u64_u32": "zext64", "cvt_s64_s32": "sext64"}
_FUNCTIONS = {
    "rsqrt": "rsqrt", "ex2": "ex2", "lg2": "lg2", "abs": "abs_f", "neg": "neg_f", "sin": "sin_approx",
    "cos": "cos_approx", "tanh": "tanh_approx",
}  # fmt: skip
_UNSIGNED = {"lo": "lt", "ls": "le", "hi": "gt", "hs": "ge"}
_PREDICATES = {"and": "andp", "or": "orp", "xor": "xorp", "not": "notp"}


def decode_arithmetic(s: Statement) -> Instruction:
    """Decodes what takes registers and gives one; raises ValueError for what is not known."""
    if s.base == "setp":
        return _comparison(s)
    if s.base == "selp":
        return s.simple("selp64" if s.file == "8" else "selp32", s.file, s.file, s.file, "1")
    if s.last == "pred" and s.base in _PREDICATES:
        return s.simple(_PREDICATES[s.base], "1", *["1"] * (len(s.operands) - 1))
    if s.base == "cvt":
        return _conversion(s)
    return _floating(s) if s.last == "f32" else _whole(s)


def _comparison(s: Statement) -> Instruction:
    if len(s.operands) != 3 or "|" in s.operands[0]:
        raise s.unknown()
    compare = s.parts[1]
    if s.last == "f32":
        return s.simple(f"{compare}_f", "1", "4", "4")
    if s.last not in _INTEGERS:
        raise s.unknown()
    if compare in ("eq", "ne"):
        return s.simple(f"{compare}{s.bits}", "1", s.file, s.file)
    return s.simple(f"{_UNSIGNED.get(compare, compare)}_{s.last}", "1", s.file, s.file)


def _conversion(s: Statement) -> Instruction:
    to, source = s.parts[-2:]
    files = "8" if to in _WIDE else "4", "8" if source in _WIDE else "4"
    if to == "f32" and source == "f32":
        modes = [p for p in s.parts if p in _ROUNDED]
        if len(modes) != 1:
            raise s.unknown()
        return s.simple(_ROUNDED[modes[0]], "4", "4")
    if source == "f32" and to in ("s32", "u32", "s64", "u64") and "rzi" in s.parts:
        return s.simple(f"cvt_{to}_f", files[0], "4")
    if to == "f32" and source in ("s32", "u32", "s64", "u64") and "rn" in s.parts:
        return s.simple(f"cvt_f_{source}", "4", files[1])
    if to == "bf16x2":
        return s.simple("cvt_bf16x2", "4", "4", "4")
    if (to, source) == ("f32", "bf16"):
        return s.simple("cvt_f_bf16", "4", "4")
    if (to, source) == ("bf16", "f32") and "rn" in s.parts:
        return s.simple("cvt_bf16_f", "4", "4")
    if (to, source) not in _CONVERSIONS:
        raise s.unknown()
    op = _CONVERSIONS[to, source]
    if files == ("8", "4") and s.registers.file(s.operands[1]) == "8":  # the low half of a wide register
        return s.simple(_EXTENDED[op], "8", "8")
    return s.simple(op, *files)


def _floating(s: Statement) -> Instruction:
    if s.base in ("add", "sub", "mul", "fma") and not s.flags - {"rn", "ftz"}:
        return s.simple(f"{s.base}_f", "4", *["4"] * (len(s.operands) - 1))
    if s.base in ("min", "max") and not s.flags - {"NaN", "ftz"}:
        return s.simple(f"{s.base}_nan_f" if "NaN" in s.flags else f"{s.base}_f", "4", "4", "4")
    if s.base == "div":
        return s.simple("div_f" if "rn" in s.flags else "div_approx", "4", "4", "4")
    if s.base in ("sqrt", "rcp"):
        return s.simple(f"{s.base}_approx" if "approx" in s.flags else f"{s.base}_f", "4", "4")
    if s.base in _FUNCTIONS:
        return s.simple(_FUNCTIONS[s.base], "4", "4")
    if s.base == "copysign":
        return s.simple("copysign_f", "4", "4", "4")
    raise s.unknown()


def _whole(s: Statement) -> Instruction:
    base, file, others = s.base, s.file, len(s.operands) - 1
    if s.last not in _INTEGERS:
        raise s.unknown()
    if base in ("mul", "mad"):
        if "wide" in s.parts and s.last in ("s32", "u32"):
            return s.simple(f"{base}w_{s.last}", "8", "4", "4", *(["8"] if base == "mad" else []))
        if "hi" in s.parts:
            return s.simple(f"mulhi_{s.last}", file, file, file)
        if "lo" in s.parts:
            return s.simple(f"{base}{s.bits}", file, *[file] * others)
        raise s.unknown()
    if base in ("div", "rem", "min", "max"):
        return s.simple(f"{base}_{s.last}", file, file, file)
    if base == "shl":
        return s.simple(f"shl{s.bits}", file, file, "4")
    if base == "shr":
        return s.simple(f"shr_{'s' if s.last[0] == 's' else 'u'}{s.bits}", file, file, "4")
    if (base in ("add", "sub") and not s.flags) or base in ("and", "or", "xor", "not", "neg", "abs"):
        return s.simple(f"{base}{s.bits}", file, *[file] * others)
    if base == "bfe":
        return s.simple(f"bfe_{s.last}", "4", "4", "4", "4")
    if base == "prmt":
        return s.simple("prmt", "4", "4", "4", "4")
    if base == "shf":
        return s.simple(f"shf_{s.parts[1]}", "4", "4", "4", "4")
    if base in ("popc", "clz", "brev"):
        return s.simple(f"{base}32", "4", "4")
    if base == "lop3":
        s.ins.offset = int(s.operands.pop(), 0)
        return s.simple("lop3", "4", "4", "4", "4")
    raise s.unknown()
