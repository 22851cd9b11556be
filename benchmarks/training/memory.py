"""Counts what a training step holds in memory; docs/performance.md gets the table of its peak, for the preset "paper".

python -m benchmarks.training.memory [--preset paper] [--device cpu|cuda] [--out FILE.md]

On the CPU a step takes the GPU's way with kernels that are not started: results are garbage, sizes are right.
"""

import argparse
import gc
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.harness.markdown import write_between_markers
from fmlfast.kernels.common.cache import TensorCache

NAME = "benchmarks.training.memory"
"""Of the markers around the table."""
PAGE = Path(__file__).parents[2] / "docs" / "performance.md"
BEFORE = "before the step"
BASIS, MOMENTS = "reflectance basis", "LowRankAdam's moments of the reflectance basis"


@dataclass(frozen=True)
class Block:
    """Memory of a tensor and its views."""

    label: str
    """The part of the step that made it."""
    shape: str
    bytes: int


class LiveMemory(TorchDispatchMode):
    """Counts the bytes of all tensors that operations make while it is active, until they are freed.

    Counted as requested: an allocator's rounding and what an operation needs inside itself are not seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.label = BEFORE
        self.blocks: dict[int, Block] = {}
        self.live = self.peak = 0
        self.at_peak: list[Block] = []
        """What lived at the highest moment."""
        self.peak_label = BEFORE
        self.highest: dict[str, tuple[int, list[Block]]] = {}
        """Most bytes that lived at once while each label was set, and what of them was made under that label."""
        self._known: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.add(leaf)
        return result

    def add(self, tensor: Tensor) -> None:
        """Counts the memory of a tensor unless it is counted already."""
        if tensor.layout != torch.strided:
            return
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._known or size == 0:
            return
        shape = f"{str(tensor.dtype).removeprefix('torch.')} {'x'.join(map(str, tensor.shape)) or 'scalar'}"
        self._known[key] = weakref.ref(storage, lambda _: self._freed(key))
        self.blocks[key] = Block(self.label, shape, size)
        self.live += size
        self._note()
        if self.live > self.peak:
            self.peak, self.peak_label, self.at_peak = self.live, self.label, list(self.blocks.values())

    def enter(self, label: str) -> None:
        """Gives what is made from now on to `label`."""
        self.label = label
        self._note()

    def _note(self) -> None:
        if self.live > self.highest.get(self.label, (-1, []))[0]:
            self.highest[self.label] = self.live, [b for b in self.blocks.values() if b.label == self.label]

    def _freed(self, key: int) -> None:
        del self._known[key]
        self.live -= self.blocks.pop(key).bytes


@contextmanager
def kernels_not_started() -> Iterator[None]:
    """Lets tensors on the CPU take the way of the Triton kernels, none of which runs; not in Triton's interpreter."""
    import triton

    from fmlfast.kernels.common import backend as _backend

    with (
        mock.patch.object(triton.runtime.jit.JITFunction, "run", lambda *_, **__: None),
        mock.patch.object(_backend, "interpreting", lambda: True),
        mock.patch.object(_backend, "INTERPRETER_LANES", 1),  # blocks as on a GPU
    ):
        yield


@contextmanager
def stages_of(on_stage: Callable[[str | None], None]) -> Iterator[None]:
    """Calls `on_stage` with the name of every stage that is entered, and with that of the outer one when it is left."""
    from fmlfast import losses, optim
    from fmlfast.training import step

    stack: list[str | None] = [None]

    @contextmanager
    def mark(name: str) -> Iterator[None]:
        stack.append(name.removeprefix("fmlfast::"))
        on_stage(stack[-1])
        yield
        stack.pop()
        on_stage(stack[-1])

    with ExitStack() as patches:
        for module in (losses, optim, step):
            patches.enter_context(mock.patch.object(module, "record_function", mark))
        yield


