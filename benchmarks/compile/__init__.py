"""Compiles kernels ahead of time, without a GPU, and reads off what they use: registers, spills, shared memory."""

import os
import re
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TARGETS = {"sm_80": ("cuda", 80, 32), "sm_90": ("cuda", 90, 32), "gfx942": ("hip", "gfx942", 64)}


@dataclass(frozen=True)
class Case:
    """One way in which a kernel is launched at full size."""

    kernel: Any
    """The `triton.jit` function."""
    types: str
    """Types of the arguments that are no constexpr, in order, such as "*fp32 *i32 i32 fp32"."""
    constexprs: dict[str, Any]
    """Values of the constexpr arguments."""
    bytes: float
    """Bytes that an element must move at least."""
    element: str
    """What an element is: "vertex of a frame", "triangle of a frame", "pixel", ..."""
    variant: str = ""
    """Tells several cases of one kernel apart."""
    options: dict[str, Any] = field(default_factory=dict)
    """Launch options, such as num_warps and enable_fp_fusion."""
    unaligned: tuple[str, ...] = ()
    """Pointers not known to be multiples of 16 bytes; strides and sizes never are."""


@dataclass(frozen=True)
class Usage:
    """What a compiled kernel uses."""

    registers: int
    """Registers of a thread."""
    spills: int
    """Registers (AMD) or bytes (NVIDIA) of a thread that spilled to memory."""
    shared: int
    """Bytes of shared memory of a program."""


def compile_case(case: Case, target: str) -> Usage:
    """Compiles a case for one of TARGETS; not to be called in Triton's interpreter."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = [name for name in case.kernel.arg_names if name not in case.constexprs]
    types = case.types.split()
    if len(names) != len(types):
        raise ValueError(f"{case.kernel.__name__}: types {types} do not go with the arguments {names}")
    signature: dict[str, str] = dict(zip(names, types, strict=True)) | dict.fromkeys(case.constexprs, "constexpr")
    signature = {name: signature[name] for name in case.kernel.arg_names}
    place = {name: (i,) for i, name in enumerate(case.kernel.arg_names)}
    aligned = [n for n, t in zip(names, types, strict=True) if t[0] == "*" and n not in case.unaligned]
    source = ASTSource(
        fn=case.kernel,
        signature=signature,
        constexprs={place[name]: value for name, value in case.constexprs.items()},
        attrs={place[name]: [["tt.divisibility", 16]] for name in aligned},
    )
    compiled = triton.compile(source, target=GPUTarget(*TARGETS[target]), options=case.options)
    if TARGETS[target][0] == "hip":
        registers, spills = _amd(compiled.asm["amdgcn"])
    else:
        registers, spills = _nvidia(compiled.asm["ptx"], Path(triton.__file__).parent)
    return Usage(registers, spills, compiled.metadata.shared)


def _amd(assembly: str) -> tuple[int, int]:
    def read(name: str) -> int:
        return int(re.findall(rf"\.{name}:\s+(\d+)", assembly)[-1])

    return read("vgpr_count"), read("vgpr_spill_count") + read("sgpr_spill_count")


def _nvidia(ptx: str, triton_folder: Path) -> tuple[int, int]:
    architecture = re.findall(r"^\.target (\w+)", ptx, re.MULTILINE)[0]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.ptx"
        path.write_text(ptx)
        command = [triton_folder / "backends/nvidia/bin/ptxas", "-v", f"--gpu-name={architecture}", path, "-o"]
        report = subprocess.run([*command, os.devnull], capture_output=True, text=True, check=True).stderr
    registers = int(re.findall(r"Used (\d+) registers", report)[-1])
    stores, loads = (int(re.findall(rf"(\d+) bytes spill {what}", report)[-1]) for what in ("stores", "loads"))
    return registers, stores + loads
