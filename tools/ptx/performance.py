# SPDX-License-Identifier: Apache-2.0
"""What the project's kernels cost at the sizes of training, counted: `python -m tools.ptx.performance [--ops NAME...]`.

Instructions are those of PTX, of which the assembler makes
somewhat fewer or more.
"""

import argparse
import importlib
import json
import time
from pathlib import Path
from typing import Any

from tools.ptx import driver

driver.gates()

import numpy as np  # noqa: E402
import torch  # noqa: E402

OPS = (
    "deviation sparsity visibility normals shading photometric interpolate rasterize antialias deform blendshape "
    "low_rank_adam"
)
SLOTS = 132 * 4 * 1.755e9
"""Instructions of warps that an H100 starts a second."""
LINES = 132 * 1.755e9
"""Lines of 128 bytes that its L1 caches look up a second, if it is one a clock and multiprocessor."""
MEMORY, L2 = 3.0e12, 5.5e12
"""Bytes a second."""
HEAD = (
    "kernel",
    "op",
    "blocks x warps",
    "M instr.",
    "slots, us",
    "memory, us",
    "L2, us",
    "L1 lines, us",
    "sectors a load",
    "lines a load",
    "useful of loaded, %",
    "useful of stored, %",
    "masked lanes, %",
    "same address, %",
    "lanes on, %",
    "conflicts",
    "M atomics",
    "lanes an address",
)


def row(record: dict[str, Any]) -> dict[str, str]:
    c = record["counters"]

    def part(a: float, b: float) -> float:
        return a / b if b else 0.0

    read, written = record["unique_read"], record["unique_written"]
    # Stores of one instruction go to L2 as they are; loads of a block that hit a sector again find it in L1, at best.
    l2 = 32 * (c["block_sectors"] + c["store_sectors"]) - written
    values = (
        record["kernel"],
        record["op"],
        f"{c['blocks']:,} x {record['warps']}",
        f"{c['warp_instructions'] / 1e6:,.1f}",
        f"{c['warp_instructions'] / SLOTS * 1e6:,.1f}",
        f"{(read + written) / MEMORY * 1e6:,.1f}",
        f"{l2 / L2 * 1e6:,.1f}",
        f"{(c['load_lines'] + c['store_lines']) / LINES * 1e6:,.1f}",
        f"{part(c['load_sectors'], c['load_requests']):.1f}",
        f"{part(c['load_lines'], c['load_requests']):.1f}",
        f"{100 * part(c['load_ideal'], c['load_sectors']):.0f}",
        f"{100 * part(c['store_ideal'], c['store_sectors']):.0f}",
        f"{100 - 100 * part(c['load_lanes'], 32 * (c['load_requests'] + c['empty_loads'])):.0f}",
        f"{100 * part(c['uniform_loads'], c['load_requests']):.0f}",
        f"{100 * part(c['thread_instructions'], 32 * c['warp_instructions']):.0f}",
        f"{part(c['shared_wavefronts'], c['shared_ideal']):.2f}",
        f"{c['atomic_lanes'] / 1e6:.2f}",
        f"{part(c['atomic_depth'], c['atomic_requests']):.1f}",
    )
    return dict(zip(HEAD, values, strict=True))


def markdown(records: list[dict[str, Any]]) -> str:
    lines = [f"| {' | '.join(HEAD)} |", "|" + "---|" * len(HEAD)]
    return "\n".join(lines + [f"| {' | '.join(row(r).values())} |" for r in records])


def measure(op: str) -> list[dict[str, Any]]:
    """All launches of an operation's cases at the preset "paper", forward and backward."""
    found = []
    for case in importlib.import_module(f"benchmarks.ops.{op}").CASES:
        if "gpu" not in case.suites or case.sweep:
            continue
        start = time.time()
        driver.clear()
        inputs = case.make("cpu", 0)
        leaves = [inputs[name].requires_grad_() for name in case.differentiable]
        outputs = [o for o in case.run(inputs, "triton") if o.is_floating_point() and o.requires_grad]
        if leaves and outputs:
            torch.manual_seed(1)
            torch.autograd.grad(outputs, leaves, [torch.randn_like(o) for o in outputs])
        print(case.op, case.shape, f"{time.time() - start:.0f} s", flush=True)
        for launch in driver.launches:
            code, result = launch.kernel.program.code, launch.result
            sectors, issued = result.sectors, result.issued
            assert sectors is not None and issued is not None
            hot = np.argsort(-sectors.astype(np.int64), kind="stable")[:8].tolist()
            found.append(
                {
                    "op": case.op,
                    "shape": case.shape,
                    "kernel": launch.name,
                    "grid": launch.grid,
                    "constants": {n: v for n, v in launch.constants.items() if isinstance(v, int | float | bool)},
                    "warps": launch.kernel.warps,
                    "shared": launch.kernel.shared,
                    "counters": result.counters,
                    "unique_read": result.unique_read,
                    "unique_written": result.unique_written,
                    "by_storage": result.by_storage,
                    "hot": [(code[i].text, code[i].source, int(sectors[i]), int(issued[i])) for i in hot],
                }
            )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ops", nargs="*", default=OPS.split())
    parser.add_argument("--out", type=Path, default=Path("ptx_counters.jsonl"))
    parser.add_argument("--show", action="store_true", help="only the table of a file made before")
    arguments = parser.parse_args()
    if not arguments.show:
        driver.install()
        torch.set_num_threads(1)
        driver.settings.schedules = [driver.Schedule(0, counting=True, races=False)]
        driver.settings.keep = True
        with arguments.out.open("w") as file:
            for op in arguments.ops:
                for record in measure(op):
                    file.write(json.dumps(record) + "\n")
    print(markdown([json.loads(line) for line in arguments.out.read_text().splitlines()]))


if __name__ == "__main__":
    main()
