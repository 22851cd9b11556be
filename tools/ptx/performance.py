# SPDX-License-Identifier: Apache-2.0
"""What the project's kernels cost at the sizes of training, counted: `python -m tools.ptx.performance [--ops NAME...]`.

Instructions are those of PTX, of which the assembler makes somewhat fewer or more.
"""

import argparse
import importlib
import json
import time
from pathlib import Path
from typing import Any

from benchmarks.harness.markdown import write_between_markers
from benchmarks.harness.rows import provenance
from tools.ptx import check, counters, driver

driver.gates()

import numpy as np  # noqa: E402
import torch  # noqa: E402

OPS = (
    "deviation sparsity visibility normals shading photometric interpolate rasterize antialias deform blendshape "
    "low_rank_adam"
)
CSV = check.ROOT / "benchmarks" / "results" / "counters.csv"
PAGE = check.ROOT / "docs" / "performance.md"


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
    parser.add_argument("--out", type=Path, default=Path("ptx_counters.jsonl"), help="all that is counted")
    parser.add_argument("--show", action="store_true", help="only the table of a file made before")
    parser.add_argument("--keep", action="store_true", help=f"the numbers in {CSV.name}, the table in {PAGE.name}")
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
    records = map(json.loads, arguments.out.read_text().splitlines())
    found = provenance("cpu")
    table = counters.rows(records, {name: found[name] for name in ("commit", "torch", "triton")})
    print(counters.floors(table))
    if arguments.keep:
        counted = {row["op"] for row in table}
        old = [row for row in counters.read(CSV) if row["op"] not in counted] if CSV.exists() else []
        table = sorted([*old, *table], key=lambda row: (row["op"], row["shape"]))
        counters.write(CSV, table)
        write_between_markers(PAGE, counters.NAME, counters.floors(table))


if __name__ == "__main__":
    main()
