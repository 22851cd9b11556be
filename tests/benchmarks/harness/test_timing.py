"""How calls on a GPU are timed, with a GPU that is played."""

import pytest
import torch

from benchmarks.harness.timing import time_gpu, time_in_turns


class PlayedGpu:
    """Calls take the time that they say, at once."""

    def __init__(self) -> None:
        self.now, self.order, self.slept = 0.0, "", 0

    def call(self, name: str, milliseconds: float):
        def run() -> None:
            self.order += name
            self.now += milliseconds / 1e3

        return run

    def sleep(self, cycles: int) -> None:
        self.slept += 1
        self.now += 1.0  # between calls: no part of any


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> PlayedGpu:
    played = PlayedGpu()

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            self.at = played.now

        def elapsed_time(self, later: "Event") -> float:
            return (later.at - self.at) * 1e3

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "_sleep", played.sleep)
    monkeypatch.setattr("time.perf_counter", lambda: played.now)
    return played


def test_rivals_take_turns_and_each_uses_all_its_inputs(gpu: PlayedGpu) -> None:
    fast = [gpu.call("a", 1.0), gpu.call("A", 1.0)]
    found = time_in_turns([fast, [gpu.call("b", 4.0)]], budget=0.1)
    assert [timing.median_ms for timing in found] == pytest.approx([1.0, 4.0])
    order = gpu.order.removeprefix("aAa" + "bb")  # what warms up
    fast_turns, slow_turns = order.lower().count("a"), order.count("b")
    assert order.count("A") == fast_turns // 2 and gpu.slept == len(order)
    assert fast_turns > 2 * slow_turns >= 10
    halves = order[: len(order) // 2], order[len(order) // 2 :]
    assert abs(halves[0].count("b") - halves[1].count("b")) <= 1  # spread over the time, not one after the other


def test_the_host_is_part_of_a_step(gpu: PlayedGpu) -> None:
    assert time_gpu([gpu.call("a", 2.0)], 0.1, ahead=False).p90_ms == pytest.approx(2.0)
    assert gpu.slept == 0
