"""Other libraries that do what an operation of ours does, as providers of the benchmark suite.

Each module has a NAME, `available()`, which is empty where the library can be used and otherwise says why not, and
RUNS: by operation, a function of the inputs of the operation's case with the first results of its `run`, in our
conventions.
DIFFERS, where there is one, says of an operation by how much and why results differ by design; where nothing is said,
the case's own tolerance holds. docs/peers.md says how to build the libraries.

Charged is what has to be done again when vertices move, such as the product that takes them to clip space, and writing
results in our form where a library's is another. Not charged is what stays the same from call to call, such as the type
of indices, tables of edges, cameras and contexts: it is made at the first call and kept with the tensor that it comes
from.

Left out: gsplat rasterizes Gaussians, which is none of our operations, and fused-ssim computes a loss that is none of
ours. DRTK's vertex normals weigh triangles equally, ours by area.
"""

from dataclasses import dataclass

import torch

from benchmarks.case import Outputs


@dataclass(frozen=True)
class Difference:
    """By how much a library's results may differ from ours, measured by `distance`, and why."""

    why: str
    forward: float
    backward: float


def distance(found: Outputs, expected: Outputs) -> float:
    """The greatest root mean square of an output's error over that of its numbers, or share of integers that differ.

    Numbers that are infinite in either are left out: what is covered is what integers and colours say.
    """
    errors = [torch.zeros((), dtype=torch.float64)]
    for a, b in zip(found, expected, strict=True):
        if b.is_floating_point():
            use = a.isfinite() & b.isfinite()
            a, b = a[use].double(), b[use].double()
            errors.append(((a - b).norm() / b.norm().clamp(min=1e-30)).cpu())
        else:
            errors.append((a != b).double().mean().cpu())
    return float(torch.stack(errors).max())
