"""Profiles a training step stage by stage, beside the floor of each stage: profile/ in the run folder.

python -m benchmarks.training.profile_step [--preset cpu|base|paper] [--run DIR] [--steps N]; --help lists all options.
"""

import csv
import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
import tyro
from torch.profiler import ProfilerActivity, profile, schedule

from benchmarks.training.floors import step_floors
from benchmarks.training.steps import FULL
from benchmarks.training.trace import StageTime, stage_times
from fmlfast.common.atomic import atomic_path
from fmlfast.data.loader import training_batches
from fmlfast.data.prefetch import Prefetcher
from fmlfast.kernels.common.backend import choose_backend
from fmlfast.training.allocator import keep_freed_memory
from fmlfast.training.distributed import World
from train import PRESETS, Config, build_step, make_clips


@dataclass(frozen=True)
class Options:
    """What is profiled, and where to."""

    preset: Literal["cpu", "base", "paper"] = "base" if torch.cuda.is_available() else "cpu"
    """Settings of train.py."""
    run: Path = Path("runs/default")
    """Folder in which profile/ is written: stages.md, stages.csv, trace.json."""
    steps: int = 20
    """Steps to measure."""
    data: Path | None = None
    """Prepared clips instead of the preset's; made where they do not exist."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    backend: Literal["torch", "triton"] | None = None
    """Which kernels run; by default triton on a GPU and torch on the CPU."""

    @property
    def config(self) -> Config:
        """The settings of training."""
        base = PRESETS[self.preset]
        data = self.data or base.data
        return replace(base, run=self.run, data=data, device=self.device, backend=self.backend)


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    try:
        print(profile_training(options.config, options.steps).read_text())
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"error: {error}")


def profile_training(config: Config, steps: int) -> Path:
    """Profiles steps of a fresh run that see all loss terms; returns the path of stages.md.

    Nothing is trained or stored: the run folder gets profile/ alone. Raises ValueError under torchrun.
    """
    with World.start(config.device) as world:
        choose_backend(config.backend, torch.empty(0, device=world.device))  # before the work, not after it
        if world.size > 1:
            raise ValueError("profile looks at one process; start it without torchrun")
        if world.device.type == "cpu":
            keep_freed_memory()
        make_clips(config)
        clips, step = build_step(config, world, graph=False)  # inside a graph stages cannot be told apart
        endless = training_batches(clips, config.batch, config.frames, sys.maxsize, config.seed, 0, config.workers)
        batches = iter(Prefetcher(endless, world.device))
        floors = step_floors(step.model, config.batch, config.frames, 2 if config.lean_moments else 4)
        profile_steps(lambda: step(next(batches), FULL), steps, config.run / "profile", floors)
    return config.run / "profile" / "stages.md"


def profile_steps(
    step: Callable[[], object],
    steps: int,
    folder: str | Path,
    floors: Mapping[str, float] | None = None,
    warmup: int = 3,
) -> list[StageTime]:
    """Runs steps under torch's profiler and writes trace.json, stages.csv and stages.md into `folder`.

    Stages are marked in the forward code by `record_function("fmlfast::<stage>")`. What the backward pass does is
    counted for the stage of the forward operation that it belongs to, as "<stage>, backward". The rows make up the
    whole step, in the order in which a step comes to them, "other" and "idle" last.

    With a GPU the time is that of its kernels and copies, without one the time of the calling thread, innermost
    operation by innermost operation. Profiling costs time itself: stages.md gives the step's time with and without it.

    Args:
        step: one training step; not the replay of a CUDA graph, whose kernels do not tell where they come from.
        steps: how many are measured, at least 1.
        folder: is made where it is missing; files of an earlier profile are replaced.
        floors: microseconds that a stage takes at least, by the name of its row.
        warmup: steps before, at least 1, in which memory is allocated and kernels are compiled.

    Raises:
        ValueError: steps or warmup below 1, or steps in which nothing ran.
    """
    if steps < 1 or warmup < 1:
        raise ValueError(f"steps and warmup must be at least 1, not {steps} and {warmup}")
    folder = Path(folder)
    for _ in range(warmup):
        step()
    synchronize = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    synchronize()
    began = time.perf_counter()
    for _ in range(steps):
        step()
    synchronize()
    plain = (time.perf_counter() - began) / steps * 1e6

    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * torch.cuda.is_available()
    with profile(activities=activities, schedule=schedule(wait=0, warmup=1, active=steps, repeat=1)) as profiler:
        for i in range(1 + steps):
            step()
            if i in (0, steps):  # what was launched before the first and by the last measured step is finished with it
                synchronize()
            profiler.step()
    with atomic_path(folder / "trace.json") as path:
        profiler.export_chrome_trace(str(path))
    rows = stage_times(json.loads((folder / "trace.json").read_text())["traceEvents"], floors or {})
    with atomic_path(folder / "stages.csv") as path, path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("stage", "microseconds", "share", "floor", "ratio"))
        writer.writerows((r.stage, r.microseconds, r.share, r.floor, r.ratio) for r in rows)
    with atomic_path(folder / "stages.md") as path:
        path.write_text(_markdown(rows, steps, plain))
    return rows


def _markdown(rows: list[StageTime], steps: int, plain: float) -> str:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "the CPU"
    total = sum(row.microseconds for row in rows)
    lines = [
        f"A training step on {device}, mean of {steps}: {total / 1e3:.3g} ms under the profiler, "
        f"{plain / 1e3:.3g} ms without it.",
        "",
        "| stage | time, µs | share | floor, µs | ratio |",
        "|---|---:|---:|---:|---:|",
    ]
    for row in rows:
        floor = "" if row.floor is None else f"{row.floor:,.0f}"
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        lines.append(f"| {row.stage} | {row.microseconds:,.0f} | {row.share:.1%} | {floor} | {ratio} |")
    lines.append(f"| **the step** | {total:,.0f} | 100.0% | | |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
