"""Two processes train as one does: whole runs, half of one continued, and a batch that cannot be shared."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import train as training
from fmlfast.losses import LossWeights
from fmlfast.training.step import Rates
from tests.helpers.small_model import SMALL
from tests.helpers.two_processes import launch, work

STEPS, HALF = 50, 25


def settings(run: Path, data: Path) -> training.Config:
    """A small run at about a thirtieth of the usual rates, with little weight on what jumps.

    At the usual ones training amplifies any rounding: there a change of the first weights by 1e-7 changes the losses
    of one process by up to 1e-3 within 50 steps, by way of BatchNorm over few subjects and of Adam where gradients are
    tiny. A vertex that turns visible or joins the silhouette a step earlier is a jump of 1e-5 in the loss.
    """
    return training.Config(
        run=run,
        data=data,
        model=replace(SMALL, visibility="backface", shape_init=False, light_fit=False, smooth_basis=False),
        loss=LossWeights(photometric=0.3, photometric_kind="charbonnier", jaw=0.0),
        rates=Rates(3e-5, 3e-4, 6e-5),
        steps=STEPS,
        batch=8,
        log_every=1,
        checkpoint_every=HALF,
        tensorboard=False,
        evaluate=False,
        device="cpu",
    )


def run_training(folder: Path) -> None:
    """In each process: a whole run, half of it continued from its checkpoint, and one as the command line says."""
    config = settings(folder / "two", folder / "data")
    save_state = training.save_state

    def keep(path: Path, model: nn.Module, optimizers: dict[str, torch.optim.Optimizer], step: int, *rest: Any) -> None:
        save_state(path, model, optimizers, step, *rest)
        if step == HALF:
            for name in ("resumed-by-one", "resumed-by-two"):
                shutil.copytree(config.run, folder / name)

    training.save_state = keep
    training.train(config)
    training.train(replace(config, run=folder / "resumed-by-two", resume=True))
    sys.argv = ["train.py", *sys.argv[2:]]
    training.main()


def metrics(run: Path) -> list[dict[str, float]]:
    """The loss and its terms in each step."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "frames_per_second"} for row in rows]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, synthetic_folder: Path) -> tuple[Path, str]:
    """Folder with the runs of `run_training`, and what its processes said last."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "data").symlink_to(synthetic_folder)
    done = launch(__file__, folder, "--preset=cpu", "--device=cpu", "--batch=3", "--run", folder / "none")
    assert (folder / "resumed-by-two" / "model.safetensors").exists(), done.stderr
    assert done.returncode != 0
    return folder, done.stderr


def test_two_processes_train_as_one_does(runs: tuple[Path, str], synthetic_folder: Path) -> None:
    folder, _ = runs
    training.train(settings(folder / "one", synthetic_folder))
    one, two = metrics(folder / "one"), metrics(folder / "two")
    assert [row["step"] for row in two] == list(range(1, STEPS + 1))
    first, last = ([row["landmarks"] for row in some] for some in (one[:10], one[-10:]))
    assert sum(last) < 0.98 * sum(first)
    for step, (expected, found) in enumerate(zip(one, two, strict=True), 1):
        rounding = max(1e-5, 2e-6 * step)  # sums in another order differ by bits, which training carries on
        assert found == pytest.approx(expected, rel=rounding, abs=rounding * expected["loss"])
        assert found["loss"] == pytest.approx(expected["loss"], rel=rounding)
    weights, others = (load_file(folder / name / "model.safetensors") for name in ("one", "two"))
    assert weights.keys() == others.keys()


def test_a_checkpoint_of_two_processes_continues_in_two_and_in_one(runs: tuple[Path, str]) -> None:
    folder, _ = runs
    unbroken = metrics(folder / "two")
    assert len(metrics(folder / "resumed-by-one")) == HALF
    assert metrics(folder / "resumed-by-two") == unbroken  # bit for bit
    training.train(replace(settings(folder / "resumed-by-one", folder / "data"), resume=True))
    for expected, found in zip(unbroken, metrics(folder / "resumed-by-one"), strict=True):
        assert found["step"] == expected["step"]
        assert found["loss"] == pytest.approx(expected["loss"], rel=1e-5)


def test_a_batch_that_cannot_be_shared_stops_all_with_a_clear_error(runs: tuple[Path, str]) -> None:
    assert not (runs[0] / "none").exists()
    assert "error: --batch 3 does not divide among 2 processes; choose a multiple" in runs[1]


if __name__ == "__main__":
    work(run_training)
