# SPDX-License-Identifier: Apache-2.0
"""Hard cases for the project's kernels, against its torch backend: `python -m tools.ptx.cases [--groups NAME...]`.

Every launch runs under several schedules with all checks; results must be those of the torch backend, to the bit where
the project promises that.
"""

import argparse
import importlib
import sys
import traceback
from pathlib import Path

import torch

from tools.ptx import driver
from tools.ptx.compare import log
from tools.ptx.driver import Schedule, settings

GROUPS = {"raster": "case_pictures", "meshes": "case_meshes", "losses": "case_meshes", "models": "case_models"}
"""Functions, and the files that they are in."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--groups", nargs="*", choices=GROUPS, default=list(GROUPS))
    parser.add_argument("--capability", type=int, default=90)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="lines of JSON about every problem")
    arguments = parser.parse_args()
    driver.gates()  # before the cases import the kernels
    driver.install(arguments.capability)
    torch.set_num_threads(1)
    s = arguments.seed
    settings.schedules = [Schedule(s), Schedule(s + 1, 4, True, True), Schedule(s + 2, 7, True)]
    log.path = arguments.out
    for name in arguments.groups:
        try:
            getattr(importlib.import_module(f"tools.ptx.{GROUPS[name]}"), name)()
        except Exception:
            log.problem(name, traceback.format_exc())
            driver.clear()
    print(f"{log.cases} cases, {driver.counts.total()} launches, problems:")
    for kind, count in log.kinds.most_common():
        print(f"{count:5} {kind}")
    return int(bool(log.kinds))


if __name__ == "__main__":
    sys.exit(main())
