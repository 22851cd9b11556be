"""Lists the parts of a run on a GPU, each a program of its own with a share of the time."""

import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import torch

from benchmarks.compile import TARGETS
from benchmarks.harness.rows import read_rows

PRESET = "base"
"""Of the trained model."""
STEPS = 500
"""Training steps where no step was timed before."""
TRAINING_SHARE = 0.5
"""Of the time of training that goes to its steps; start, last fits and evaluation take the rest."""


@dataclass(frozen=True)
class Folders:
    """Where a run writes."""

    results: Path
    scratch: Path
    """Is removed at the end: clips, the trained model, traces."""


Command = list[str]


@dataclass(frozen=True)
class Part:
    """One program of the run."""

    name: str
    seconds: float
    """At most, of TOTAL."""
    command: Callable[[Folders, float], Command]
    """Made when its turn comes, from the folders and the seconds that there are."""
    what: str
    """For the table."""
    needs_gpu: bool = True
    program: str = ""
    """That must be on the PATH; where it is not, the part is left out."""
    environment: dict[str, str] = field(default_factory=dict)
    keeps: dict[str, str] = field(default_factory=dict)
    """Files of the scratch folder by their name among the results."""


def module(name: str, *arguments: object) -> Command:
    """A Python program as a command."""
    return [sys.executable, "-m", name, *map(str, arguments)]


def gpu_tests(*options: object) -> Command:
    """The tests that need a GPU; pytest's last line says how many passed."""
    return module("pytest", "-m", "gpu", "-p", "no:cacheprovider", *options)


def _tests(folders: Folders, seconds: float) -> Command:
    workers = min(8, (os.cpu_count() or 2) // 2)
    return gpu_tests("-v", *(["-n", workers] if find_spec("xdist") else []))


def _sanitizer(tool: str) -> Callable[[Folders, float], Command]:
    """Every operation, forward and backward, at its smallest size."""
    small = gpu_tests("-v", "tests/benchmarks/ops/test_cases.py")
    return lambda folders, seconds: ["compute-sanitizer", "--tool", tool, "--error-exitcode", "1", *small]


def target() -> str:
    """This GPU among the targets of benchmarks.compile; sm_90 where there is none, or another one."""
    if not torch.cuda.is_available():
        return "sm_90"
    major, minor = torch.cuda.get_device_capability()
    name = "gfx942" if torch.version.hip else f"sm_{major}{minor}"
    return name if name in TARGETS else "sm_90"


def _compile(folders: Folders, seconds: float) -> Command:
    options = ("--targets", target(), "--jobs", os.cpu_count() or 1, "--count")
    return module("benchmarks.compile", "--out", folders.results / "compile.csv", *options)


def _rows(group: str) -> Callable[[Folders, float], Command]:
    options = ("--device", "cuda", "--group", group)
    return lambda folders, seconds: module(
        "benchmarks.run", *options, "--out", folders.results, "--seconds", f"{0.85 * seconds:.0f}"
    )


def _clips(folders: Folders, seconds: float) -> Command:
    counts = ("--people", 128, "--val-people", 4, "--test-people", 16)
    return module("fmlfast.data.synthetic", "--out", folders.scratch / "clips", "--size", 160, *counts)


def clips_of(folders: Folders) -> Path:
    """Raises ValueError where the part `clips` made none: training would render thousands of people of its own."""
    clips = folders.scratch / "clips"
    if not clips.is_dir():
        raise ValueError("needs the part clips")
    return clips


def _stages(folders: Folders, seconds: float) -> Command:
    where = ("--run", folders.scratch, "--data", clips_of(folders), "--device", "cuda")
    return module("benchmarks.training.profile_step", "--preset", "paper", "--steps", 10, *where)


def _training(folders: Folders, seconds: float) -> Command:
    steps = training_steps(folders.results, seconds)
    where = ("--run", folders.scratch / "run", "--data", clips_of(folders), "--device", "cuda")
    return [sys.executable, "train.py", "--preset", PRESET, *map(str, where), "--steps", str(steps), "--no-tensorboard"]


def training_steps(results: Path, seconds: float) -> int:
    """Chooses how many steps go into the time, by the step that was timed before."""
    rows = read_rows(results / "cuda.csv")
    timed = [row.median_ms for row in rows if row.op == "training step" and row.shape.startswith(f"{PRESET} preset")]
    found = [median for median in timed if median]
    return max(1, round(TRAINING_SHARE * seconds * 1e3 / min(found))) if found else STEPS


PARTS = (
    Part("versions", 15, lambda *_: module("benchmarks.gpu.versions"), "what is measured", needs_gpu=False),
    Part("tests", 110, _tests, "the kernels' tests on the GPU"),
    Part(
        "memcheck",
        25,
        _sanitizer("memcheck"),
        "accesses out of bounds",
        program="compute-sanitizer",
        environment={"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},  # an allocation a tensor
    ),
    Part("racecheck", 25, _sanitizer("racecheck"), "races in shared memory", program="compute-sanitizer"),
    Part("compile", 35, _compile, "registers and spills of every kernel", needs_gpu=False),
    Part("kernels", 70, _rows("kernels"), "operations beside floors, torch and importable peers, in turns"),
    Part("clips", 20, _clips, "synthetic people to train on"),
    Part("steps", 50, _rows("steps"), "training steps, with and without graph"),
    Part("stages", 25, _stages, "stages of a step", keeps={"profile/stages.md": "stages.md"}),
    Part(
        "training",
        120,
        _training,
        "two minutes of training",
        keeps={"run/metrics.jsonl": "training.jsonl", "run/evaluation.json": "evaluation.json"},
    ),
    Part("rest", 35, _rows("rest"), "data, torch.compile, sweeps of size with importable peers"),
)
TOTAL = sum(part.seconds for part in PARTS)


def keep(part: Part, folders: Folders) -> None:
    """Copies what a part left in the scratch folder to the results."""
    for source, name in part.keeps.items():
        if (folders.scratch / source).is_file():
            shutil.copy(folders.scratch / source, folders.results / name)
