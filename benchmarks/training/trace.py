"""Divides a trace of torch's profiler among the stages of a training step, backward pass included."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

PREFIX = "fmlfast::"
"""What `record_function` ranges around a stage's forward code begin with."""
OTHER = "other"
"""Row of the work that belongs to no stage."""
IDLE = "idle"
"""Row of the time in which the GPU has nothing to do."""
_GPU_WORK = ("kernel", "gpu_memcpy", "gpu_memset")
_LAUNCHES = ("cuda_runtime", "cuda_driver")  # also on AMD


@dataclass(frozen=True)
class StageTime:
    """A row of the table."""

    stage: str
    """Such as "geometry" or "geometry, backward"."""
    microseconds: float
    """Time a step: of the GPU where there is one, of the training thread elsewhere."""
    share: float
    """Part of the step, 0 to 1."""
    floor: float | None
    """Microseconds that the stage needs at least, where that is known."""

    @property
    def ratio(self) -> float | None:
        """How many times its floor the stage takes."""
        return self.microseconds / self.floor if self.floor else None


def stage_times(
    events: list[dict[str, Any]],
    floors: Mapping[str, float],
) -> list[StageTime]:
    """Makes the table from the "traceEvents" of a Chrome trace of torch's profiler.

    Raises ValueError where the trace holds no profiled steps.
    """
    spans = [_Span.of(event) for event in events if event.get("ph") == "X"]
    marks = [span for span in spans if span.kind == "user_annotation" and span.name.startswith("ProfilerStep#")]
    if not marks:
        raise ValueError("the trace has no steps: profile at least one that does something")
    begin, end = min(span.start for span in marks), max(span.end for span in marks)
    timeline = _Timeline(spans, marks[0].thread)
    work = [span for span in spans if span.kind in _GPU_WORK and begin <= span.start]
    found: dict[str, float] = {}
    if work:
        end = max(end, *(span.end for span in work))
        known, rest = [], []
        for span in sorted(work, key=lambda span: span.start):
            stage = timeline.stage_of_launch(span)
            (rest if stage == OTHER else known).append(span)
            if stage != OTHER:
                found[stage] = found.get(stage, 0.0) + span.end - span.start
        covered = _length(known)
        busy = _length(known + rest)
        found[OTHER] = busy - covered  # copies of the next batch go on beside kernels
        found[IDLE] = end - begin - busy
    else:
        found = timeline.host_times(begin, end)
        found[OTHER] = found.pop(OTHER, 0.0)  # last
    total = sum(found.values())
    return [StageTime(s, t / len(marks), t / total, floors.get(s)) for s, t in found.items()]


@dataclass(frozen=True)
class _Span:
    """A range of the trace, in microseconds."""

    kind: str
    name: str
    start: float
    end: float
    thread: object
    args: Mapping[str, Any]

    @classmethod
    def of(cls, event: dict[str, Any]) -> "_Span":
        start = float(event["ts"])
        end = start + float(event["dur"])
        return cls(event.get("cat", ""), event["name"], start, end, event["tid"], event.get("args", {}))

    @property
    def sequence(self) -> int | None:
        """Number that a forward operation and its backward function share."""
        return self.args.get("Sequence number")

    @property
    def backward(self) -> bool:
        """Whether this belongs to the backward pass, which knows the thread of its forward operation."""
        return bool(self.args.get("Fwd thread id"))


class _Timeline:
    """Which stage the host is in, by thread and time."""

    def __init__(self, spans: list[_Span], thread: object) -> None:
        self.thread = thread
        """The one that trains and marks the stages."""
        self.nested: dict[object, list[_Span]] = {}
        for span in spans:
            if span.kind in ("cpu_op", "user_annotation", *_LAUNCHES):
                self.nested.setdefault(span.thread, []).append(span)
        self.forward: dict[int, str] = {}
        self.segments: dict[object, list[tuple[float, float, str]]] = {thread: self._label(thread, OTHER)}
        self.launches = {
            span.args["correlation"]: span for span in spans if span.kind in _LAUNCHES and "correlation" in span.args
        }

    def host_times(self, begin: float, end: float) -> dict[str, float]:
        """Sums the time of the training thread in each stage."""
        found: dict[str, float] = {}
        for start, stop, stage in self.segments[self.thread]:
            length = min(stop, end) - max(start, begin)
            if length > 0:
                found[stage] = found.get(stage, 0.0) + length
        return found

    def stage_of_launch(self, span: _Span) -> str:
        """Finds the stage in which a kernel or copy was launched."""
        launch = self.launches.get(span.args.get("correlation"))
        if launch is None:
            return OTHER
        if launch.thread not in self.segments:
            self.segments[launch.thread] = self._label(launch.thread, None)
        return self._at(launch.thread, launch.start)

    def _label(self, thread: object, outside: str | None) -> list[tuple[float, float, str]]:
        """Cuts the thread's time into pieces with a stage each.

        A piece belongs to what was begun last. A mark begins a stage; a backward function is in that of its forward
        operation; everything else stays where it is. Backward functions without a forward operation, such as those
        that collect gradients, and all that another thread does around them are where the training thread is then.
        """
        pieces: list[tuple[float, float, str]] = []
        stack: list[tuple[float, str]] = []  # end and stage of what is open
        now = float("-inf")

        def advance(until: float) -> None:
            nonlocal now
            while stack and stack[-1][0] <= until:
                close(stack[-1][0])
                stack.pop()
            close(until)

        def close(until: float) -> None:
            nonlocal now
            if stack and until > now:
                pieces.append((now, until, stack[-1][1]))
            now = max(now, until)

        for span in sorted(self.nested.get(thread, ()), key=lambda span: (span.start, -span.end)):
            advance(span.start)
            if stack:
                stage = stack[-1][1]
            elif outside is not None:
                stage = outside
            else:
                stage = self._at(self.thread, span.start) if _of_backward(span) else OTHER
            if span.kind == "user_annotation" and span.name.startswith(PREFIX):
                stage = span.name.removeprefix(PREFIX)
            elif span.sequence is not None:
                if not span.backward:
                    if thread == self.thread:
                        self.forward[span.sequence] = stage  # the last that begins with a number has made the function
                elif span.sequence in self.forward:
                    source = self.forward[span.sequence]
                    stage = source if source == OTHER else f"{source}, backward"
            stack.append((min(span.end, stack[-1][0]) if stack else span.end, stage))
        advance(float("inf"))
        return pieces

    def _at(self, thread: object, time: float) -> str:
        pieces = self.segments[thread]
        low, high = 0, len(pieces)
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if pieces[middle][1] <= time else (low, middle)
        return pieces[low][2] if low < len(pieces) and pieces[low][0] <= time else OTHER


def _of_backward(span: _Span) -> bool:
    return span.backward or span.name.startswith("autograd::engine::")


def _length(spans: list[_Span]) -> float:
    """Sums the time covered by the spans, what overlaps counted once."""
    total, reached = 0.0, float("-inf")
    for span in sorted(spans, key=lambda span: span.start):
        total += max(0.0, span.end - max(span.start, reached))
        reached = max(reached, span.end)
    return total
