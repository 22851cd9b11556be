"""The table of stages: exact on traces written by hand, and against a stopwatch on a real training step."""

import csv
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.profiler import record_function

from benchmarks.training.profile_step import Options, profile_steps, profile_training
from benchmarks.training.trace import stage_times
from fmlfast.data.frames import Frames
from fmlfast.losses import LossWeights, objective
from fmlfast.model.fml import FML
from tests.helpers.small_model import SMALL
from train import PRESETS, Config


def span(kind: str, name: str, start: float, end: float, thread: int = 1, **args: object) -> dict[str, Any]:
    return {"ph": "X", "cat": kind, "name": name, "ts": start, "dur": end - start, "tid": thread, "args": args}


def op(name: str, start: float, end: float, number: int | None = None, backward: bool = False, thread: int = 1):
    args = {} if number is None else {"Sequence number": number, "Fwd thread id": int(backward)}
    return span("cpu_op", name, start, end, thread, **args)


def mark(stage: str, start: float, end: float) -> dict[str, Any]:
    return span("user_annotation", f"fmlfast::{stage}", start, end)


FORWARD = [
    span("user_annotation", "ProfilerStep#1", 0, 100),
    mark("encode", 5, 20),
    op("aten::linear", 8, 18, 3),
    op("aten::addmm", 9, 17, 3),
    op("aten::zeros_like", 18, 19, 4),  # has no backward function: number 4 is that of what comes next
    mark("geometry", 20, 40),
    op("deform", 21, 39, 4),
    mark("visibility", 25, 30),  # a stage in a stage
    op("aten::lt", 26, 29),
    op("loss", 40, 42, 5),  # in no stage
]
BACKWARD = [
    mark("gradients", 45, 90),
    op("autograd::engine::evaluate_function: LossBackward", 46, 48, 5, True),
    op("autograd::engine::evaluate_function: DeformBackward", 50, 70, 4, True),
    op("DeformBackward", 51, 69, 4, True),
    op("aten::sum", 60, 65),
    op("autograd::engine::evaluate_function: AddmmBackward0", 70, 85, 3, True),
    op("autograd::engine::evaluate_function: torch::autograd::AccumulateGrad", 85, 88),
]


def test_host_time_is_cut_into_stages():
    rows = stage_times([*FORWARD, *BACKWARD], {"encode": 5.0, "geometry, backward": 10.0})
    assert [(row.stage, row.microseconds) for row in rows] == [
        ("encode", 15),
        ("geometry", 15),
        ("visibility", 5),
        ("gradients", 45 - 2 - 20 - 15),
        ("geometry, backward", 20),
        ("encode, backward", 15),
        ("other", 5 + 5 + 2 + 10),
    ]
    assert sum(row.share for row in rows) == pytest.approx(1)
    assert [row.ratio for row in rows] == [3.0, None, None, None, 2.0, None, None]


def test_time_is_of_one_step():
    second = [{**event, "ts": event["ts"] + 100} for event in FORWARD]
    second[0]["name"] = "ProfilerStep#2"
    rows = {row.stage: row.microseconds for row in stage_times([*FORWARD, *BACKWARD, *second], {})}
    assert rows["encode"] == 15 and rows["geometry, backward"] == 10 and sum(rows.values()) == 100


def test_time_of_a_gpu_goes_to_the_stage_of_the_launch():
    def launch(kind: str, at: float, begin: float, end: float, number: int, thread: int = 1) -> list[dict[str, Any]]:
        runtime = span("cuda_runtime", "cudaLaunchKernel", at, at + 0.5, thread, correlation=number)
        return [runtime, span(kind, f"kernel {number}", begin, end, 7, correlation=number)]

    engine = 2  # backward functions run in a thread of their own
    backward = [{**event, "tid": engine} for event in BACKWARD[1:]]
    events = [
        *FORWARD,
        BACKWARD[0],
        *backward,
        *launch("kernel", 10, 12, 22, 1),
        *launch("kernel", 27, 30, 34, 2),
        *launch("kernel", 35, 34, 54, 3),
        *launch("kernel", 61, 62, 82, 4, engine),
        *launch("kernel", 80, 82, 92, 5, engine),
        *launch("kernel", 86, 92, 93, 6, engine),  # collects a gradient
        *launch("gpu_memcpy", 20, 40, 58, 7, thread=3),  # the next batch, from another thread
        *launch("gpu_memset", 43, 104, 106, 8),  # after the last step's range, in no stage
        span("gpu_user_annotation", "fmlfast::encode", 0, 200, 7),
    ]
    rows = {row.stage: row.microseconds for row in stage_times(events, {})}
    busy = 10 + 24 + 31 + 2 + 4  # 54 to 58 is the copy alone
    assert rows == {
        "encode": 10,
        "visibility": 4,
        "geometry": 20,
        "geometry, backward": 20,
        "encode, backward": 10,
        "gradients": 1,
        "other": 4 + 2,
        "idle": 106 - busy,
    }


