"""The cases of the benchmark suite, one module for each module of kernels, and one for the renderer."""

import importlib
import pkgutil

from benchmarks.harness.case import Bench


def all_cases() -> list[Bench]:
    """Every operation at the sizes of training, then its sweeps."""
    names = sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))
    return [case for name in names for case in importlib.import_module(f"{__name__}.{name}").CASES]
