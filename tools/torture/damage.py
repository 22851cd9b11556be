"""Damaged files: every reader ends in a result or in an error that says so, in time and within its memory."""

import resource
import signal
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

from hypothesis import HealthCheck, Phase, given, settings

from tests.helpers.damage import damages
from tests.helpers.readers import READERS, Reader
from tools.torture.children import forked
from tools.torture.faults import Row

SECONDS, MEMORY = 10, 2**30  # that reading a file may take; bytes above what the process has


class TooSlow(BaseException):
    """Reading took too long."""


def rows(home: Path, cases: int) -> Iterator[Row]:
    """Damages the example of each reader `cases` times, each reader in a child."""
    for name, reader in READERS.items():
        folder = home / name.replace(" ", "-")
        folder.mkdir(parents=True)
        row, tried, problem = Row("damaged file", name), folder / "tried", folder / "problem"
        status = forked(lambda reader=reader, folder=folder: _damage(reader, folder, cases))
        row.tried = int(tried.read_text() or 0) if tried.exists() else 0
        if problem.exists():
            row.lost.append(problem.read_text())
        elif status:
            row.lost.append(f"the process ended with status {status}")
        yield row


def _damage(reader: Reader, folder: Path, cases: int) -> None:
    example = folder / "example"
    example.mkdir()
    path = reader.make(example)
    whole, count = path.read_bytes(), 0
    size = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_DATA, (size + MEMORY, size + MEMORY))  # not what is reserved only

    @settings(
        max_examples=cases,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(damages(whole))
    def read(damaged: bytes) -> None:
        nonlocal count
        count += 1
        (folder / "tried").write_text(str(count))
        path.write_bytes(damaged)
        problem = outcome(lambda: reader.read(path))
        if problem:
            (folder / "problem").write_text(problem)
            (folder / "problem.bytes").write_bytes(damaged)
        assert not problem

    read()


def outcome(call: Callable[[], object], seconds: float = SECONDS) -> str:
    """What is wrong with how a call ended; empty for a result, ValueError and OSError within `seconds`."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise TooSlow

    signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        call()
    except (ValueError, OSError, ImportError):
        return ""
    except TooSlow:
        return f"not done after {seconds} s"
    except BaseException as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__} in {Path(place.filename).name}:{place.lineno}: {str(error)[:200]}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return ""
