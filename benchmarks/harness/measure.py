"""Checks a provider's results against float64, then makes the calls that are timed."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, is_dataclass, replace
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness.case import Bench, Inputs, Outputs
from benchmarks.harness.providers import Provider, distance, providers
from benchmarks.harness.rows import OUT_OF_TIME, Row
from benchmarks.harness.timing import Call, Deadline, Timing, cache_bytes, count_launches, peak_mb, time_in_turns

DIRECTIONS = ("forward", "backward")
COMPILE_SHARE = 0.6  # of a run's time, after which nothing more is compiled, so that the sweeps get their turn
CHECK_SECONDS = 100.0
COMPILE_SECONDS = {"cpu": 20.0, "cuda": 60.0}  # for one operation, of what depends on data it compiles many versions
MOST_SETS = 64  # of inputs that are used in turn


@dataclass(frozen=True)
class Job:
    """One row to be: an operation at one size, in one direction, by one provider."""

    bench: Bench
    provider: Provider
    direction: str

    @property
    def name(self) -> str:
        """For people and for a comparison with an earlier run."""
        size = self.bench.shape + (f"; {self.bench.sweep}" if self.bench.sweep else "")
        return f"{self.bench.op}({size})-{self.direction}-{self.provider.name}"

    def row(self, note: str = "") -> Row:
        """What is known before measuring."""
        bench = self.bench
        cost = bench.forward if self.direction == "forward" else bench.backward
        return Row(
            bench.op,
            self.direction,
            self.provider.name,
            bench.shape,
            bench.sweep,
            float(bench.x),
            bench.dtype,
            bytes=None if cost is None else float(cost.bytes),
            elements=float(bench.elements) or None,
            element=bench.element,
            note=note,
        )


def jobs(cases: Sequence[Bench], device: str, libraries: Sequence[ModuleType]) -> list[Job]:
    """Lists what to measure, the sizes of training first and the largest of the sweeps last."""
    suite = "cpu" if device == "cpu" else "gpu"
    chosen = [case for case in cases if suite in case.suites]
    chosen.sort(key=lambda case: (case.sweep != "", case.forward.bytes if case.sweep else 0.0))  # stable
    found = [
        Job(case, provider, direction)
        for case in chosen
        for provider in providers(case, device, libraries)
        for direction in DIRECTIONS[: 2 if case.differentiable and provider.gradients else 1]
    ]
    return sorted(found, key=lambda job: (job.bench.sweep != "", job.provider.name == "compile"))


def convert(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Applies `function` to every floating-point tensor of the inputs, also inside dataclasses and containers."""
    if isinstance(value, Tensor):
        return function(value) if value.is_floating_point() else value
    if isinstance(value, dict):
        return {name: convert(item, function) for name, item in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(convert(item, function) for item in value)
    if is_dataclass(value) and not isinstance(value, type):
        changed = {name: convert(item, function) for name, item in vars(value).items() if isinstance(item, Tensor)}
        return replace(value, **changed)
    return value


def leaves(bench: Bench, inputs: Inputs) -> Inputs:
    """Makes fresh leaves of the inputs that have gradients."""
    return inputs | {name: inputs[name].detach().clone().requires_grad_() for name in bench.differentiable}


def upstream(outputs: Outputs) -> dict[int, Tensor]:
    """Draws a fixed random gradient for each output that can have one, finite output or not."""
    generator = torch.Generator().manual_seed(7)
    drawn = [torch.randn(out.shape, generator=generator) if out.requires_grad else None for out in outputs]
    return {i: x.to(outputs[i]) for i, x in enumerate(drawn) if x is not None}


def gradients(outputs: Outputs, inputs: Inputs, bench: Bench, given: dict[int, Tensor]) -> Outputs:
    """Computes gradients of `bench.differentiable` from upstream ones `given` by output; zeros where there is none."""
    wanted = [inputs[name] for name in bench.differentiable]
    pairs = [(outputs[i], gradient) for i, gradient in given.items()]
    found = torch.autograd.grad(
        [out for out, _ in pairs], wanted, [gradient for _, gradient in pairs], retain_graph=True, allow_unused=True
    )
    return tuple(torch.zeros_like(x) if g is None else g for x, g in zip(wanted, found, strict=True))


class Inspector:
    """One case's inputs and what float64 makes of them, kept as long as its jobs last."""

    def __init__(self, bench: Bench, device: str) -> None:
        self.bench, self.device = bench, device
        self.inputs = bench.make(device, 0)
        self.late: dict[str, str] = {}  # what to say of a provider that took too long
        self._truth: dict[tuple[str, int], Outputs] = {}

    def check(self, job: Job) -> tuple[float, bool]:
        """Returns a provider's largest error on these inputs, and whether two runs give the same bits."""
        found, outputs = self._results(job.provider.run, self.inputs, job.direction)
        again, _ = self._results(job.provider.run, self.inputs, job.direction)
        same = all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(found, again, strict=True))
        compare = self.bench.error if job.provider.differs is None else distance
        return compare(found, self._expected(job.direction, outputs)), same

    def _expected(self, direction: str, outputs: int) -> Outputs:
        """In float64, from the first `outputs` results: another library may leave out what the last ones say."""
        key = direction, outputs
        if key not in self._truth:
            reference = self.bench.reference or (lambda inputs: self.bench.run(inputs, "torch"))
            doubles = convert(self.inputs, Tensor.double)
            self._truth[key], _ = self._results(lambda inputs: reference(inputs)[:outputs], doubles, direction)
        return self._truth[key]

    def _results(self, run: Callable[[Inputs], Outputs], inputs: Inputs, direction: str) -> tuple[Outputs, int]:
        """Results or gradients, and how many results there are."""
        inputs = leaves(self.bench, convert(inputs, torch.clone))  # some operations change their inputs
        outputs = run(inputs)
        if direction == "forward":
            return tuple(out.detach() for out in outputs), len(outputs)
        return gradients(outputs, inputs, self.bench, upstream(outputs)), len(outputs)

    def calls(self, job: Job) -> list[Call]:
        """Makes calls of the job on copies of the inputs that together exceed the cache; indices are shared."""
        sizes: list[int] = []

        def size(tensor: Tensor) -> Tensor:
            sizes.append(tensor.nbytes)
            return tensor

        convert(self.inputs, size)
        copies = math.ceil(2 * cache_bytes(self.device) / max(sum(sizes), 1))
        sets = [convert(self.inputs, torch.clone) for _ in range(min(max(copies, 2), MOST_SETS))]
        return [self._call(job, leaves(self.bench, one)) for one in sets]

    def _call(self, job: Job, inputs: Inputs) -> Call:
        if job.direction == "forward":  # as in training, with what the backward pass will need
            return lambda: job.provider.run(inputs)
        outputs = job.provider.run(inputs)
        given = upstream(outputs)
        return lambda: gradients(outputs, inputs, self.bench, given)


