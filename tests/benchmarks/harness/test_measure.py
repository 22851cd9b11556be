"""What the suite refuses to time, how often it runs a provider, and what a row says."""

import time
from dataclasses import replace

import pytest
import torch

from benchmarks.harness import measure
from benchmarks.harness.case import Bench, Cost, Inputs, Outputs
from benchmarks.harness.measure import (
    COMPILE_SECONDS,
    Inspector,
    Job,
    LastInspector,
    convert,
    inspect,
    jobs,
    measure_gpu,
    timed,
)
from benchmarks.harness.providers import Difference, Provider, providers
from benchmarks.harness.rows import OUT_OF_TIME, Row
from benchmarks.harness.timing import Call, Deadline, Timing, cache_bytes, count_launches, summarize
from benchmarks.peers import all_peers
from fmlfast.kernels.blendshape import linear_decode
from fmlfast.kernels.common.backend import Backend


def make(device: str, seed: int) -> Inputs:
    g = torch.Generator().manual_seed(seed)
    shapes = {"codes": (3, 5), "basis": (5, 7), "mean": (7,)}
    return {name: torch.randn(shape, generator=g).to(device) for name, shape in shapes.items()}


def run(inputs: Inputs, backend: Backend | None) -> Outputs:
    return (linear_decode(inputs["codes"], inputs["basis"], inputs["mean"], backend),)


BENCH = Bench("linear_decode", "3 x 5 x 7", make, run, ("codes", "mean"), Cost(4e3, 2e3), Cost(8e3, 3e3))
TORCH = Provider("torch", lambda inputs: run(inputs, "torch"))
NEVER = Deadline(3600.0)


def row_of(provider: Provider, direction: str = "forward", bench: Bench = BENCH, deadline: Deadline = NEVER) -> Row:
    return inspect(Job(bench, provider, direction), LastInspector("cpu"), deadline)


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_a_right_provider_has_a_small_error_and_repeats(direction: str):
    row = row_of(TORCH, direction)
    assert row.note == "" and row.repeatable is True
    assert row.max_error is not None and 0 < row.max_error < 1e-6  # of float32 against float64
    assert row.bytes == (4e3 if direction == "forward" else 8e3)


def test_the_kernels_are_measured_where_they_run():
    found = providers(BENCH, "cpu", all_peers())
    assert [p.name for p in found][:3] == ["triton", "torch", "compile"]  # in the interpreter
    triton = found[0]
    assert row_of(triton, "forward").note == row_of(triton, "backward").note == ""


def test_a_wrong_result_is_refused():
    def wrong(inputs: Inputs) -> Outputs:
        return (run(inputs, "torch")[0] * 1.01,)

    row = row_of(Provider("fast", wrong))
    assert row.note.startswith("wrong: error") and row.median_ms is None
    assert row.max_error == pytest.approx(0.01, rel=1e-3)


def test_a_wrong_gradient_is_refused():
    def wrong(inputs: Inputs) -> Outputs:
        return run(inputs | {"codes": inputs["codes"].detach()}, "torch")

    provider = Provider("fast", wrong)
    assert row_of(provider, "forward").note == ""
    assert row_of(provider, "backward").note.startswith("wrong: error 1.0e+00")


def test_another_library_may_differ_by_as_much_as_it_says():
    def near(inputs: Inputs) -> Outputs:
        return (run(inputs, "torch")[0] * 1.01,)

    assert row_of(Provider("peer", near, differs=Difference("rounds", 0.02, 0.02))).note == ""
    job = Job(BENCH, Provider("peer", near, differs=Difference("rounds", 0.02, 0.02)), "forward")
    assert "rounds" in timed(job.row(), Timing(1.0, 1.0, 1.0), job, 1e9).note
    assert row_of(Provider("peer", near, differs=Difference("rounds", 0.002, 0.02))).note.startswith("wrong")


def test_a_provider_that_raises_is_a_row():
    def broken(_: Inputs) -> Outputs:
        raise RuntimeError("no such\nkernel /tmp/a.cpp Command: g++ -O3")

    assert row_of(Provider("broken", broken)).note == "failed: RuntimeError: no such kernel"


