# SPDX-License-Identifier: Apache-2.0
"""A Triton driver whose GPU is the emulator: kernels launched on CPU tensors run as the PTX compiled for an NVIDIA GPU.

`install()` before any kernel is launched; TRITON_INTERPRET must not be set. `gates()` makes the project's choice of
backend, block sizes and devices what they are on a GPU, for tensors on the CPU.
"""

import functools
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from . import memory
from .execute import Finding, Kernel, Result, Schedule
from .parse import parse


@dataclass
class Settings:
    """How kernels are run from now on."""

    schedules: list[Schedule] = field(default_factory=lambda: [Schedule(0), Schedule(1, 4, True, True)])
    """Each launch is run once for each, from the same memory; the bytes that it leaves must agree."""
    orderless: frozenset[str] = frozenset({"queue_ptr", "starts_ptr"})
    """Arguments whose contents depend on the order in which blocks run, by design."""
    multiprocessors: int = 132
    transform: Callable[[str, str], str] | None = None
    """Changes the PTX of a kernel (name, text) before it is parsed: to plant faults."""
    blocks: Callable[[str, tuple[int, int, int]], Sequence[int] | None] | None = None
    """Which blocks of a launch to run."""
    keep: bool = False
    """Whether to keep the results of all launches."""
    skip: Callable[[str], bool] | None = None
    on_launch: Callable[[str, Kernel, tuple[int, int, int], list[Any], list[str]], None] | None = None


@dataclass
class Record:
    name: str
    constants: dict[str, Any]
    grid: tuple[int, int, int]
    result: Result
    shapes: dict[str, Any]
    kernel: Kernel


settings = Settings()
findings: list[Finding] = []
launches: list[Record] = []
counts: Counter[str] = Counter()
_current: list[Any] = []


def clear() -> None:
    findings.clear()
    launches.clear()


class _Launcher:
    """Takes the place of the C function that launches a kernel."""

    def __init__(self, src: Any, metadata: Any) -> None:
        compiled = _current[-1]
        self.src, self.metadata, self.ptx = src, metadata, compiled.asm["ptx"]
        self.name = src.fn.__name__
        self.constants = {
            src.fn.arg_names[place[0]]: value for place, value in src.constants.items() if len(place) == 1
        }
        self.names = [n for n, t in src.signature.items() if t != "constexpr"]
        self.kernels: dict[Any, Kernel] = {}

    @property
    def kernel(self) -> Kernel:
        key = settings.transform
        if key not in self.kernels:
            text = key(self.name, self.ptx) if key is not None else self.ptx
            self.kernels[key] = Kernel(parse(text), self.metadata.shared, self.metadata.num_warps * 32)
        return self.kernels[key]

    def __call__(self, x: int, y: int, z: int, *rest: Any) -> None:
        # stream, function, packed_metadata, launch_metadata, two hooks, then the arguments
        given = rest[-len(self.src.fn.arg_names) :]
        values = dict(zip(self.src.fn.arg_names, given, strict=True))
        names = [n for n in self.names if values[n] is not None or n not in self.constants]
        # A scalar of 1 and a pointer of None have become constants.
        names = [n for n in names if n not in self.constants]
        run_kernel(self.kernel, self.name, self.constants, (x, y, z), [values[n] for n in names], names)


def run_kernel(
    kernel: Kernel,
    name: str,
    constants: dict[str, Any],
    grid: tuple[int, int, int],
    values: list[Any],
    names: list[str],
) -> None:
    """Runs a launch under all schedules, and keeps what was found."""
    if settings.skip is not None and settings.skip(name):
        return
    if settings.on_launch is not None:
        settings.on_launch(name, kernel, grid, values, names)
    counts[name] += 1
    blocks = settings.blocks(name, grid) if settings.blocks is not None else None
    tensors = {n: v for n, v in zip(names, values, strict=True) if isinstance(v, torch.Tensor)}
    several = len(settings.schedules) > 1
    before = {n: _bytes(t).clone() for n, t in tensors.items()} if several else {}
    first: dict[str, torch.Tensor] = {}
    seen: set[tuple[Any, ...]] = set()
    for n, schedule in enumerate(settings.schedules):
        if n:
            for m, t in tensors.items():
                _bytes(t).copy_(before[m])
        if blocks is not None:
            schedule = replace(schedule, blocks=blocks)
        result = kernel(grid, values, names, schedule)
        for f in result.findings:
            key = (f.type, f.line, f.other_text)
            if key not in seen:
                seen.add(key)
                findings.append(f)
        if settings.keep:
            shapes = {
                m: tuple(v.shape) if isinstance(v, torch.Tensor) else v for m, v in zip(names, values, strict=True)
            }
            launches.append(Record(name, constants, grid, result, shapes, kernel))
        if not several:
            continue
        if n == 0:
            first = {m: _bytes(t).clone() for m, t in tensors.items()}
        else:
            for m, t in tensors.items():
                if m not in settings.orderless and not torch.equal(_bytes(t), first[m]):
                    findings.append(_disagreement(name, m, int((_bytes(t) != first[m]).sum()), schedule.seed))