@dataclass(frozen=True)
class Account:
    """Where the memory of one training step goes."""

    lasting: dict[str, int]
    """Bytes that are there before and after the step, by what they are."""
    at_peak: list[Block]
    """What the step had made by its highest moment."""
    peak: int
    peak_stage: str
    highest: dict[str, tuple[int, list[Block]]]
    """Most bytes during each stage, and what of them it had made itself."""
    measured: dict[str, int]
    """Most bytes by the GPU's allocator; nothing without a GPU."""


def account(preset: str, device: str) -> Account:
    """Runs two training steps of a preset, the second of which is counted, with random pictures and landmarks."""
    from fmlfast.model.fml import FML
    from fmlfast.training.distributed import World
    from fmlfast.training.step import Phase, TrainingStep
    from train import PRESETS

    config = PRESETS[preset]
    torch.manual_seed(0)
    model = FML(config.model).to(device).train()
    model.backend = "triton"
    model.encoder.bf16 = config.bf16
    world = World.start(device)
    rates, lean = config.rates, config.lean_moments
    step = TrainingStep(model, config.loss, config.augment, rates, config.clip_gradient, lean, False, world)
    batch = random_batch(config.batch, config.frames, config.model.image_size).to(device)
    phase = Phase(rate=1.0, photometric=1.0, detach_geometry=False)
    step(batch, phase)  # makes the optimisers' states and what is derived from the mesh

    memory, measured = LiveMemory(), {}
    face, groups = model.face, {}
    groups["network's parameters"] = list(model.encoder.parameters())
    groups["network's running means"] = list(model.encoder.buffers())
    groups[BASIS] = [face.reflectance_basis]
    groups["identity basis, mean reflectance"] = [face.identity_basis, face.reflectance_mean]
    groups[MOMENTS] = _state(step.decoder)
    groups["Adam's moments of all else"] = _state(step.adam)
    groups["template: mesh, skinning, expressions, graph"] = [
        *_tensors((model.template, model.landmark_mesh)),
        *model.buffers(),
    ]
    groups["batch as loaded: uint8 pictures, draws"] = _tensors(batch)
    for optimizer in step.optimizers.values():
        optimizer.zero_grad()
    gc.collect()
    caches = [known for known in gc.get_objects() if isinstance(known, TensorCache)]
    groups["rings and neighbours of the mesh"] = [
        t for cache in caches for _, values in cache._known.values() for t in _tensors(values)
    ]
    lasting = {}
    for name, tensors in groups.items():
        before = memory.live
        for tensor in tensors:
            if tensor.device.type == torch.device(device).type:
                memory.add(tensor)
        lasting[name] = memory.live - before
    del groups, tensors

    passes = iter(("gradients of the losses", "gradients of the network"))

    def on_stage(name: str | None) -> None:
        if device != "cpu":
            torch.cuda.synchronize()
            measured[memory.label] = max(measured.get(memory.label, 0), torch.cuda.max_memory_allocated())
            torch.cuda.reset_peak_memory_stats()
        memory.enter(next(passes) if name == "gradients" else name or "between stages")

    parts = [(f"tower, stage {i + 1}", part) for i, part in enumerate(model.encoder.tower)]
    parts += [("identity head", model.encoder.identity_head), ("frame head", model.encoder.frame_head)]
    hooks = []
    for name, part in parts:
        hooks.append(part.register_forward_pre_hook(lambda *_, name=name: memory.enter(f"encode: {name}")))
        hooks.append(part.register_forward_hook(lambda *_: memory.enter("encode")))
    with memory, stages_of(on_stage):
        on_stage(None)
        step(batch, phase)
        on_stage(None)
    for hook in hooks:
        hook.remove()
    made = [block for block in memory.at_peak if block.label != BEFORE]
    highest = {name: value for name, value in memory.highest.items() if name not in (BEFORE, "between stages")}
    return Account(lasting, made, memory.peak, memory.peak_label, highest, measured)


