"""Runs stages of a stream beside one another: work that leaves Python's lock gains from threads.

Close the iterators, also after errors (`contextlib.closing`): one that is collected as garbage waits for its threads in
whichever thread happens to collect it.
"""

import os
import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")

_MOST_WORKERS = 8
_DEPTH = 8  # items that a stage is ahead at most: bounds the memory


def ahead(items: Iterable[Item], depth: int = _DEPTH) -> Generator[Item, None, None]:
    """Iterates over `items` in a thread of its own, at most `depth` ahead; its errors are raised here."""
    ready: queue.Queue[tuple[bool, Item | BaseException | None]] = queue.Queue(depth)
    stopped = threading.Event()

    def put(last: bool, value: Item | BaseException | None) -> None:
        while not stopped.is_set():
            try:
                return ready.put((last, value), timeout=0.1)
            except queue.Full:
                continue

    def work() -> None:
        try:
            for item in items:
                put(False, item)
                if stopped.is_set():
                    return
            put(True, None)
        except BaseException as error:
            put(True, error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while True:
            last, value = ready.get()
            if not last:
                yield value  # pyright: ignore[reportReturnType]
            elif isinstance(value, BaseException):
                raise value
            else:
                return
    finally:
        stopped.set()
        thread.join()


def mapped(function: Callable[[Item], Result], items: Iterable[Item]) -> Generator[Result, None, None]:
    """Applies `function` to `items` by threads; results come in order, at most a few ahead."""
    workers = max(1, min(_MOST_WORKERS, os.cpu_count() or 1))
    with ThreadPoolExecutor(workers) as pool:
        waiting = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > workers + 2:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


@contextmanager
def single_threads() -> Iterator[None]:
    """Lets each operation of torch use one thread, where threads of ours work beside one another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
