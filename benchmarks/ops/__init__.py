"""The cases of the benchmark suite, one module for each module of kernels, and one for the renderer.

A module holds an operation's inputs, its costs (the floor), the cases that are timed, CASES, and how its kernels are
launched at full size, compile_cases(), which imports Triton.
"""

import importlib
import pkgutil
from types import ModuleType

from benchmarks.harness.case import Bench
from benchmarks.harness.compile_case import Case


def _modules() -> list[ModuleType]:
    names = sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))
    return [importlib.import_module(f"{__name__}.{name}") for name in names]


def all_cases() -> list[Bench]:
    """Lists every operation at the sizes of training, then its sweeps."""
    return [case for module in _modules() for case in module.CASES]


def compile_cases() -> list[Case]:
    """Lists how kernels are launched at full size; needs Triton, and `render` has no kernels of its own."""
    return [case for module in _modules() if hasattr(module, "compile_cases") for case in module.compile_cases()]
