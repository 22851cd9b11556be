"""The training steps that are timed."""

from pathlib import Path

import pytest

from benchmarks.training.steps import StepCase, training_step


def test_a_step_without_the_network_does_not_run_it(synthetic_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the network ran")

    cases = (StepCase("cpu", "torch", network) for network in (False, True))
    without, whole = (training_step(case, synthetic_folder, "cpu") for case in cases)
    monkeypatch.setattr("fmlfast.model.encoder.Encoder.forward", refuse)
    assert without()["photometric"] > 0
    with pytest.raises(AssertionError, match="the network ran"):
        whole()