def random_batch(subjects: int, frames: int, size: int) -> Any:
    """Makes a batch of noise as the loader would; landmarks are anywhere in the middle of the picture."""
    from fmlfast.data.augment import Batch, draw
    from fmlfast.data.frames import Frames

    shape = subjects, frames
    K = torch.tensor([[2.2 * size, 0, size / 2], [0, 2.2 * size, size / 2], [0, 0, 1]])
    pictures = Frames(
        images=torch.randint(0, 256, (*shape, 3, size, size), dtype=torch.uint8),
        landmarks=(0.3 + 0.4 * torch.rand(*shape, 68, 2)) * size,
        confidence=torch.ones(*shape, 68),
        labels=(0.3 + 0.4 * torch.rand(*shape, 68, 2)) * size,
        label_confidence=torch.ones(*shape, 68),
        surface_labels=(0.3 + 0.4 * torch.rand(*shape, 478, 2)) * size,
        surface_known=torch.ones(shape),
        expression_labels=torch.rand(*shape, 52),
        expression_known=torch.ones(shape),
        color_labels=torch.rand(*shape, 478, 3),
        color_known=torch.ones(shape),
        Ks=K.repeat(*shape, 1, 1),
        surface=(0.3 + 0.4 * torch.rand(*shape, 478, 2)) * size,
        precision=torch.ones(*shape, 478),
        scores=torch.rand(*shape, 52),
        features=torch.rand(*shape, 2, 512),
        mask=torch.ones(shape, dtype=torch.bool),
    )
    return Batch(pictures, draw(0, range(subjects), frames))


def peak_table(found: Account) -> str:
    """Tables what lives at the peak, what the step has made by its stages."""
    made: dict[str, int] = {}
    for block in found.at_peak:
        stage = block.label.split(":")[0]
        made[stage] = made.get(stage, 0) + block.bytes
    sizes = found.lasting | {f"made in {stage}": size for stage, size in made.items()} | {"**all**": found.peak}
    gpu = f"**{max(found.measured.values()) / 1e6:,.0f} MB**" if found.measured else "not measured"
    lines = [f"Peak: **{found.peak / 1e6:,.0f} MB**, in {found.peak_stage}. GPU: {gpu}."]
    lines += ["", "| at the peak | MB |", "|---|---:|"]
    return "\n".join([*lines, *(f"| {name} | {size / 1e6:,.1f} |" for name, size in sizes.items())])


def stage_table(found: Account) -> str:
    """Tables the highest moment of each stage, with the largest of what it had made itself."""
    lines = ["| highest moment of | counted, MB | GPU, MB | largest of its own then, MB |", "|---|---:|---:|---|"]
    for name, (most, blocks) in found.highest.items():
        measured = f"{found.measured[name] / 1e6:,.0f}" if name in found.measured else "not measured"
        lines.append(f"| {name} | {most / 1e6:,.0f} | {measured} | {_largest(blocks)} |")
    return "\n".join(lines)


def _largest(blocks: Sequence[Block]) -> str:
    largest = sorted(blocks, key=lambda block: -block.bytes)[:3]
    return ", ".join(f"{block.shape} ({block.bytes / 1e6:,.1f})" for block in largest if block.bytes > 50_000)


def _state(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [v for state in optimizer.state.values() for v in state.values() if isinstance(v, Tensor)]


def _tensors(value: Any) -> list[Tensor]:
    """Collects the tensors in a dataclass, mapping or sequence of such."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, (list, tuple)):
        return [tensor for part in value for tensor in _tensors(part)]
    if isinstance(value, dict):
        return _tensors(list(value.values()))
    return _tensors(list(vars(value).values())) if is_dataclass(value) else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=("cpu", "base", "paper"), default="paper")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--out", type=Path, help="page with markers; by default docs/performance.md for the preset paper"
    )
    arguments = parser.parse_args()
    if arguments.device == "cpu":
        with kernels_not_started():
            found = account(arguments.preset, "cpu")
    else:
        found = account(arguments.preset, arguments.device)
    kind = f"Counted, and measured on {torch.cuda.get_device_name()}" if found.measured else "Counted, not measured"
    print(f'{kind}, preset "{arguments.preset}".\n\n{peak_table(found)}\n\n{stage_table(found)}')
    page = arguments.out or (PAGE if arguments.preset == "paper" else None)
    if page:
        write_between_markers(page, NAME, peak_table(found))


if __name__ == "__main__":
    main()
