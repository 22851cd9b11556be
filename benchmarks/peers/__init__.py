"""Wraps other libraries that do what an operation of ours does, as providers of the suite.

Each module that wraps one has a NAME, `available()`, which is empty where the library can be used and otherwise says
why not, and RUNS: by operation, a function of the inputs of the operation's case with the first results of its `run`,
in our conventions.
DIFFERS, where there is one, says of an operation by how much and why results differ by design; where nothing is said,
the case's own tolerance holds. GRADIENTS is False where there is no backward pass, CPU_ONLY is True where tensors on a
GPU are not taken. docs/peers.md says how to build the libraries.

Charged is what has to be done again when vertices move, such as the product that takes them to clip space, and writing
results in our form where a library's is another. Not charged is what stays the same from call to call, such as the type
of indices, tables of edges, cameras and contexts: it is made at the first call and kept with the tensor that it comes
from.

Left out: gsplat rasterizes Gaussians, which is none of our operations, and fused-ssim computes a loss that is none of
ours. DRTK's vertex normals weigh triangles equally, ours by area.
"""

import importlib
import pkgutil
from types import ModuleType


def all_peers() -> list[ModuleType]:
    """Lists the modules that wrap another library, installed or not, by name."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    modules = [importlib.import_module(f"{__name__}.{name}") for name in names]
    return [module for module in modules if hasattr(module, "RUNS")]
