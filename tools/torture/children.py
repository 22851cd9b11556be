"""Calls things in forked children, which may be killed."""

import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence


def forked(call: Callable[[], object]) -> int:
    """The exit status of a child that makes a call: 0, that of SystemExit, 1 for other errors, -N for a signal."""
    return all_at_once([call])[0]


def all_at_once(calls: Sequence[Callable[[], object]]) -> list[int]:
    """The exit statuses of children that make the calls beside one another."""
    sys.stdout.flush()
    return [status_of(child) for child in [start(call) for call in calls]]


def status_of(child: int) -> int:
    """Waits for a child's end."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def start(call: Callable[[], object]) -> int:
    """Starts a call in a child; the child's number."""
    child = os.fork()
    if child == 0:
        status = 1
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
        try:
            call()
            status = 0
        except SystemExit as stop:
            status = stop.code if isinstance(stop.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return child


def refused(call: Callable[[], object]) -> str:
    """What a child is told that makes a call while its parent holds the lock."""
    reader, writer = os.pipe()

    def try_it() -> None:
        try:
            call()
        except BlockingIOError as error:
            os.write(writer, str(error).encode())

    assert forked(try_it) == 0
    os.close(writer)
    with os.fdopen(reader) as told:
        return told.read()


def killed_at(call: Callable[[], object], at: int) -> bool:
    """Makes a call in a child that is killed at its operation on files number `at`; False where it has fewer."""

    def run() -> None:
        left = at

        def count(event: str, arguments: object) -> None:
            nonlocal left
            if event in OPERATIONS:
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), 9)

        sys.addaudithook(count)
        call()

    return forked(run) == -9


OPERATIONS = {"open", *(f"os.{name}" for name in "rename mkdir rmdir remove truncate utime chmod scandir".split())}


def operations(call: Callable[[], object]) -> int:
    """The number of operations on files of a call, which a child makes."""
    reader, writer = os.pipe()

    def run() -> None:
        found = 0

        def count(event: str, arguments: object) -> None:
            nonlocal found
            found += event in OPERATIONS

        sys.addaudithook(count)
        call()
        os.write(writer, str(found).encode())

    status = forked(run)
    os.close(writer)
    with os.fdopen(reader) as told:
        if status:
            raise ChildProcessError(f"the undisturbed run ended with status {status}")
        return int(told.read())
