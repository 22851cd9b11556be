"""Measures on a GPU all that only a GPU can tell, in one call under nine minutes.

python -m benchmarks.gpu [--out DIR] [--seconds N] [--only PART...]

Parts run one after the other, each a program of its own that is stopped when its share of the time is over. What a part
found is in DIR before the next one begins: summary.md says how each ended, and log.txt holds all that they printed;
then there are compile.csv, cuda.csv (operations and steps, as rows of the benchmarks), stages.md, training.jsonl and
evaluation.json. To publish cuda.csv, copy it to benchmarks/results and run python -m benchmarks.report.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import torch

from benchmarks.gpu.parts import PARTS, TOTAL, Folders, Part, keep
from benchmarks.report.table import markdown
from fmlfast.common.atomic import atomic_path
from fmlfast.common.termination import ends_in_one_line

ROOT = Path(__file__).parents[2]
GRACE = 5.0
"""Seconds that a part has to write what it knows after it was interrupted."""
DONE, FAILED = "done", "failed"
NOT_MEASURED = "not measured"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"), help="folder of the results")
    parser.add_argument("--seconds", type=float, help=f"for all parts together, {TOTAL:.0f} by default")
    parser.add_argument("--only", nargs="+", choices=[part.name for part in PARTS], help="some parts, by name")
    options = parser.parse_args(arguments)
    chosen = [part for part in PARTS if options.only is None or part.name in options.only]
    seconds = options.seconds or sum(part.seconds for part in chosen)
    with ends_in_one_line():
        states = run(chosen, options.out.resolve(), seconds)
    failed = [name for name, state in states.items() if state.startswith(FAILED)]
    sys.exit(f"error: failed: {', '.join(failed)}; see {options.out / 'log.txt'}" if failed else 0)


def run(parts: Sequence[Part], results: Path, seconds: float) -> dict[str, str]:
    """Runs parts in order; returns how each ended. The last one gets the time that the others have left over."""
    results.mkdir(parents=True, exist_ok=True)
    lines = {part.name: [part.name, part.what, NOT_MEASURED, "", "", ""] for part in parts}
    end, scale = time.monotonic() + seconds, seconds / sum(part.seconds for part in parts)
    with tempfile.TemporaryDirectory(prefix="fmlfast-gpu-") as scratch:
        folders = Folders(results, Path(scratch))
        for part in parts:
            left = max(end - time.monotonic(), 0.0)
            limit = left if part is parts[-1] else min(scale * part.seconds, left)
            _summarize(results, lines.values())
            start = time.monotonic()
            state, said = _run(part, folders, limit)
            keep(part, folders)
            took = f"{time.monotonic() - start:.0f}"
            lines[part.name][2:] = [state, said.replace("|", "\\|"), took, f"{limit:.0f}"]
            print(f"{part.name}: {state}, {took} s: {said}", flush=True)
        _summarize(results, lines.values())
    return {name: line[2] for name, line in lines.items()}


def _run(part: Part, folders: Folders, limit: float) -> tuple[str, str]:
    """Runs a part; returns how it ended and the last line that it printed."""
    if part.needs_gpu and not torch.cuda.is_available():
        return NOT_MEASURED, "needs a GPU"
    if part.program and shutil.which(part.program) is None:
        return NOT_MEASURED, f"{part.program} is not on the PATH"
    try:
        command = part.command(folders, limit)
    except (ValueError, OSError) as error:
        return FAILED, str(error)
    path = folders.results / "log.txt"
    with path.open("a") as log:
        log.write(f"\n== {part.name}: {_shown(command, folders)}\n")
        log.flush()
        begin = log.tell()
        state = _finish(command, part.environment, log.fileno(), limit)
    said = [line for line in path.read_bytes()[begin:].decode(errors="replace").splitlines() if line.strip()]
    return state, said[-1].strip()[:300] if said else "nothing"


def _shown(command: Sequence[str], folders: Folders) -> str:
    """A command without this machine's paths."""
    names = {sys.executable: "python", str(folders.results): "OUT", str(folders.scratch): "SCRATCH"}
    line = " ".join(command)
    for path, name in names.items():
        line = line.replace(path, name)
    return line


def _finish(command: Sequence[str], environment: dict[str, str], log: int, limit: float) -> str:
    """Runs a command, interrupts it when its time is over, and returns how it ended; nothing of it stays behind."""
    environment = os.environ | {"PYTHONUNBUFFERED": "1"} | environment
    grace = min(GRACE, limit / 4)
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        status = process.wait(max(0.0, limit - grace))
        return DONE if status == 0 else f"{FAILED}: exit status {status}"
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(grace)
        return f"stopped after {limit:.0f} s"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # and what it has started
        with suppress(subprocess.TimeoutExpired):  # where the driver itself hangs
            process.wait(GRACE)


def _summarize(results: Path, lines: Iterable[Sequence[str]]) -> None:
    header = ["part", "what", "how it ended", "the last line that it printed", "s", "at most"]
    with atomic_path(results / "summary.md") as path:
        path.write_text(f"# A run on a GPU\n\n{markdown(header, lines, 4)}\n")


if __name__ == "__main__":
    main()
