"""PyTorch3D with the bins that are fastest for the inputs, looked for at the first call."""

import time

import torch

from benchmarks.harness.case import Inputs
from benchmarks.peers import pytorch3d
from benchmarks.peers.pytorch3d import Bins, draw, runs
from fmlfast.kernels.common.cache import TensorCache

NAME = "pytorch3d tuned"
DIFFERS = pytorch3d.DIFFERS
SIZES = (8, 16, 32, 64, 128)
"""Pixels; of which PyTorch3D takes those that split the image's longer side into fewer than 22."""
ROOMS = (1_000, 10_000, None)
"""Triangles a bin may hold; None is PyTorch3D's choice."""
REPEATS = 3

_chosen = TensorCache()


def available() -> str:
    """On a CPU there are no bins, so nothing to choose."""
    return pytorch3d.available() or ("" if torch.cuda.is_available() else "needs a GPU: no bins on a CPU")


def candidates(height: int, width: int) -> list[Bins]:
    """No bins, PyTorch3D's choice, and the sizes that it takes."""
    sizes = [size for size in SIZES if 1 + (max(height, width) - 1) // size < 22]
    return [Bins(0), Bins(), *(Bins(size, room) for size in sizes for room in ROOMS)]


def fastest(inputs: Inputs) -> Bins:
    """The fastest candidate that sees what is seen without bins: a bin that is too full loses triangles."""

    def make() -> Bins:
        exact = draw(inputs, Bins(0)).triangles
        best = Bins(0), float("inf")
        for bins in candidates(inputs["height"], inputs["width"]):
            try:
                if torch.equal(draw(inputs, bins).triangles, exact):
                    best = min(best, (bins, min(_seconds(inputs, bins) for _ in range(REPEATS))), key=lambda b: b[1])
            except (RuntimeError, torch.OutOfMemoryError):  # too much room for the memory there is
                continue
        return best[0]

    with torch.no_grad():
        size = len(inputs["vertices"]), inputs["height"], inputs["width"]
        return _chosen.get(inputs["triangles"], size, make)


def _seconds(inputs: Inputs, bins: Bins) -> float:
    start = time.perf_counter()
    draw(inputs, bins).triangles[0, 0, 0].item()  # waits
    return time.perf_counter() - start


RUNS = runs(fastest)