def test_inputs_that_do_not_fit_into_memory_are_a_row():
    def large(device: str, seed: int) -> Inputs:
        raise torch.OutOfMemoryError("tried to allocate 90 GiB")

    row = row_of(TORCH, bench=replace(BENCH, make=large))
    assert row.note == "failed: OutOfMemoryError: tried to allocate 90 GiB"


def test_a_missing_library_is_a_row_and_is_not_run():
    def never(_: Inputs) -> Outputs:
        raise AssertionError

    assert row_of(Provider("peer", never, "not installed")).note == "not installed"
    raster = replace(BENCH, op="rasterize")
    assert {"pytorch3d", "nvdiffrast", "drtk"} <= {p.name for p in providers(raster, "cpu", all_peers())}


def test_what_does_not_repeat_is_seen():
    calls: list[int] = []

    def noisy(inputs: Inputs) -> Outputs:
        calls.append(1)
        return (run(inputs, "torch")[0] + 1e-6 * len(calls),)

    assert row_of(Provider("noisy", noisy)).repeatable is False


def test_operations_that_change_their_inputs_are_checked_on_fresh_ones():
    def change(inputs: Inputs, _: Backend | None) -> Outputs:
        return (inputs["codes"].mul_(2),)

    bench = replace(BENCH, run=change, differentiable=())
    provider = Provider("torch", lambda inputs: change(inputs, "torch"))
    inspector = Inspector(bench, "cpu")
    assert inspector.check(Job(bench, provider, "forward")) == (0.0, True)
    assert torch.equal(inspector.inputs["codes"], make("cpu", 0)["codes"])


def test_calls_do_the_job_on_copies_that_do_not_fit_the_cache(monkeypatch: pytest.MonkeyPatch):
    inspector, seen = Inspector(BENCH, "cpu"), []

    def watched(inputs: Inputs) -> Outputs:
        seen.append(inputs["codes"].data_ptr())
        return run(inputs, "torch")

    size = sum(x.nbytes for x in inspector.inputs.values())
    monkeypatch.setattr("benchmarks.harness.measure.cache_bytes", lambda device: 2 * size)
    calls = inspector.calls(Job(BENCH, Provider("torch", watched), "forward"))
    for call in calls:
        call()
    assert len(calls) == 4 == len(set(seen))
    backward = inspector.calls(Job(BENCH, TORCH, "backward"))
    first, second = backward[0](), backward[0]()
    assert isinstance(first, tuple) and isinstance(second, tuple)
    assert [x.shape for x in first] == [(3, 5), (7,)] and torch.equal(first[0], second[0])


def test_only_floating_point_tensors_are_converted():
    found = convert({"a": [torch.ones(1), torch.ones(1, dtype=torch.int32)], "n": 3}, torch.Tensor.double)
    assert [x.dtype for x in found["a"]] == [torch.float64, torch.int32] and found["n"] == 3


def test_sizes_of_training_come_first_then_compilation_and_large_sweeps_last():
    cases = [
        replace(BENCH, sweep="vertices", forward=Cost(9e9, 1)),
        replace(BENCH, sweep="vertices", forward=Cost(1e3, 1)),
        replace(BENCH, shape="training"),
        replace(BENCH, shape="elsewhere", suites=frozenset({"gpu"})),
    ]
    found = jobs(cases, "cpu", all_peers())
    plain = [job for job in found if not job.bench.sweep]
    assert found[: len(plain)] == plain and {job.bench.shape for job in plain} == {"training"}
    assert [job.provider.name for job in plain][-2:] == ["compile", "compile"]
    assert found[-1].bench.forward.bytes == 9e9
    assert not any(job.provider.name == "compile" for job in found if job.bench.sweep)


def test_what_is_not_begun_in_time_is_left_out():
    assert row_of(TORCH, deadline=Deadline(0.0)).note == OUT_OF_TIME
    compiled = Provider("compile", TORCH.run)
    started = Deadline(100.0)
    started.start -= 70.0
    assert row_of(compiled, deadline=started).note == OUT_OF_TIME  # its share is over, and the others' is not
    assert row_of(TORCH, deadline=started).note == ""


