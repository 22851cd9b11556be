"""Stores measurements, each with where it comes from, in CSV files."""

import csv
import os
import platform
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from fmlfast.common.atomic import atomic_path

RESULTS = Path(__file__).parents[1] / "results"
OUT_OF_TIME = "not measured: out of time"
NUMBERS = ("x", "median_ms", "p10_ms", "p90_ms", "bytes", "copy_bandwidth_percent", "gflops", "launches", "host_syncs")
NUMBERS += ("peak_mb", "max_error", "frames", "elements")


@dataclass(frozen=True)
class Row:
    """One measurement; None is what was not measured, and `note` says why."""

    op: str
    direction: str
    """"forward", "backward", "step" for a whole training step, or "data"."""
    provider: str
    """Who computes: "triton", "torch", "compile", or the name of another library."""
    shape: str
    sweep: str = ""
    x: float = 0.0
    dtype: str = ""
    """Type of the floating-point inputs."""
    median_ms: float | None = None
    p10_ms: float | None = None
    p90_ms: float | None = None
    bytes: float | None = None
    """What the operation cannot do without reading and writing."""
    copy_bandwidth_percent: float | None = None
    """`bytes` a second in percent of what a copy on the same device reaches in the same run."""
    gflops: float | None = None
    """Thousand million additions and multiplications a second."""
    launches: float | None = None
    """Kernels, copies and fills started on the GPU."""
    host_syncs: float | None = None
    """How often the host waits for the GPU."""
    peak_mb: float | None = None
    """Most GPU memory taken beyond the inputs, 10^6 bytes."""
    max_error: float | None = None
    """Against float64 on the same inputs, relative to the largest number of a result."""
    repeatable: bool | None = None
    """Two runs give the same bits."""
    frames: float | None = None
    """Frames that one run handles, where frames a second are of interest."""
    elements: float | None = None
    """Vertices, pixels or whatever `element` names that one run handles."""
    element: str = ""
    device: str = ""
    driver: str = ""
    torch: str = ""
    triton: str = ""
    commit: str = ""
    """Ends in "-dirty" where files had changed since."""
    note: str = ""

    @property
    def key(self) -> tuple[str, ...]:
        """What is measured and by whom."""
        return self.op, self.direction, self.provider, self.shape, self.sweep


def provenance(device: str) -> dict[str, str]:
    """Returns the columns device, driver, torch, triton and commit of what is measured on `device` now."""
    try:
        triton = version("triton")
    except PackageNotFoundError:
        triton = ""
    folder = Path(__file__).parent
    git = "git", "-C", str(folder)
    commit = _output(*git, "describe", "--always", "--abbrev=9", "--exclude=*")
    generated = ":(top,exclude)benchmarks/results", ":(top,exclude)docs"
    if _output(*git, "status", "--porcelain", "--untracked-files=no", "--", ":(top)", *generated):
        commit += "-dirty"
    found = {"torch": torch.__version__, "triton": triton, "commit": commit or "unknown"}
    if torch.device(device).type == "cpu":
        threads = torch.get_num_threads()
        return found | {"device": f"{cpu_name()}, {threads} thread{'s' * (threads > 1)}", "driver": ""}
    driver = _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader").split("\n")[0]
    return found | {"device": torch.cuda.get_device_name(device), "driver": driver or f"HIP {torch.version.hip}"}


def cpu_name() -> str:
    """Returns the CPU's model and number of cores, such as "AMD EPYC, 2 cores"."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{models[0] if models else platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def _output(*command: str) -> str:
    """Returns what a command prints, or nothing where it cannot run."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Writes a CSV file; numbers keep five digits, counts all of them."""
    with atomic_path(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, [f.name for f in fields(Row)], lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: _text(v) for k, v in asdict(row).items()} for row in rows)


def read_rows(path: Path) -> list[Row]:
    """Reads the rows of a CSV file; none where there is no file. Raises ValueError where columns are not a row's."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        expected = [f.name for f in fields(Row)]
        if reader.fieldnames is None or list(reader.fieldnames) != expected:
            raise ValueError(f"{path} must have the columns {', '.join(expected)}; measure it anew")
        return [_row(line) for line in reader]


def merge(old: Iterable[Row], new: Sequence[Row], only: str | None) -> list[Row]:
    """Merges a run's rows with the stored ones, but for those measured anew and all of `only`, its one operation."""
    keys = {row.key for row in new}
    kept = [row for row in old if row.op != only and row.key not in keys]

    def place(row: Row) -> tuple[Any, ...]:
        return row.op, row.sweep, row.x, row.shape, row.direction == "backward", row.provider

    return sorted([*kept, *new], key=place)


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.0f}" if value.is_integer() and abs(value) < 1e15 else f"{value:.5g}"
    return str(value)


def _row(line: dict[str, str]) -> Row:
    values: dict[str, object] = dict(line)
    for name in NUMBERS:
        values[name] = float(line[name]) if line[name] else None
    values["repeatable"] = {"yes": True, "no": False}.get(line["repeatable"])
    return Row(**values)  # type: ignore[arg-type]
