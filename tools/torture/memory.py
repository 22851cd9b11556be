"""Memory of a long training: it must not grow."""

import resource
from dataclasses import replace
from pathlib import Path

import train as training
from fmlfast.data.synthetic.generate import generate
from fmlfast.training.run_log import Log
from tests.helpers.training_runs import short_run
from tools.torture.children import forked
from tools.torture.faults import Row
from tools.torture.jobs import FOUR_PEOPLE

GROWTH = 16 * 2**20  # bytes that a run may grow by after its first tenth: allocators and logs


def row(home: Path, steps: int) -> Row:
    """Trains for `steps` steps in a child, and compares its memory after a tenth of them with that at the end."""
    generate(replace(FOUR_PEOPLE, out=home / "clips"))
    config = replace(short_run(home / "clips", home / "run", steps), frames=1)  # the quickest steps
    early = steps // 20  # the first measurement comes after each kind of work
    config = replace(config, log_every=steps // 10, preview_every=early, checkpoint_every=early)
    sizes, found = home / "sizes", Row(f"{steps:,} steps of training", "memory", tried=1)

    class Measured(Log):
        def write(self, step: int, terms: dict) -> None:
            super().write(step, terms)
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            with sizes.open("a") as file:
                file.write(f"{pages * resource.getpagesize()}\n")

    def run() -> None:
        training.Log = Measured
        training.train(config)

    status = forked(run)
    bytes_used = [int(line) for line in sizes.read_text().split()] if sizes.exists() else []
    if status or len(bytes_used) < 10:
        found.lost.append(f"training ended with status {status}")
    elif (grown := bytes_used[-1] - bytes_used[0]) > GROWTH:
        found.lost.append(f"grew by {grown / 2**20:.0f} MiB")
    else:
        found.where = f"memory, {grown / 2**20:+.1f} MiB"
    return found