def test_what_takes_too_long_is_stopped():
    with pytest.raises(TimeoutError, match="took more than"), NEVER.limit(0.05):
        time.sleep(5)
    with pytest.raises(TimeoutError, match="took more than"), NEVER.limit(0.05):  # a compiler's own error
        try:
            time.sleep(5)
        except TimeoutError as failure:
            raise RuntimeError("no kernel") from failure
    with pytest.raises(RuntimeError, match="no kernel"), NEVER.limit(5.0):
        raise RuntimeError("no kernel")


def test_a_provider_that_took_too_long_is_not_tried_again(monkeypatch: pytest.MonkeyPatch):
    calls: list[int] = []

    def slow(inputs: Inputs) -> Outputs:
        calls.append(1)
        time.sleep(5)
        return run(inputs, "torch")

    monkeypatch.setitem(COMPILE_SECONDS, "cpu", 0.05)
    inspector_of, provider = LastInspector("cpu"), Provider("compile", slow)
    rows = [inspect(Job(BENCH, provider, direction), inspector_of, NEVER) for direction in ("forward", "backward")]
    assert [row.note for row in rows] == ["not measured: took more than 0 s"] * 2
    assert len(calls) == 1


def test_a_time_becomes_bytes_and_operations_a_second():
    row = timed(Row("linear_decode", "forward", "torch", "s"), Timing(2.0, 1.0, 3.0), Job(BENCH, TORCH, "forward"), 1e7)
    assert (row.median_ms, row.p10_ms, row.p90_ms) == (2.0, 1.0, 3.0)
    assert row.copy_bandwidth_percent == pytest.approx(20.0)  # 4e3 bytes in 2 ms are 2e6 a second
    assert row.gflops == pytest.approx(1e-3)


def test_percentiles():
    timing = summarize([i / 1e3 for i in range(101)])
    assert [timing.p10_ms, timing.median_ms, timing.p90_ms] == pytest.approx([10, 50, 90])
    assert cache_bytes("cpu") >= 1 << 18


def test_rivals_on_a_gpu_are_timed_in_turns_and_one_that_fails_is_left_out(monkeypatch: pytest.MonkeyPatch):
    together: list[int] = []

    def time_in_turns(rivals: list[list[Call]], budget: float) -> list[Timing]:
        together.append(len(rivals))
        return [Timing(float(i + 1), 0.0, 9.0) for i in range(len(rivals))]

    def peak(call: Call) -> float:
        if call() == "too much":
            raise RuntimeError("out of memory")
        return 1.0

    monkeypatch.setattr(measure, "time_in_turns", time_in_turns)
    monkeypatch.setattr(measure, "count_launches", lambda call: (3, 0))
    monkeypatch.setattr(measure, "peak_mb", peak)
    monkeypatch.setattr(Inspector, "calls", lambda self, job: [lambda: "too much" if job.provider.name == "b" else ""])
    rivals = [Job(BENCH, replace(TORCH, name=name), "forward") for name in "abc"]
    rivals.append(Job(BENCH, Provider("d", TORCH.run, missing="not installed"), "forward"))
    rows = measure_gpu(rivals, LastInspector("cpu"), NEVER, 1e12, 0.01)
    assert [row.median_ms for row in rows] == [1.0, None, 2.0, None] and together == [2]
    notes = ["", "failed: RuntimeError: out of memory", "", "not installed"]
    assert [row.note for row in rows] == notes and rows[2].launches == 3


@pytest.mark.gpu
def test_a_row_of_a_gpu():
    provider = Provider("triton", lambda inputs: run(inputs, "triton"))
    inspector_of = LastInspector("cuda")
    for direction in ("forward", "backward"):
        (row,) = measure_gpu([Job(BENCH, provider, direction)], inspector_of, NEVER, 1e12, 0.01)
        assert row.note == "" and row.repeatable and row.host_syncs == 0
        assert row.median_ms is not None and row.launches is not None and row.launches >= 1


@pytest.mark.gpu
def test_waits_for_a_gpu_are_counted():
    x = torch.ones(8, device="cuda")
    assert count_launches(lambda: x + 1) == (1, 0)
    assert count_launches(lambda: (x + 1).sum().item())[1] == 1
