"""Ends commands in order: one line for a mistake, for Ctrl-C and for SIGTERM, after cleaning up."""

import io
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

ERROR = 2  # exit status
_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
_sections = 0  # that must not be interrupted, of the main thread
_waiting: list[int] = []  # signals that came meanwhile


class Terminated(SystemExit):
    """Unwinds the process after SIGTERM or SIGHUP as Ctrl-C does; its exit status is 128 + the signal's number."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)


def end_while_loading() -> None:
    """Ends the process in one line at Ctrl-C until `orderly_termination`; for programs, before they import torch."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


def _end(number: int, frame: FrameType | None) -> None:
    os.write(2, b"interrupted\n")
    os._exit(128 + number)  # an exception may be lost in what is being imported, and there is nothing to clean up


@contextmanager
def orderly_termination() -> Iterator[None]:
    """Lets SIGTERM and SIGHUP raise `Terminated` where the program does nothing else about them."""
    if threading.current_thread() is not threading.main_thread():  # others cannot set handlers
        yield
        return
    owner = os.getpid()
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:  # a forked child has nothing to clean up
            os._exit(128 + number)
        if _sections:
            _waiting.append(number)
        else:
            _raise(number)

    usual = {number: signal.SIG_DFL for number in _SIGNALS} | {signal.SIGINT: signal.default_int_handler}
    taken = {number: handler for number, handler in usual.items() if signal.getsignal(number) is handler}
    for number in taken:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in taken.items():
            signal.signal(number, handler)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Lets Ctrl-C, SIGTERM and SIGHUP wait until the end of the `with` block, which begins or cleans up something."""
    global _sections
    if threading.current_thread() is not threading.main_thread():  # signals interrupt the main thread only
        yield
        return
    _sections += 1
    try:
        yield
    finally:
        _sections -= 1
        if _waiting and not _sections:
            number = _waiting[0]
            _waiting.clear()
            _raise(number)


def _raise(number: int) -> None:
    raise KeyboardInterrupt if number == signal.SIGINT else Terminated(number)


@contextmanager
def ends_in_one_line() -> Iterator[None]:
    """Ends the process with a line on stderr and status 2 for the user's mistakes, 130 after Ctrl-C, 143 after SIGTERM.

    Mistakes, and what disks do, are ValueError, OSError, ImportError and FloatingPointError. Names of files that the
    terminal has no characters for are shown with backslashes.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr is
    try:
        with orderly_termination():
            yield
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(ERROR)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except Terminated as stopped:
        print("terminated", file=sys.stderr)
        sys.exit(stopped.code)  # no longer Terminated: a command inside a command tells it once
