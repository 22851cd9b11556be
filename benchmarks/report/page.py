"""Writes docs/benchmarks.md and its plots from the CSV files: python -m benchmarks.report."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness.markdown import wrapped
from benchmarks.harness.rows import RESULTS, Row, read_rows
from benchmarks.report.comparison import where_we_lose
from benchmarks.report.plots import AXES, sweep_plots
from benchmarks.report.table import OWN, amount, floor_ms, markdown, percent, reason
from fmlfast.common.atomic import atomic_path

DOCS = Path(__file__).parents[2] / "docs"
OURS = {"cuda": "triton", "cpu": "torch"}
"""What runs by default on a device."""
TITLES = {"cuda": "GPU", "cpu": "CPU"}
NOT_MEASURED = "not measured"
INTRODUCTION = """# Benchmarks

Made by `python -m benchmarks.report` from [cpu.csv](../benchmarks/results/cpu.csv), and from cuda.csv where a GPU was
measured; do not edit. `make bench` measures the CPU, `make gpu` a GPU, into `runs/gpu/cuda.csv`.

Every result and every gradient is compared with float64 on the inputs of that run before it is timed; a wrong one is
not timed. Times are medians. CPU times come from pytest-benchmark, by the wall clock; GPU times lie between two
events, the GPU being kept busy while the host prepares a call, so that a short operation shows its own time, as it has
in a CUDA graph. Calls take turns on copies of the inputs that do not fit the last cache together, and on a GPU with
those of all others who compute the same. The forward pass keeps what the backward pass needs. **Floor** is what the
operation must read and write, once, at the speed of a copy measured in the same run."""


def write_report(results: Path = RESULTS, docs: Path = DOCS) -> Path:
    """Writes docs/benchmarks.md and docs/images/bench-*.png from the CSV files in `results`."""
    parts, known = [INTRODUCTION], read_rows(results / "cpu.csv")
    for device in ("cuda", "cpu"):
        rows = read_rows(results / f"{device}.csv")
        if rows:
            plots = sweep_plots(device, rows, docs / "images")
            parts += section(device, rows, {sweep: path.relative_to(docs) for sweep, path in plots.items()})
        else:
            parts += unmeasured(device, known)
    path = docs / "benchmarks.md"
    with atomic_path(path) as temporary:
        temporary.write_text(wrapped("\n\n".join(parts) + "\n"))
    return path


def unmeasured(device: str, known: Sequence[Row]) -> list[str]:
    """Writes the section of a device that nobody has measured: what there would be, each cell "not measured"."""
    header = ["operation", "", OURS[device], "torch", "compile", "other libraries", "floor"]
    ops = dict.fromkeys((row.op, row.direction) for row in known if not row.sweep and row.direction != "data")
    lines = [[f"`{op}`", direction, *[NOT_MEASURED] * (len(header) - 2)] for op, direction in ops]
    return [f"## {TITLES[device]}", "No run is recorded.", markdown(header, lines, 2)]


def section(device: str, rows: Sequence[Row], plots: dict[str, Path]) -> list[str]:
    """Writes the section of a measured device."""
    ours = OURS[device]
    plain = [row for row in rows if not row.sweep and row.direction in ("forward", "backward")]
    whole = [row for row in rows if row.direction in ("step", "data")]
    parts = [f"## {TITLES[device]}", source(rows), glance(ours, plain)]
    if whole:
        parts += ["### Whole steps, and data", whole_table(whole)]
    parts += ["### Where we lose", *where_we_lose(ours, rows), "### Sweeps"]
    parts += ["The time of an element: a flat curve has no price for size. Grey is the floor."] if plots else []
    parts += [f"![Time of an element against {AXES[sweep]}]({path.as_posix()})" for sweep, path in plots.items()]
    return [*parts, "### All rows", *details(rows)]


def source(rows: Sequence[Row]) -> str:
    """Says where the numbers come from: device, driver, versions, and the commits that were measured with these."""
    commits: dict[tuple[str, ...], dict[str, None]] = {}
    for row in rows:
        commits.setdefault((row.device, row.driver, row.torch, row.triton), {})[row.commit] = None
    lines = []
    for (device, driver, torch, triton), found in commits.items():
        word = "commit" if len(found) == 1 else "commits"
        parts = [device, f"driver {driver}" * bool(driver), f"torch {torch}", f"triton {triton}"]
        lines.append(", ".join(part for part in [*parts, f"{word} {', '.join(found)}"] if part) + ".")
    return "\n".join(lines)


def glance(ours: str, rows: Sequence[Row]) -> str:
    """Tables operations at the sizes of training, providers side by side: ms, and speed over the reference's."""
    names = [name for name in OWN if any(row.provider == name for row in rows)]
    lines = []
    for key in dict.fromkeys((row.op, row.shape, row.dtype, row.direction) for row in rows):
        some = {row.provider: row for row in rows if (row.op, row.shape, row.dtype, row.direction) == key}
        base = some["torch"].median_ms if "torch" in some else None
        cells = [_cell(some.get(name), base) for name in names]
        floor = next((floor_ms(row) for row in some.values() if row.median_ms is not None), None)
        mine = some[ours].median_ms if ours in some else None
        ratio = f"{amount(mine / floor, 2)}x" if mine and floor else "–"
        others = _others([row for row in some.values() if row.provider not in OWN], base)
        lines.append([f"`{key[0]}` {key[1]}", key[3], *cells, others, amount(floor), ratio])
    return markdown(["operation, ms", "", *names, "other libraries", "floor", f"{ours} / floor"], lines, 2)


