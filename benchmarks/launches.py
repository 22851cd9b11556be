"""Measures what a call costs the host before the GPU sees it, and how much of that Triton's launches are.

python -m benchmarks.launches [--only OP]

Without a GPU Triton gets a driver that launches nothing: kernels are compiled, and all of Python runs.
"""

import argparse
import gc
import sys
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmarks.harness.timing import Call
from benchmarks.report.table import markdown
from fmlfast.kernels.antialias import antialias
from fmlfast.kernels.common.backend import Backend
from fmlfast.kernels.common.fragments import Fragments
from fmlfast.kernels.interpolate import interpolate
from fmlfast.kernels.rasterize import rasterize
from fmlfast.kernels.shading import shade_vertices
from fmlfast.kernels.texture import texture

SIZE = 64
"""Rows and columns: so small that a GPU waits for the host."""
ROUNDS = 150


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="OP", default="", help="one operation")
    only = parser.parse_args().only
    if not torch.cuda.is_available():
        use_idle_driver()
    lines = [[name, *measure(call)] for name, call in calls().items() if only in name]
    if not lines:
        sys.exit(f"error: no operation is named {only!r}; there are {', '.join(calls())}")
    print(markdown([f"{SIZE}x{SIZE}", "launches", "host, µs", "of it launching, µs"], lines, 1))


def use_idle_driver() -> None:
    """Makes Triton compile for sm_90 and launch nothing, and operations take CPU tensors for a GPU's."""
    from tools.ptx import driver  # needs Triton

    driver.gates()
    driver.install(launcher=lambda source, metadata: lambda *_: None)


def calls() -> dict[str, Call]:
    """The operations by kernels, without gradients and with a backward pass, on a grid of 722 triangles."""
    g = torch.Generator().manual_seed(0)
    device, n = "cuda" if torch.cuda.is_available() else "cpu", 20
    kernels: Backend = "triton"
    grid = torch.stack(torch.meshgrid(torch.linspace(-20, 20, n), torch.linspace(-20, 20, n), indexing="xy"), -1)
    i = torch.arange(n * n).view(n, n)
    a, b, c, d = i[:-1, :-1], i[1:, :-1], i[:-1, 1:], i[1:, 1:]
    triangles = torch.cat([torch.stack(x, -1).view(-1, 3) for x in ((a, b, c), (b, d, c))]).int().to(device)
    Ks = torch.tensor([[[1.2 * SIZE, 0, SIZE / 2], [0, 1.2 * SIZE, SIZE / 2], [0, 0, 1]]], device=device)

    def leaf(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=g).to(device).requires_grad_()

    points = torch.cat([grid, 60 + 10 * torch.rand(n, n, 1, generator=g)], -1).view(1, -1, 3).to(device)
    points.requires_grad_()
    colors, light, texels = leaf(1, n * n, 3), leaf(1, 9, 3), leaf(1, 64, 64, 3)
    uv, uv_da, image = leaf(1, SIZE, SIZE, 2), leaf(1, SIZE, SIZE, 4), leaf(1, SIZE, SIZE, 3)
    ids = torch.zeros(1, SIZE, SIZE, dtype=torch.int32, device=device)
    weights = leaf(1, SIZE, SIZE, 3)
    seen = Fragments(ids, weights, torch.ones(1, SIZE, SIZE, device=device))
    operations: dict[str, tuple[Callable[[], Tensor], list[Tensor]]] = {
        "rasterize": (lambda: rasterize(points, triangles, Ks, SIZE, SIZE, backend=kernels).barycentrics, [points]),
        "interpolate": (lambda: interpolate(colors, triangles, seen, kernels), [colors, weights]),
        "antialias": (lambda: antialias(image, points, triangles, Ks, seen, kernels), [image, points]),
        "texture": (lambda: texture(texels, uv, uv_da, backend=kernels), [texels, uv, uv_da]),
        "shade_vertices": (
            lambda: shade_vertices(points, triangles, colors, light, kernels)[0],
            [points, colors, light],
        ),
    }
    found: dict[str, Call] = {}
    for name, (run, leaves) in operations.items():
        found[name] = torch.no_grad()(run)
        found[f"{name}, with backward"] = partial(_differentiate, run, leaves)
    return found


def _differentiate(run: Callable[[], Tensor], leaves: list[Tensor]) -> object:
    out = run()
    return torch.autograd.grad(out, leaves, torch.ones_like(out))


def measure(call: Call) -> list[str]:
    """Counts the launches of a call, and times the host with them and without."""
    from triton.runtime.jit import JITFunction

    launch, count = JITFunction.run, []
    call()  # compiles
    try:
        JITFunction.run = lambda *_, **__: count.append(1)  # type: ignore[assignment]
        call()
        JITFunction.run = lambda *_, **__: None  # type: ignore[assignment]
        without = _host_seconds(call)
    finally:
        JITFunction.run = launch
    whole = _host_seconds(call)
    return [str(len(count)), f"{1e6 * whole:.0f}", f"{1e6 * (whole - without):.0f}"]


def _host_seconds(call: Call) -> float:
    """The least time until a call returns."""
    best = float("inf")
    gc.disable()
    for _ in range(ROUNDS):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    gc.enable()
    return best


if __name__ == "__main__":
    main()
