"""Times calls, counts what they launch and hold, and measures how fast memory is copied."""

import itertools
import math
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

Call = Callable[[], object]
SPIN_CYCLES_PER_SECOND = 2e9
"""About a GPU's clock: how long its idle loop is asked to last."""


@dataclass(frozen=True)
class Timing:
    """Median and tenth and ninetieth percentile of a call's time, ms."""

    median_ms: float
    p10_ms: float
    p90_ms: float


def summarize(seconds: Sequence[float]) -> Timing:
    """Returns percentiles of measured times."""
    ordered = torch.tensor(seconds, dtype=torch.float64) * 1e3
    low, middle, high = torch.quantile(ordered, torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)).tolist()
    return Timing(middle, low, high)


def cache_bytes(device: str) -> int:
    """Returns the size of the last cache before memory: a GPU's L2, a CPU's L3; 32 MiB where a CPU does not say."""
    if torch.device(device).type != "cpu":
        return torch.cuda.get_device_properties(device).L2_cache_size
    sizes = [path.read_text().strip() for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")]
    return max((int(size.removesuffix("K")) << 10 for size in sizes if size.endswith("K")), default=32 << 20)


def copy_bandwidth(device: str) -> float:
    """Measures the bytes a second, read and written together, of copying memory that no cache holds."""
    source = torch.ones(1 << (28 if device != "cpu" else 26), device=device)  # 1 GiB; 256 MiB
    target = torch.empty_like(source)

    def copy() -> None:
        target.copy_(source)

    median = time_cpu(copy, 10) if device == "cpu" else time_gpu([copy], 0.3)
    return 2 * source.nbytes / (median.median_ms / 1e3)


def time_cpu(call: Call, rounds: int) -> Timing:
    """Times `rounds` calls by the wall clock, after one that is not counted."""
    call()
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return summarize(seconds)


def time_gpu(calls: Sequence[Call], budget: float, ahead: bool = True) -> Timing:
    """Times calls that do the same as `time_in_turns` does, on their own."""
    return time_in_turns([calls], budget, ahead)[0]


def time_in_turns(rivals: Sequence[Sequence[Call]], budget: float, ahead: bool = True) -> list[Timing]:
    """Times calls between two events each, for about `budget` seconds a rival.

    The calls of a rival do the same on inputs that together do not fit the cache, and are used in turn. Those of all
    rivals are spread evenly over the time, so that a clock that changes does so for everyone. With `ahead` the GPU
    idles before each call for as long as the host needs to start it, so that the time is the GPU's and not the host's,
    as in a CUDA graph; a call that waits for the GPU, or starts more than fits into its queue, pays for that.
    """
    spins = [_warm_up(calls, budget, ahead) for calls in rivals]
    turns = sorted(((k + 0.5) / rounds, rival) for rival, (_, rounds) in enumerate(spins) for k in range(rounds))
    cycles = [itertools.cycle(calls) for calls in rivals]
    events: list[list[tuple[torch.cuda.Event, torch.cuda.Event]]] = [[] for _ in rivals]
    for _, rival in turns:
        before, after = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        call = next(cycles[rival])
        if spins[rival][0]:
            torch.cuda._sleep(spins[rival][0])
        before.record()
        call()
        after.record()
        events[rival].append((before, after))
    torch.cuda.synchronize()
    return [summarize([before.elapsed_time(after) / 1e3 for before, after in pairs]) for pairs in events]


def _warm_up(calls: Sequence[Call], budget: float, ahead: bool) -> tuple[int, int]:
    """Runs every call once; returns for how many cycles the GPU is to idle before one, and how many are timed."""
    for call in calls:  # compiles, tunes, and remembers what is derived from a mesh
        call()
    torch.cuda.synchronize()
    start = time.perf_counter()
    calls[0]()
    host = time.perf_counter() - start
    torch.cuda.synchronize()
    each = time.perf_counter() - start
    spin = int(min(1.2 * host + 20e-6, 0.01) * SPIN_CYCLES_PER_SECOND) if ahead else 0
    return spin, max(5, min(200, math.ceil(budget / (each + spin / SPIN_CYCLES_PER_SECOND))))


def count_launches(call: Call) -> tuple[int, int]:
    """Counts the kernels, copies, fills and graphs that a call starts, and how often the host waits."""
    from torch.profiler import ProfilerActivity, profile

    def names(traced: Call) -> list[str]:
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as record:
            traced()
        return [event.name for event in record.events() or ()]

    def count(found: list[str], parts: tuple[str, ...]) -> int:
        return sum(name.startswith(("cuda", "cu", "hip")) and any(part in name for part in parts) for name in found)

    launches, waits = ("LaunchKernel", "MemcpyAsync", "MemsetAsync", "GraphLaunch"), ("Synchronize",)
    names(call)  # the first profile starts the profiler itself
    found, idle = names(call), names(lambda: None)
    return count(found, launches) - count(idle, launches), count(found, waits) - count(idle, waits)


def peak_mb(call: Call) -> float:
    """Measures the most GPU memory a call takes beyond what was taken before, 10^6 bytes."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 1e6


class Deadline:
    """A run's end: what is not begun by then is left out, and said to be."""

    def __init__(self, seconds: float) -> None:
        self.start, self.seconds = time.monotonic(), seconds

    def passed(self, share: float = 1.0) -> bool:
        """Whether that share of the time is over."""
        return time.monotonic() - self.start >= share * self.seconds

    @contextmanager
    def limit(self, most: float) -> Iterator[None]:
        """Raises TimeoutError inside when it takes longer than `most` seconds, or than what is left and a little."""

        seconds = min(most, max(self.start + self.seconds - time.monotonic(), 0.0) + 10.0)
        message, late = f"took more than {seconds:.0f} s", []

        def stop(*_: object) -> None:
            late.append(True)
            raise TimeoutError(message)

        before = signal.signal(signal.SIGALRM, stop)
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            yield
        except Exception as failure:
            if late:  # a compiler makes an error of its own of it
                raise TimeoutError(message) from failure
            raise
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0.0)
            signal.signal(signal.SIGALRM, before)
        if late:  # or none at all
            raise TimeoutError(message)
