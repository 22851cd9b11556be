"""A test module that runs itself in two processes under torchrun."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from fmlfast.training.distributed import World
from tests.helpers.sync_batch_norm import synchronised

ROOT = Path(__file__).parents[2]


def launch(module: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Runs the file of a test module in two processes under torchrun, which finds itself a free port."""
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    variables = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    variables["PYTHONPATH"] = str(ROOT)
    command = [*torchrun, "--", module, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=300)


def work(part: Callable[[Path], None]) -> None:
    """What each of the processes does: its part, in the folder that is the first argument."""
    torch.set_num_threads(1)
    World.synchronised = staticmethod(synchronised)
    part(Path(sys.argv[1]))