def _disagreement(kernel: str, argument: str, count: int, seed: int) -> Finding:
    """What is found where two schedules leave different bytes in an argument."""
    where = f"{count} bytes of {argument}, seed {seed}"
    return Finding("depends on the schedule", kernel, argument, count=count, where=where)


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    """All bytes of its storage."""
    return torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())


class _Utils:
    def load_binary(self, name: str, kernel: bytes, shared: int, device: int) -> tuple[Any, Any, int, int, int]:
        return object(), object(), 0, 0, 1024

    def get_device_properties(self, device: int) -> dict[str, int]:
        return {"max_shared_mem": 232448, "multiprocessor_count": settings.multiprocessors, "warpSize": 32}

    def unload_module(self, module: Any) -> None: ...


def install(capability: int = 90, launcher: Callable[[Any, Any], Callable[..., None]] | None = None) -> None:
    """Makes the emulator Triton's active driver; with a `launcher` (source, metadata) of its own, that launches."""
    if os.environ.get("TRITON_INTERPRET") == "1":
        raise RuntimeError("TRITON_INTERPRET is set: kernels would not be compiled")
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.backends.driver import DriverBase
    from triton.backends.nvidia.compiler import CUDABackend
    from triton.compiler.compiler import CompiledKernel

    class EmulatorDriver(DriverBase):
        def __init__(self) -> None:
            self.utils, self.launcher_cls = _Utils(), launcher or _Launcher

        @classmethod
        def is_active(cls) -> bool:
            return True

        def map_python_to_cpp_type(self, ty: str) -> str:
            return ty

        def get_current_target(self) -> Any:
            return GPUTarget("cuda", capability, 32)

        def get_active_torch_device(self) -> torch.device:
            return torch.device("cpu")

        def get_device_interface(self) -> Any:
            return torch.cuda

        def get_current_device(self) -> int:
            return 0

        def set_current_device(self, device: int) -> None: ...

        def get_current_stream(self, device: int | None = None) -> int:
            return 0

        def get_benchmarker(self) -> Any:
            from triton.testing import do_bench

            return do_bench

    old = CompiledKernel._init_handles

    @functools.wraps(old)
    def wrapped(self: Any) -> Any:
        _current.append(self)
        try:
            return old(self)
        finally:
            _current.pop()

    CompiledKernel._init_handles = wrapped
    # The assembler would take most of the time; what it makes is not run, so that it must not get into the usual cache.
    os.environ["TRITON_CACHE_DIR"] = str(Path(tempfile.gettempdir()) / f"ptx_cache_{triton.__version__}")
    setattr(CUDABackend, "make_cubin", lambda *arguments: b"not assembled")  # noqa: B010
    triton.runtime.driver.set_active(EmulatorDriver())


def gates() -> None:
    """Makes the project take tensors on the CPU for those of a GPU, also in modules that are imported already."""
    from fmlfast.kernels.common import backend

    def choose_backend(backend: str | None, tensor: torch.Tensor) -> str:
        if backend is None:  # PTX_DEFAULT_BACKEND=triton: whole models through the kernels, too
            backend = os.environ.get("PTX_DEFAULT_BACKEND", "torch") if tensor.dtype == torch.float32 else "torch"
        if backend not in ("torch", "triton"):
            raise ValueError(f"backend must be 'torch', 'triton' or None, not {backend!r}")
        if backend == "triton" and tensor.dtype != torch.float32:
            raise ValueError(f"backend 'triton' computes in float32, not {tensor.dtype}: convert, or choose 'torch'")
        return backend

    on_a_gpu: dict[str, Any] = {
        "choose_backend": choose_backend,
        "interpreting": lambda: False,
        "lanes": lambda default: default,
        "on_device": lambda tensor: nullcontext(),
    }
    loaded = [module for name, module in sys.modules.items() if name.startswith("fmlfast.kernels")]
    for module in (backend, *loaded):
        for name in on_a_gpu.keys() & vars(module).keys():
            setattr(module, name, on_a_gpu[name])
    torch.cuda.get_device_properties = lambda device=None: SimpleNamespace(
        multi_processor_count=settings.multiprocessors, name="emulator", major=9, minor=0, total_memory=80 << 30
    )


__all__ = ["Schedule", "Settings", "clear", "counts", "findings", "gates", "install", "launches", "memory", "settings"]