def test_real_step_agrees_with_a_stopwatch(model: FML, frames: Frames, tmp_path: Path):
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), 1e-4)
    watch: list[dict[str, float]] = []

    def step() -> None:
        took: dict[str, float] = defaultdict(float)

        def tick(stage: str, since: float) -> float:
            now = time.perf_counter()
            took[stage] += (now - since) * 1e6
            return now

        now = time.perf_counter()
        with record_function("fmlfast::encode"):
            codes = model.encode(frames)
        now = tick("encode", now)
        with record_function("fmlfast::losses"):  # holds stages of its own
            terms = objective(model, frames, codes, LossWeights())
        now = tick("losses", now)
        with record_function("fmlfast::gradients"):
            optimizer.zero_grad()
            torch.stack([term.mean() for term in terms.values()]).sum().backward()
        now = tick("backward", now)
        with record_function("fmlfast::optimiser"):
            optimizer.step()
        tick("optimiser", now)
        watch.append(took)

    rows = profile_steps(step, 3, tmp_path, {"encode": 1.0})
    found = {row.stage: row.microseconds for row in rows}
    mean = {stage: sum(took[stage] for took in watch[-3:]) / 3 for stage in watch[0]}
    assert found["encode"] == pytest.approx(mean["encode"], rel=0.2)
    assert found["optimiser"] == pytest.approx(mean["optimiser"], rel=0.2)
    backward = found["gradients"] + sum(time for stage, time in found.items() if stage.endswith(", backward"))
    assert backward == pytest.approx(mean["backward"], rel=0.2)
    assert found["encode, backward"] > 0
    assert sum(found.values()) == pytest.approx(sum(mean.values()), rel=0.2)
    assert sum(row.share for row in rows) == pytest.approx(1)
    with (tmp_path / "stages.csv").open(newline="") as file:
        written = list(csv.DictReader(file))
    assert [(row["stage"], float(row["microseconds"])) for row in written] == list(found.items())
    text = (tmp_path / "stages.md").read_text()
    assert f"| encode | {found['encode']:,.0f} |" in text and "the CPU" in text
    assert (tmp_path / "trace.json").stat().st_size > 10_000
    profile_steps(step, 1, tmp_path)  # a second time into the same folder
    assert (tmp_path / "stages.md").read_text() != text


@pytest.mark.gpu
def test_real_step_on_a_gpu(tmp_path: Path):
    weight = torch.randn(1024, 1024, device="cuda", requires_grad=True)
    x = torch.randn(4096, 1024, device="cuda")

    def step() -> None:
        with record_function("fmlfast::encode"):
            y = (x @ weight).tanh()
        with record_function("fmlfast::gradients"):
            weight.grad = None
            y.sum().backward()
        with record_function("fmlfast::optimiser"), torch.no_grad():
            weight.mul_(0.999)

    found = {row.stage: row.microseconds for row in profile_steps(step, 5, tmp_path)}
    assert set(found) >= {"encode", "encode, backward", "optimiser", "other", "idle"}
    assert min(found["encode"], found["encode, backward"], found["optimiser"]) > 0
    assert found["other"] < 0.1 * (found["encode"] + found["encode, backward"])


def test_profiling_writes_a_table_of_stages_and_trains_nothing(synthetic_folder: Path, tmp_path: Path) -> None:
    config = Config(run=tmp_path / "run", data=synthetic_folder, model=SMALL, batch=2, evaluate=False, device="cpu")
    table = profile_training(config, 2).read_text()
    for stage in ("augment", "encode", "geometry", "photometric", "photometric, backward", "optimiser"):
        assert f"{stage} " in table, stage
    names = {path.relative_to(config.run).as_posix() for path in config.run.rglob("*")}
    assert names == {"profile", *(f"profile/{name}" for name in ("stages.md", "stages.csv", "trace.json"))}


def test_the_command_line_names_preset_run_and_data() -> None:
    config = Options("cpu", Path("runs/mine"), data=Path("clips"), device="cpu").config
    assert (config.run, config.data, config.device) == (Path("runs/mine"), Path("clips"), "cpu")
    assert config.model == PRESETS["cpu"].model and Options("paper").config.data == PRESETS["paper"].data


def test_bad_input(tmp_path: Path):
    with pytest.raises(ValueError, match="at least 1"):
        profile_steps(lambda: None, 0, tmp_path)
    with pytest.raises(ValueError, match="at least 1"):
        profile_steps(lambda: None, 1, tmp_path, warmup=0)
    with pytest.raises(ValueError, match="no steps"):
        stage_times([op("aten::add", 0, 1)], {})
