"""Measures a whole training step, with and without the network, and the generator of synthetic clips."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.harness.measure import COMPILE_SHARE, failed
from benchmarks.harness.rows import OUT_OF_TIME, Row
from benchmarks.harness.timing import Deadline, time_cpu
from benchmarks.training import loader
from fmlfast.data.augment import Batch, draw
from fmlfast.data.frames import Frames
from fmlfast.data.loader import ClipDataset
from fmlfast.data.synthetic.generate import SyntheticConfig, generate, render_person
from fmlfast.model.codes import Codes
from fmlfast.model.fml import FML
from fmlfast.training.distributed import World
from fmlfast.training.step import Phase, TrainingStep
from train import PRESETS

Step = Callable[[], dict[str, Tensor]]
PEOPLE = 8
STEP_SECONDS = 150.0  # for checking a step, most of it torch.compile's
ERROR = 1e-3  # of the losses after a first step, relative to the largest
BFLOAT16_ERROR = 3e-2  # the same through a network with eight bits
EAGER = "triton, no graph"
"""Provider of a step by the kernels that is launched anew each time."""
FULL = Phase(rate=1.0, photometric=1.0, detach_geometry=False)  # the step that computes all terms


@dataclass(frozen=True)
class StepCase:
    """A training step of a preset by one provider; without the network, its codes are what is learned."""

    preset: str
    provider: str
    network: bool

    @property
    def name(self) -> str:
        """For people and for a comparison with an earlier run."""
        return f"{self.op}({self.preset})-{self.provider}"

    @property
    def op(self) -> str:
        """What the row is called."""
        return "training step" if self.network else "training step without network"

    def row(self, note: str = "") -> Row:
        """What is known before measuring."""
        config = PRESETS[self.preset]
        shape = f"{self.preset} preset, {config.batch} x {config.frames} frames of {config.model.image_size} px"
        frames = float(config.batch * config.frames)
        return Row(self.op, "step", self.provider, shape, frames=frames, note=note)


def step_cases(device: str) -> list[StepCase]:
    """Lists the CPU's preset by torch; on a GPU also the others by kernels, with and without graph, and by torch.

    There torch.compile comes last; on two cores it takes longer than `make bench` may.
    """
    if device == "cpu":
        return [StepCase("cpu", "torch", network) for network in (True, False)]
    kernels = [StepCase(preset, who, True) for preset in ("base", "paper") for who in ("triton", EAGER)]
    torch_beside = [StepCase("paper", "torch", True), *(StepCase("paper", who, False) for who in ("triton", "torch"))]
    small = [StepCase("cpu", who, True) for who in ("triton", "torch")]
    return [*kernels, *torch_beside, *small, StepCase("paper", "compile", True)]


def make_clips(folder: Path) -> None:
    """Generates a few synthetic people to train on, four frames each."""
    generate(SyntheticConfig(out=folder, people=PEOPLE, val_people=0, test_people=0))


def training_step(case: StepCase, folder: Path, device: str) -> Step:
    """Makes the step as a call without arguments: a fresh model, equal for all providers, and a batch on the device."""
    config = PRESETS[case.preset]
    torch.manual_seed(0)
    model = FML(config.model).to(device).train()
    model.backend = "triton" if case.provider in ("triton", EAGER) else "torch"
    model.encoder.bf16 = device != "cpu"
    clips = ClipDataset(folder, "train", config.model.image_size, 0)
    batch = _batch(clips, config.batch, config.frames).to(device)
    if not case.network:
        _without_network(model, batch)
    graph = case.provider == "triton" and device != "cpu"
    world = World.start(device)
    step = TrainingStep(
        model, config.loss, config.augment, config.rates, config.clip_gradient, config.lean_moments, graph, world
    )
    if case.provider == "compile":
        torch._dynamo.reset()
        step.run = torch.compile(step._step, dynamic=False)
    return lambda: step(batch, FULL)


def _batch(clips: ClipDataset, subjects: int, frames: int) -> Batch:
    some = [clips[i % len(clips)] for i in range(subjects)]
    return Batch(Frames.whole(some, frames), draw(0, range(subjects), frames))


def _without_network(model: FML, batch: Batch) -> None:
    """Lets the model answer with what its network says now, as leaves."""
    with torch.no_grad():
        codes = model.encode(batch.frames.unpacked()).map(lambda code: code.float().clone())
    leaves = codes.map(lambda code: code.requires_grad_())

    def answer(*_: object) -> Codes:
        for leaf in vars(leaves).values():
            leaf.grad = None
        return leaves

    model.observe = lambda *_: None  # type: ignore[method-assign]
    model.codes = answer  # type: ignore[method-assign]


def checked_step(case: StepCase, folder: Path, device: str) -> tuple[Row, Step]:
    """Checks a step; returns its row, not timed yet, and the step. The note is empty only where losses are right."""
    step = training_step(case, folder, device)
    found = second_losses(step)
    reference = training_step(replace(case, provider="torch"), folder, device)
    expected = second_losses(reference)
    error = float((found - expected).abs().max() / expected.abs().max())
    same = None  # compiling takes minutes: once is enough
    if case.provider != "compile":
        same = torch.equal(found, second_losses(training_step(case, folder, device)))
    row = replace(case.row(), max_error=error, repeatable=same)
    allowed = BFLOAT16_ERROR if case.network and device != "cpu" else ERROR
    return row if error <= allowed else replace(row, note=f"wrong: error {error:.1e}, {allowed:.0e} is allowed"), step


def second_losses(step: Step) -> Tensor:
    """Returns the loss terms of a second step: they depend on the first one's gradients and optimisers."""
    step()
    return torch.stack([value.double() for value in step().values()]).cpu()


def measure_step(
    case: StepCase, clips: Callable[[], Path], device: str, deadline: Deadline, time: Callable[[Step, Row], Row]
) -> Row:
    """Measures a step, timed by `time` where its losses are right."""
    if deadline.passed(COMPILE_SHARE if case.provider == "compile" else 1.0):
        return case.row(OUT_OF_TIME)
    try:
        with deadline.limit(STEP_SECONDS):
            row, step = checked_step(case, clips(), device)
    except Exception as failure:  # one row must not end the run
        return case.row(failed(failure))
    return row if row.note else time(step, row)


def film_one(person: int) -> None:
    """Renders a synthetic clip of four frames, as the generator's processes make them: by one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    render_person(SyntheticConfig(out=Path("unused")), "train", person)
    torch.set_num_threads(threads)


def generator_row() -> Row:
    """Describes `film_one` as a row."""
    config = SyntheticConfig(out=Path("unused"))
    shape = f"{config.frames} frames of {config.size} px, one process"
    return Row("synthetic clips", "data", "fmlfast", shape, frames=float(config.frames))


def data_rows(device: str) -> Iterator[Row]:
    """Measures the generator and the loader by the wall clock."""
    people = itertools.count()
    yield replace(generator_row(), **vars(time_cpu(lambda: film_one(next(people)), 5)))
    yield from loader.measure(device)
