"""Compiles kernels ahead of time, without a GPU, and reads off what they use: registers, memory, instructions."""

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks.compile.instructions import Instruction, amd, sass
from benchmarks.harness.compile_case import Case

TARGETS = {"sm_80": ("cuda", 80, 32), "sm_90": ("cuda", 90, 32), "gfx942": ("hip", "gfx942", 64)}


@dataclass(frozen=True)
class Usage:
    """What a compiled kernel uses."""

    registers: int
    """Registers of a thread."""
    spills: int
    """Registers (AMD) or bytes (NVIDIA) of a thread that spilled to memory."""
    shared: int
    """Bytes of shared memory of a program."""
    warps: int
    """Warps (NVIDIA) or wavefronts (AMD) of a program."""
    instructions: list[Instruction]
    """Of a thread; none where they were not asked for."""


def compile_case(case: Case, target: str, instructions: bool = True) -> Usage:
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
    if unknown := {*case.unaligned, *case.multiples} - set(names):
        raise ValueError(f"{case.kernel.__name__} has no arguments {sorted(unknown)}")
    aligned = [n for n, t in zip(names, types, strict=True) if t[0] == "*" and n not in case.unaligned]
    aligned += case.multiples
    source = ASTSource(
        fn=case.kernel,
        signature=signature,
        constexprs={place[name]: value for name, value in case.constexprs.items()},
        attrs={place[name]: [["tt.divisibility", 16]] for name in aligned},
    )
    compiled = triton.compile(source, target=GPUTarget(*TARGETS[target]), options=case.options)
    shared, warps = compiled.metadata.shared, compiled.metadata.num_warps
    if TARGETS[target][0] == "hip":
        assembly = compiled.asm["amdgcn"]
        found = amd(assembly) if instructions else []
        return Usage(*_amd_registers(assembly), shared, warps, found)
    tools = Path(triton.__file__).parent / "backends/nvidia/bin"
    with tempfile.TemporaryDirectory() as folder:
        registers, spills = _nvidia_registers(compiled.asm["cubin"], Path(folder), tools)
        found = sass(compiled.asm["cubin"], Path(folder), tools) if instructions else []
    return Usage(registers, spills, shared, warps, found)


def _amd_registers(assembly: str) -> tuple[int, int]:
    def read(name: str) -> int:
        return int(re.findall(rf"\.{name}:\s+(\d+)", assembly)[-1])

    return read("vgpr_count"), read("vgpr_spill_count") + read("sgpr_spill_count")


def _nvidia_registers(cubin: bytes, folder: Path, tools: Path) -> tuple[int, int]:
    path = folder / "kernel.cubin"
    path.write_bytes(cubin)
    command = [tools / "cuobjdump", "--dump-resource-usage", path]
    report = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    # A kernel's stack holds nothing but what spilled.
    return int(re.findall(r"REG:(\d+)", report)[-1]), int(re.findall(r"STACK:(\d+)", report)[-1])