def _cell(row: Row | None, base: float | None) -> str:
    if row is None:
        return "–"
    if row.median_ms is None:
        return reason(row)
    if row.provider == "torch" or not base:
        return amount(row.median_ms)
    return f"{amount(row.median_ms)} ({amount(base / row.median_ms, 2)}x)"


def _others(rows: Sequence[Row], base: float | None) -> str:
    """Lists each library's time, and for every reason the libraries that have none."""
    timed = [f"{row.provider} {_cell(row, base)}" for row in rows if row.median_ms is not None]
    reasons = dict.fromkeys(reason(row) for row in rows if row.median_ms is None)
    missing = [
        f"{', '.join(row.provider for row in rows if row.median_ms is None and reason(row) == why)}: {why}"
        for why in reasons
    ]
    return "; ".join([*timed, *missing]) or "–"


def whole_table(rows: Sequence[Row]) -> str:
    """Tables steps, the loader and the generator, in frames a second."""
    lines = []
    for row in rows:
        rate = row.frames / row.median_ms * 1e3 if row.frames and row.median_ms else None
        cells = [amount(row.median_ms), amount(rate), amount(row.launches), amount(row.host_syncs), amount(row.peak_mb)]
        if row.median_ms is None:
            cells[0] = reason(row)
        lines.append([row.op, row.shape, row.provider, *cells])
    return markdown(["", "size", "by", "ms", "frames/s", "launches", "waits", "peak MB"], lines, 3)


def details(rows: Sequence[Row]) -> list[str]:
    """Writes one folded table an operation with everything that was measured."""
    header = [
        "size",
        "",
        "by",
        "ms",
        "p10–p90",
        "% of copy",
        "GFLOP/s",
        "launches",
        "waits",
        "peak MB",
        "error",
        "same bits",
    ]
    parts = []
    for op in dict.fromkeys(row.op for row in rows):
        lines = [_detail(row) for row in rows if row.op == op and not (row.sweep and row.note == "not installed")]
        parts.append(f"<details><summary>{op}</summary>\n\n{markdown(header, lines, 3)}\n\n</details>")
    return parts


def _detail(row: Row) -> list[str]:
    size = row.shape + (f", {row.dtype}" if row.dtype not in ("", "float32") else "")
    if row.median_ms is None:
        return [size, row.direction, row.provider, row.note, *[""] * 6, amount(row.max_error, 2), _yes(row.repeatable)]
    return [
        size,
        row.direction,
        row.provider,
        amount(row.median_ms),
        f"{amount(row.p10_ms)}–{amount(row.p90_ms)}",
        percent(row.copy_bandwidth_percent),
        amount(row.gflops),
        amount(row.launches),
        amount(row.host_syncs),
        amount(row.peak_mb),
        "–" if row.max_error is None else f"{row.max_error:.1e}",
        _yes(row.repeatable),
    ]


def _yes(value: bool | None) -> str:
    return {True: "yes", False: "no", None: "–"}[value]