def failed(failure: Exception) -> str:
    """Writes the note of a row whose provider raised, without this machine's paths."""
    text = re.sub(r"\S*/\S*", "", str(failure).partition("Command:")[0])
    return f"failed: {type(failure).__name__}: {' '.join(text.split())[:160]}"


class LastInspector:
    """Keeps the inspector of the last case only, and lets go of it before the next one takes its memory."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.last: Inspector | None = None

    def __call__(self, bench: Bench) -> Inspector:
        if self.last is None or self.last.bench is not bench:
            self.last = None
            self.last = Inspector(bench, self.device)
        return self.last


def inspect(job: Job, inspector_of: Callable[[Bench], Inspector], deadline: Deadline) -> Row:
    """Checks a job and returns its row, not timed yet. Its note is empty only where the results are right."""
    if job.provider.missing:
        return job.row(job.provider.missing)
    compiles = job.provider.name == "compile"
    if deadline.passed(COMPILE_SHARE if compiles else 1.0):
        return job.row(OUT_OF_TIME)
    try:
        inspector = inspector_of(job.bench)
    except Exception as failure:  # such as too little memory
        return job.row(failed(failure))
    try:
        if job.provider.name in inspector.late:
            return job.row(inspector.late[job.provider.name])
        with deadline.limit(COMPILE_SECONDS[inspector.device] if compiles else CHECK_SECONDS):
            error, same = inspector.check(job)
    except TimeoutError as failure:
        inspector.late[job.provider.name] = f"not measured: {failure}"
        return job.row(inspector.late[job.provider.name])
    except Exception as failure:  # of another library too: one row must not end the run
        return job.row(failed(failure))
    row = replace(job.row(), max_error=error, repeatable=same)
    differs = job.provider.differs
    allowed = job.bench.tolerance[job.direction] if differs is None else getattr(differs, job.direction)
    return row if error <= allowed else replace(row, note=f"wrong: error {error:.1e}, {allowed:.0e} is allowed")


def prepare(job: Job, inspector_of: Callable[[Bench], Inspector], deadline: Deadline) -> tuple[Row, list[Call]]:
    """Checks a job; returns its row and the calls to time, none where the row's note says why."""
    row = inspect(job, inspector_of, deadline)
    if row.note:
        return row, []
    try:
        return row, inspector_of(job.bench).calls(job)
    except Exception as failure:
        return replace(row, note=failed(failure)), []


def timed(row: Row, timing: Timing, job: Job, bandwidth: float) -> Row:
    """Adds times to a row, and what they mean in bytes and operations a second."""
    bench, differs = job.bench, job.provider.differs
    cost = bench.forward if row.direction == "forward" else bench.backward
    row = replace(row, **vars(timing), note="" if differs is None else f"error is a mean square's: {differs.why}")
    if cost is None:
        return row
    seconds = timing.median_ms / 1e3
    percent = 100 * cost.bytes / seconds / bandwidth
    return replace(row, copy_bandwidth_percent=percent, gflops=cost.flops / seconds / 1e9)


def measure_gpu(
    rivals: Sequence[Job],
    inspector_of: Callable[[Bench], Inspector],
    deadline: Deadline,
    bandwidth: float,
    budget: float,
) -> list[Row]:
    """Checks jobs of one operation, size and direction, and times them on a GPU in turns, `budget` seconds each."""
    rows, ready = {}, {}
    for job in rivals:
        row, calls = prepare(job, inspector_of, deadline)
        if not row.note:
            try:
                launches, waits = count_launches(calls[0])
                row = replace(row, launches=float(launches), host_syncs=float(waits), peak_mb=peak_mb(calls[0]))
                ready[job.provider.name] = calls
            except Exception as failure:  # such as too little memory
                row = replace(row, note=failed(failure))
        rows[job.provider.name] = row
    try:
        timings = dict(zip(ready, time_in_turns(list(ready.values()), budget), strict=True))
    except Exception as failure:
        return [replace(row, note=failed(failure)) if name in ready else row for name, row in rows.items()]
    jobs_of = {job.provider.name: job for job in rivals}
    return [timed(row, timings[n], jobs_of[n], bandwidth) if n in timings else row for n, row in rows.items()]
