"""Tortures everything that writes and reads files, and prints the table: python -m tools.torture; --help."""

import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

os.environ |= {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}

import torch
import tyro

from tools.torture.faults import Row, Torture, table
from tools.torture.jobs import JOBS

PARTS = (*JOBS, "damage", "memory")


@dataclass(frozen=True)
class Settings:
    """How much is tried."""

    only: tuple[str, ...] = PARTS
    """Jobs to torture, damage, memory."""
    cases: int = 100
    """Cases of each fault of a job, at most."""
    damages: int = 1000
    """Damaged files of each reader."""
    steps: int = 10_000
    """Training steps over which memory must not grow."""
    seed: int = 0
    """Seed of the random moments and sizes."""


def main() -> None:
    """Tells each row on stderr as soon as it is known, then prints the tables; status 1 where anything was lost."""
    chosen = tyro.cli(Settings, description=__doc__)
    if unknown := {*chosen.only} - {*PARTS}:
        sys.exit(f"error: --only {' '.join(unknown)}: choose among {' '.join(PARTS)}")
    torch.set_num_threads(1)
    found: list[Row] = []
    with tempfile.TemporaryDirectory() as home:
        for row in rows(chosen, Path(home)):
            found.append(row)
            print(f"{row.fault}, {row.where}: {row.tried:,} tried, {len(row.lost)} lost", file=sys.stderr, flush=True)
            for problem in row.lost[:3]:
                print(f"  {problem}", file=sys.stderr, flush=True)
    print(table([row for row in found if row.where in JOBS]), end="\n\n")
    print(
        table(
            [Row(f"{row.fault}: {row.where}", "cases", row.tried, row.lost) for row in found if row.where not in JOBS]
        )
    )
    sys.exit(any(row.lost for row in found))


def rows(chosen: Settings, home: Path) -> Iterator[Row]:
    """Tries everything that was chosen."""
    for name in _wanted(JOBS, chosen.only):
        (home / name / "inputs").mkdir(parents=True)
        with redirect_stdout(sys.stderr):  # the table has it alone
            job = JOBS[name](home / name / "inputs")
        yield from Torture(job, home / name, chosen.seed).rows(chosen.cases)
    if "damage" in chosen.only:
        from tools.torture import damage  # imports every reader

        yield from damage.rows(home / "damage", chosen.damages)
    if "memory" in chosen.only:
        from tools.torture import memory

        (home / "memory").mkdir()
        yield memory.row(home / "memory", chosen.steps)


def _wanted(names: Sequence[str] | dict, only: tuple[str, ...]) -> list[str]:
    return [name for name in names if name in only]


if __name__ == "__main__":
    main()
