"""Faults while a folder is written, and what the same command makes of the folder afterwards."""

import os
import random
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fmlfast.common.locks import remove_dead
from fmlfast.common.termination import ERROR, ends_in_one_line
from tools.torture.children import forked, killed_at, operations, start, status_of
from tools.torture.jobs import Job

HUNG = 600  # s after which a command that still runs ends by SIGALRM
_LOG = 4096  # bytes, which the messages need
_CAUGHT = {signal.SIGINT, signal.SIGTERM}
INTERRUPTED = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}


@dataclass
class Row:
    """A row of the table: a fault, how often it was tried, and what came of it other than it should."""

    fault: str
    where: str
    tried: int = 0
    lost: list[str] = field(default_factory=list)

    def add(self, wrong: str) -> None:
        """Counts a case; `wrong` is empty where nothing was lost."""
        self.tried += 1
        if wrong:
            self.lost.append(wrong)


def table(rows: Sequence[Row]) -> str:
    """Arranges rows as Markdown: a line a fault, a column a place; the cases tried, and those of them that lost."""
    places = list(dict.fromkeys(row.where for row in rows))
    found = {(row.fault, row.where): row for row in rows}
    lines = [["fault", *places], ["---", *["--:"] * len(places)]]
    for fault in dict.fromkeys(row.fault for row in rows):
        lines.append([fault, *(_cell(found.get((fault, place))) for place in places)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(row: Row | None) -> str:
    return "" if row is None else f"{row.tried:,}" + f", {len(row.lost)} lost" * bool(row.lost)


class Torture:
    """A job and its undisturbed result, in a folder of its own."""

    def __init__(self, job: Job, home: Path, seed: int = 0) -> None:
        """Runs the job once; raises ChildProcessError where that fails."""
        self.job, self.home, self.random = job, home, random.Random(seed)
        self._numbers = iter(range(10**9))
        whole = self._folder()
        begin = time.monotonic()
        if status := forked(self._quiet(lambda: job.run(whole))):
            raise ChildProcessError(f"{job.name} ended with status {status}: {self._said()}")
        self.seconds, self.content = time.monotonic() - begin, job.content(whole)
        self.largest = max(path.stat().st_size for path in whole.rglob("*") if path.is_file())

    def rows(self, cases: int) -> Iterator[Row]:
        """Tries every fault, each at most `cases` times."""
        yield self.killed_at_operations(cases)
        for number in INTERRUPTED:
            yield self.interrupted(number, cases)
        yield self.full_disk(cases)
        yield self.two_at_once(cases)

    def killed_at_operations(self, cases: int) -> Row:
        """Kills the job at each operation on a file, or at so many of them."""
        row, out = Row("SIGKILL at an operation on a file", self.job.name), self._folder()
        count = operations(self._quiet(lambda: self.job.run(out)))
        for at in sorted(self.random.sample(range(count), min(cases, count))):
            out = self._folder()
            killed_at(self._quiet(lambda out=out: self.job.run(out)), at)
            row.add(self._wrong_after(out))
        return row

    def interrupted(self, number: signal.Signals, cases: int) -> Row:
        """Sends a signal at random moments."""
        row = Row(f"{number.name} at a random moment", self.job.name)
        for _ in range(cases):
            out = self._folder()
            child = self._start(out)
            time.sleep(self.random.uniform(0, self.seconds))
            os.kill(child, number)
            status = status_of(child)
            wrong = self._untidy(out) if number != signal.SIGKILL else ""
            if status not in (0, INTERRUPTED[number]):
                wrong = f"ended with status {status}: {self._said()}"
            row.add(wrong or self._traceback() or self._wrong_after(out))
        return row

    def full_disk(self, cases: int) -> Row:
        """Lets no file grow beyond a random size, as a full disk does."""
        row = Row("disk full", self.job.name)
        for _ in range(cases):
            out, limit = self._folder(), self.random.randrange(min(_LOG, self.largest - 1), self.largest)

            def run(out: Path = out, limit: int = limit) -> None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
                self.job.run(out)

            status = forked(self._quiet(run))
            wrong = self._traceback() or self._untidy(out)
            if status not in (0, ERROR):
                wrong = f"ended with status {status}: {self._said()}"
            row.add(wrong or self._wrong_after(out))
        return row

    def two_at_once(self, cases: int) -> Row:
        """Starts the job twice, the second one a random time later."""
        row = Row("two at once", self.job.name)
        for _ in range(cases):
            out = self._folder()
            children = []
            for wait in (0.0, self.random.uniform(0, self.seconds)):
                time.sleep(wait)
                children.append(self._start(out))
            statuses = [status_of(child) for child in children]
            wrong = self._traceback()
            if 0 not in statuses or not {0, ERROR} >= {*statuses}:
                wrong = f"ended with statuses {statuses}: {self._said()}"
            row.add(wrong or self._wrong_after(out))
        return row

    def _folder(self) -> Path:
        """Names a new output in a folder of its own; removes the last one, so that the disk stays empty."""
        number = next(self._numbers)
        shutil.rmtree(self.home / f"case-{number - 1}", ignore_errors=True)
        (self.home / f"case-{number}").mkdir(parents=True)
        return self.home / f"case-{number}" / "out"

    def _start(self, out: Path) -> int:
        """Starts the job in a child, which no signal reaches before it has begun."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _CAUGHT)
        try:
            return start(self._quiet(lambda: self.job.run(out)))
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _quiet(self, call: Callable[[], object]) -> Callable[[], None]:
        """A command in a child: its messages go to a file."""
        log = self.home / "log"
        log.unlink(missing_ok=True)

        def run() -> None:
            handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            for stream in (1, 2):
                os.dup2(handle, stream)
            sys.stdout = sys.stderr = os.fdopen(handle, "w", buffering=1)
            signal.alarm(HUNG)
            with ends_in_one_line():
                signal.pthread_sigmask(signal.SIG_UNBLOCK, _CAUGHT)
                try:
                    call()
                finally:
                    signal.pthread_sigmask(signal.SIG_BLOCK, _CAUGHT)  # the command is over

        return run

    def _said(self) -> str:
        log = self.home / "log"
        return " ".join(log.read_text(errors="replace").split())[-300:] if log.exists() else ""

    def _traceback(self) -> str:
        return self._said() if "Traceback" in self._said() else ""

    def _untidy(self, out: Path) -> str:
        left = [path.name for path in out.parent.rglob(".*.fmlfast")]
        return f"left behind: {left}" if left else ""

    def _wrong_after(self, out: Path) -> str:
        """Runs the job again to its end, and tells what is not as it would be without the fault."""
        if status := forked(self._quiet(lambda: self.job.run(out))):
            return f"the next run ended with status {status}: {self._said()}"
        if self.job.content(out) != self.content:
            return "the next run's result is another one"
        remove_dead(out.parent)  # as whatever is written beside it next does
        return self._untidy(out)
