"""The training loop end to end, on a handful of clips."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fmlfast.data.frames import Frames
from fmlfast.losses import LossWeights, objective
from fmlfast.model.fml import FML
from fmlfast.training import step
from fmlfast.training.checkpoint import load_state, save_state
from fmlfast.training.run_log import FiniteWatch
from fmlfast.training.step import Rates
from tests.helpers.small_model import SMALL
from tests.helpers.training_runs import short_run

sys.path.insert(0, str(Path(__file__).parents[2]))
import train as training


@pytest.fixture
def config(synthetic_folder: Path, tmp_path: Path) -> training.Config:
    return short_run(synthetic_folder, tmp_path / "run", 6)


def test_a_run_folder_holds_everything(config: training.Config) -> None:
    training.train(replace(config, evaluate=True, tensorboard=True))
    names = {p.relative_to(config.run).as_posix() for p in config.run.rglob("*")}
    assert {
        "config.json",
        "metrics.jsonl",
        "model.safetensors",
        "previews/step-000003.png",
        "previews/step-000006.png",
        "evaluation.json",
        "report.html",
    } <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    rows = [json.loads(line) for line in (config.run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert {"loss", "landmarks", "membrane", "frames_per_second"} <= rows[0].keys()
    evaluation = json.loads((config.run / "evaluation.json").read_text())
    for row in ("mean_face", "frames_1", "frames_4", "frames_4_refined"):
        values = [evaluation[row][k] for k in ("vertex_mm", "neutral_mm", "normal_deg", "landmark_nme", "photometric")]
        assert all(0 < v < 1000 for v in values)
    with pytest.raises(ValueError, match="already holds a run"):
        training.train(config)


def test_either_backend_trains_the_same(config: training.Config) -> None:
    runs = []
    for backend in ("torch", "triton"):
        run = config.run.with_name(backend)
        training.train(replace(config, run=run, backend=backend, steps=2, warmup=1, frames=2))
        runs.append((load_file(run / "model.safetensors"), (run / "metrics.jsonl").read_text().splitlines()))
    (weights, rows), (other_weights, other_rows) = runs
    start = FML(SMALL).state_dict()
    assert any(not torch.equal(weights[k], start[k]) for k in weights)
    for row, other in zip(rows, other_rows, strict=True):
        assert json.loads(other)["loss"] == pytest.approx(json.loads(row)["loss"], rel=1e-4)
    # Adam's first steps are as large for tiny gradients as for large ones, which differ in their last bits.
    moved = torch.cat([(weights[k] - other_weights[k]).abs().flatten() for k in weights if k.startswith("face.")])
    assert float((moved < 1e-5).float().mean()) > 0.9


def test_a_backend_that_cannot_run_stops_before_the_work(
    config: training.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ValueError, match="^backend 'triton' needs tensors on a GPU"):
        training.train(replace(config, backend="triton", data=config.data.with_name("none")))
    assert not config.data.with_name("none").exists() and not config.run.exists()


def test_resuming_continues_bit_for_bit(config: training.Config, monkeypatch: pytest.MonkeyPatch) -> None:
    training.train(config)
    whole = load_file(config.run / "model.safetensors")
    broken = replace(config, run=config.run.with_name("broken"))
    real = FiniteWatch.check

    def stop(self: FiniteWatch, step: int, *rest) -> None:
        if step == 4:
            raise KeyboardInterrupt
        real(self, step, *rest)

    monkeypatch.setattr(FiniteWatch, "check", stop)
    with pytest.raises(KeyboardInterrupt):
        training.train(broken)
    assert not (broken.run / "model.safetensors").exists()
    monkeypatch.undo()
    with pytest.raises(ValueError, match="already holds a run"):
        training.train(broken)
    training.train(replace(broken, resume=True))
    resumed = load_file(broken.run / "model.safetensors")
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[k], resumed[k]) for k in whole)
    rows = [json.loads(line) for line in (broken.run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]


def test_a_non_finite_loss_stops_and_keeps_the_batch(config: training.Config, monkeypatch: pytest.MonkeyPatch) -> None:
    real = step.objective

    def poisoned(*args):
        return {k: v * float("nan") for k, v in real(*args).items()}

    monkeypatch.setattr(step, "objective", poisoned)
    with pytest.raises(FloatingPointError, match="nonfinite-000000"):
        training.train(config)
    saved = load_file(config.run / "nonfinite-000000.safetensors")
    assert saved["images"].shape == (2, 4, 3, 64, 64) and saved["images"].dtype == torch.uint8
    assert saved["draws.noise"].shape == (2, 4, 68, 2)
    assert not (config.run / "model.safetensors").exists()


def test_training_learns(config: training.Config, frames: Frames) -> None:
    def photometric(model: FML) -> float:
        model.train()  # so few steps do not settle the running means of BatchNorm
        with torch.no_grad():
            return float(objective(model, frames, model.encode(frames), LossWeights())["photometric"].mean())

    torch.manual_seed(config.seed)
    start = FML(SMALL)
    plain = replace(config, rates=Rates(network=5e-3), augment=replace(config.augment, tint=0.0, mirror=False))
    faster = replace(plain, warmup=5, geometry_first=0.0, ramp=0.1)
    training.train(replace(faster, steps=60, log_every=10, checkpoint_every=100, preview_every=100))
    trained = FML.load(config.run)
    assert photometric(trained) < 0.9 * photometric(start)
    assert not torch.equal(trained.code_factor, start.code_factor)


def test_starting_from_another_run(config: training.Config) -> None:
    training.train(config)
    training.train(replace(config, run=config.run.with_name("second"), init=config.run, steps=1))
    with pytest.raises(ValueError, match=f"this model has --model.width {SMALL.width}; train with these settings"):
        training.train(
            replace(config, run=config.run.with_name("third"), init=config.run, model=replace(SMALL, width=16))
        )


def test_clips_of_another_template_are_refused_before_the_work(config: training.Config, tmp_path: Path) -> None:
    old = shutil.copytree(config.data, tmp_path / "old")
    meta = json.loads((old / "meta.json").read_text())
    (old / "meta.json").write_text(json.dumps(meta | {"template": "0123456789abcdef"}))
    with pytest.raises(ValueError, match="shows template 0123456789abcdef"):
        training.train(replace(config, data=old, evaluate=True))
    assert not config.run.exists()


def test_resuming_a_finished_run_changes_nothing(config: training.Config) -> None:
    training.train(config)
    before = (config.run / "model.safetensors").read_bytes()
    training.train(replace(config, resume=True))
    assert (config.run / "model.safetensors").read_bytes() == before
    stored = (config.run / "config.json").read_bytes()
    (config.run / "config.json").write_bytes(stored[:100])
    training.train(replace(config, resume=True))  # writes what is damaged anew
    assert (config.run / "model.safetensors").read_bytes() == before
    assert json.loads((config.run / "config.json").read_bytes())["model"] == json.loads(stored)["model"]


def test_resuming_with_other_settings_is_refused(config: training.Config) -> None:
    training.train(config)
    before = {p: p.read_bytes() for p in config.run.iterdir() if p.is_file()}
    other = replace(config, resume=True, loss=replace(config.loss, jaw=0.5))
    with pytest.raises(ValueError, match=r"made with loss\.jaw 1\.0, not 0\.5; resume"):
        training.train(other)
    with pytest.raises(ValueError, match="made with steps 6, not 7"):
        training.train(replace(config, resume=True, steps=7))
    assert {p: p.read_bytes() for p in config.run.iterdir() if p.is_file()} == before
    training.train(replace(config, resume=True, device="cpu", log_every=5))


def test_a_full_disk_costs_no_earlier_checkpoint(config: training.Config, monkeypatch: pytest.MonkeyPatch) -> None:
    training.train(config)
    before = {p: p.read_bytes() for p in config.run.glob("*.safetensors")}

    def full(tensors: dict, path: Path, metadata: dict | None = None) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fmlfast.common.tensor_file.save_file", full)
    model = FML(SMALL)
    with pytest.raises(OSError, match="No space"):
        save_state(config.run / "state.safetensors", model, {"adam": torch.optim.Adam(model.parameters())}, 9)
    with pytest.raises(OSError, match="No space"):
        model.save(config.run)
    assert {p: p.read_bytes() for p in config.run.glob("*.safetensors")} == before
    assert not [p for p in config.run.iterdir() if p.name.startswith(".")]


def test_a_head_of_ones_own_needs_clips_of_ones_own(config: training.Config, tmp_path: Path) -> None:
    own = replace(config, data=tmp_path / "absent", model=replace(SMALL, template="my_head"))
    with pytest.raises(ValueError, match="fmlfast prepare"):
        training.train(own)
    assert not own.data.exists()


def test_a_run_from_weights_needs_its_clips(config: training.Config) -> None:
    with pytest.raises(ValueError, match="absent does not exist; make it with fmlfast prepare, or start without"):
        training.train(replace(config, data=config.data.with_name("absent"), init=config.run))


def test_nothing_to_resume(config: training.Config) -> None:
    with pytest.raises(ValueError, match="no checkpoint yet"):
        training.train(replace(config, resume=True))
    model = FML(SMALL)
    path = config.run / "state.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match="cannot continue"):
        load_state(path, model, {"adam": torch.optim.Adam(model.parameters())})
    save_file({"optimizer.0.exp_avg": torch.zeros(1)}, path, metadata={"step": "3"})
    with pytest.raises(ValueError, match="cannot continue"):
        load_state(path, torch.nn.Module(), {"adam": torch.optim.Adam(model.parameters())})


def test_help_names_the_presets() -> None:
    script = Path(training.__file__)
    text = subprocess.run([sys.executable, script, "--preset", "paper", "--help"], capture_output=True, text=True)
    assert text.returncode == 0 and "cpu,base,paper" in text.stdout and "--model.identity-dim" in text.stdout
