"""Starts worker processes that end with their parent and leave Ctrl-C to it."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import Pipe, get_context
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""Environment variables that set the number of threads of numeric libraries, read when these are loaded."""


@contextmanager
def single_threaded_children() -> Iterator[None]:
    """Starts child processes with one BLAS thread each, since idle threads spin and occupy cores."""
    before = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(dict.fromkeys(THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


class WorkerPool(ProcessPoolExecutor):
    """A pool of fresh processes that end at once when their parent dies, however it does, or leaves by an exception.

    Use as a context manager. Workers are spawned, as threads of MediaPipe and torch do not survive a fork. Ctrl-C
    reaches the parent alone.
    """

    def __init__(self, workers: int, initializer: Callable[[], object] | None = None) -> None:
        """Prepares `workers` processes, each of which calls `initializer` first."""
        alive, self._parent = Pipe(duplex=False)  # the kernel closes the parent's end with it
        super().__init__(workers, get_context("spawn"), _begin, (alive, initializer))

    def submit(
        self, fn: Callable[Arguments, Result], /, *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> Future[Result]:
        """Submits a call, for which a process may be started."""
        with _interrupts_blocked():
            return super().submit(fn, *args, **kwargs)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        manager: Any = self._executor_manager_thread
        # Cancels calls before workers end: the manager of Python 3.11 fails at a cancelled call whose worker is gone.
        self.shutdown(wait=kind is None, cancel_futures=True)
        self._parent.close()
        if manager is not None:
            manager.join()


def _begin(alive: Connection, initializer: Callable[[], object] | None) -> None:
    """Begins a worker: a thread of its own waits for the end of the parent."""
    threading.Thread(target=_end_with, args=(alive,), daemon=True).start()
    if initializer is not None:
        initializer()


def _end_with(alive: Any) -> None:
    alive.poll(None)  # nothing is ever sent: this is the end of the file
    os._exit(1)


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Blocks SIGINT, which child processes inherit: Ctrl-C would have each of them print where it was."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
