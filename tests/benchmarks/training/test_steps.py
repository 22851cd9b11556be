"""The training steps that are timed."""

from pathlib import Path

import pytest
import torch

from benchmarks.training import steps
from benchmarks.training.steps import EAGER, StepCase, step_cases, training_step
from fmlfast.model.fml import FML


def test_a_step_without_the_network_does_not_run_it(synthetic_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the network ran")

    cases = (StepCase("cpu", "torch", network) for network in (False, True))
    without, whole = (training_step(case, synthetic_folder, "cpu") for case in cases)
    monkeypatch.setattr("fmlfast.model.encoder.Encoder.forward", refuse)
    assert without()["photometric"] > 0
    with pytest.raises(AssertionError, match="the network ran"):
        whole()


def test_a_step_by_the_kernels_is_timed_with_and_without_graph(
    synthetic_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[str | None, bool]] = []

    def record(model: FML, *settings: object) -> None:
        made.append((model.backend, bool(settings[5])))

    monkeypatch.setattr(steps, "TrainingStep", record)
    monkeypatch.setattr(steps, "_batch", lambda *_: torch.zeros(1))
    monkeypatch.setattr(steps, "FML", lambda config: model)
    monkeypatch.setattr(steps.World, "start", lambda device: None)
    model = torch.nn.Linear(1, 1)
    model.encoder = torch.nn.Linear(1, 1)
    monkeypatch.setattr(model, "to", lambda device: model)
    monkeypatch.setattr(torch.Tensor, "to", lambda tensor, device: tensor)
    for provider in ("triton", EAGER, "torch"):
        training_step(StepCase("base", provider, True), synthetic_folder, "cuda")
    assert made == [("triton", True), ("triton", False), ("torch", False)]
    both = [case.provider for case in step_cases("cuda") if case.preset == "base"]
    assert both == ["triton", EAGER]
