"""Trains the face model on clips: python train.py [--preset cpu|base|paper] [options]; --help lists all of them.

The run folder holds config.json, metrics.jsonl, model.safetensors, previews/, evaluation.json and report.html.
"""

import argparse
import gc
import json
import math
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import fmlfast.common.passive_waiting  # noqa: F401  (before torch)

from fmlfast.common.termination import end_while_loading, ends_in_one_line

if __name__ == "__main__":
    end_while_loading()

import torch
import tyro

from fmlfast.common.extras import require
from fmlfast.common.locks import lock_folder
from fmlfast.data.augment import AugmentConfig
from fmlfast.data.frames import Frames
from fmlfast.data.loader import ClipDataset, training_batches
from fmlfast.data.prefetch import Prefetcher
from fmlfast.data.shards import list_splits, read_meta
from fmlfast.data.synthetic.generate import SyntheticConfig, generate
from fmlfast.evaluation.report import machine, write_report
from fmlfast.evaluation.run import evaluate_run
from fmlfast.kernels.common.backend import choose_backend
from fmlfast.losses import LossWeights
from fmlfast.model.config import ModelConfig
from fmlfast.model.fml import FML
from fmlfast.model.stored_model import is_whole
from fmlfast.training.allocator import keep_freed_memory
from fmlfast.training.checkpoint import load_state, save_state
from fmlfast.training.distributed import World
from fmlfast.training.initial import load_initial
from fmlfast.training.priors import fit_code_prior, fit_shape_prior
from fmlfast.training.run_log import FiniteWatch, Log
from fmlfast.training.settle import settle
from fmlfast.training.step import Phase, Rates, TrainingStep
from fmlfast.visualization.panels import save_preview


@dataclass(frozen=True)
class Config:
    """All settings of a training run."""

    run: Path = Path("runs/default")
    """Run folder: output of the run."""
    data: Path = Path("data/synthetic")
    """Folder of prepared clips. If it does not exist, synthetic clips are rendered into it."""
    people: int = 1600
    """Number of synthetic training people, if the clips are rendered here."""
    resume: bool = False
    """Continue the run from its last checkpoint, bit for bit."""
    init: Path | None = None
    """Run folder of a model whose weights and --model settings to start from; "shipped": the one of fmlfast."""
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossWeights = field(default_factory=LossWeights)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    rates: Rates = field(default_factory=Rates)
    steps: int = 200_000
    """Number of training steps."""
    batch: int = 8
    """Subjects per step, of all processes together."""
    frames: int = 4
    """Frames of each subject per step (M in the paper)."""
    warmup: int = 50
    """Steps over which the learning rates rise; they then fall to 0 along a cosine."""
    clip_gradient: float = 1.0
    """Largest gradient norm of the encoder, of the identity basis and of the reflectance, each; clipped above."""
    geometry_first: float = 0.33
    """Share of the steps in which landmarks alone train geometry, while light and reflectance converge."""
    ramp: float = 0.33
    """Share of the steps, after these, in which the weight of the photometric loss on geometry rises to its maximum."""
    seed: int = 0
    """Seed of all random numbers of the run."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """Device to train on: cuda, cuda:N or cpu."""
    backend: Literal["torch", "triton"] | None = None
    """Kernels of the face model and the renderer; by default triton on a GPU and torch on the CPU."""
    bf16: bool = True
    """Run the encoder in bfloat16 on a GPU."""
    lean_moments: bool = False
    """Keep the moments of the reflectance basis in bfloat16 with stochastic rounding: a third fewer bytes a step."""
    workers: int = 0
    """Number of processes that load clips; 0 is fastest when all decoded clips are cached on disk."""
    decoded_gb: float = 50.0
    """Largest size of the cache of decoded clips on disk, GB, beside the data; other clips are decoded on each use."""
    log_every: int = 20
    """Steps between rows of metrics.jsonl."""
    preview_every: int = 500
    """Steps between preview images."""
    checkpoint_every: int = 500
    """Steps between checkpoints."""
    tensorboard: bool = True
    """Log to TensorBoard, too."""
    viewer: bool = False
    """Show losses, previews and the mean face in a browser while training; needs the extra viewer."""
    evaluate: bool = True
    """Evaluate on held-out people at the end, if the data have a test split."""


# Settings that do not change the trained weights.
RUNTIME_SETTINGS = {"run", "data", "people", "resume", "init", "device", "backend", "workers", "decoded_gb", "evaluate"}
RUNTIME_SETTINGS |= {"tensorboard", "viewer", "log_every", "preview_every", "checkpoint_every"}

PRESETS = {
    "cpu": Config(
        model=ModelConfig(
            level=0,
            image_size=128,
            input_size=64,
            channels=(24, 48, 96, 128),
            width=256,
            identity_dim=64,
            reflectance_dim=32,
            complement_rank=10,
            smooth_basis=True,
            visibility="backface",
        ),
        people=1200,
        steps=2400,
    ),
    "base": Config(
        model=ModelConfig(
            level=1,
            image_size=160,
            input_size=128,
            channels=(48, 96, 192, 256),
            identity_dim=128,
            reflectance_dim=128,
            complement_rank=10,
            smooth_basis=True,
        ),
        data=Path("data/synthetic-base"),
        people=20_000,
        steps=60_000,
        batch=16,
    ),
    "paper": Config(
        model=ModelConfig(
            inputs="paper",
            shape_init=False,
            light_fit=False,
            light_complement=False,
            complement_rank=None,
            smooth_basis=False,
            visibility="backface",
        ),
        loss=LossWeights(photometric_kind="squared", displacement=0.0, reflectance=0.0),  # the paper has no such terms
        data=Path("data/synthetic-paper"),
        people=50_000,
        checkpoint_every=5000,  # of 1.2 GB each
    ),
}


def main(args: list[str] | None = None, prog: str | None = None) -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(prog, add_help=False)
    parser.add_argument("--preset", choices=PRESETS, default="base" if torch.cuda.is_available() else "cpu")
    chosen, rest = parser.parse_known_args(args)
    description = f"{__doc__}\n--preset {{cpu,base,paper}} sets the defaults below (now: {chosen.preset})."
    parse = partial(tyro.cli, Config, prog=prog, args=rest, description=description)
    config = parse(default=(preset := PRESETS[chosen.preset]))
    with ends_in_one_line():
        if config.init:  # its architecture becomes the default of --model
            config = parse(default=replace(preset, model=load_initial(config.init).config))
        train(config)


def train(config: Config) -> None:
    """Trains and evaluates one run and writes its report; under torchrun all processes train together."""
    if config.viewer:
        require("viser", "viewer")
    with World.start(config.device) as world, lock_folder(config.run) if world.main else nullcontext():
        if any((config.run / f"{name}.safetensors").exists() for name in ("model", "state")) and not config.resume:
            raise ValueError(f"{config.run} already holds a run; continue it with --resume or choose another --run")
        choose_backend(config.backend, torch.empty(0, device=world.device))  # before the work, not after it
        world.require_equal_shares(config.batch)
        if world.device.type == "cpu":
            keep_freed_memory()
        world.once(lambda: make_clips(config))
        train_model(config, world)
        if world.main:
            if config.evaluate and "test" in list_splits(config.data):
                gc.collect()  # recorded steps and optimisers form reference cycles
                evaluate_run(config.run, config.data, "test", device=world.device)
            print(f"report: {write_report(config.run)}")


def make_clips(config: Config) -> None:
    """Renders synthetic clips into the data folder if it does not exist."""
    if config.data.exists():
        return
    if config.model.template != "default":
        raise ValueError(
            f"{config.data} does not exist; synthetic clips show the default template only, so "
            f"prepare real ones for {config.model.template}: fmlfast prepare VIDEOS... --out DIR"
        )
    if config.init:
        raise ValueError(f"{config.data} does not exist; make it with fmlfast prepare, or start without --init")
    size = config.model.image_size
    generate(SyntheticConfig(out=config.data, people=config.people, frames=config.frames, size=size))


def train_model(config: Config, world: World) -> None:
    """Runs the training loop, with logs, previews and checkpoints, and saves the model."""
    live = None
    if config.viewer and world.main:
        from fmlfast.visualization.viewer.training_view import TrainingView  # viser is an extra

        live = TrainingView(config.run)
    clips, step = build_step(config, world)
    model, state = step.model, config.run / "state.safetensors"
    start = load_state(state, model, step.optimizers, settings(config)) if config.resume else 0
    batches = training_batches(
        clips, config.batch, config.frames, config.steps, config.seed, start, config.workers, (world.rank, world.size)
    )
    batches = Prefetcher(batches, world.device)
    shown = preview_frames(config) if world.main else None
    log = Log(config.run, start, config.steps, config.tensorboard) if world.main else None
    watch = FiniteWatch(config.run, world.device)

    for done, batch in enumerate(batches, start + 1):
        # Augment, encode, cut the graph at the codes, losses, backward, Adam and LowRankAdam: see TrainingStep.
        terms = step(batch, phase(done - 1, config))
        watch.check(done - 1, batch, torch.stack(list(terms.values())).sum())
        if done % config.log_every == 0:
            terms = world.mean(terms)
        if log is None:
            continue
        log.count(config.batch * config.frames)
        if done % config.log_every == 0:
            log.write(done, terms)
            if live is not None:
                live.update(model)
        if shown is not None and done % config.preview_every == 0 and done < config.steps:
            save_preview(config.run / "previews" / f"step-{done:06d}.png", model, shown)
        if done % config.checkpoint_every == 0 or done == config.steps:
            watch.finish()
            save_state(state, model, step.optimizers, done, settings(config))

    watch.finish()
    if log is None or shown is None:
        return
    log.close()
    if start < config.steps or not is_whole(config.run):  # it was killed just before its end, or damaged since
        model.face.decoder = None
        settle(model, clips)
        fit_code_prior(model, clips)
        save_preview(config.run / "previews" / f"step-{config.steps:06d}.png", model, shown)
        model.eval().save(config.run, train=_plain(config), machine=machine())


def build_step(config: Config, world: World, graph: bool = True) -> tuple[ClipDataset, TrainingStep]:
    """Builds the training clips, a new model and its training step; `graph` records CUDA graphs."""
    torch.manual_seed(config.seed)
    torch.backends.cudnn.deterministic = True  # some convolutions sum gradients in random order without it
    clips = world.once(lambda: training_clips(config)) or training_clips(config)  # the others then find them decoded
    model = FML(config.model) if config.init is None else load_initial(config.init, config.model)
    check_template(config, model)
    if config.model.shape_init and not (config.init or config.resume):
        world.once(lambda: fit_shape_prior(model, clips))
    model = model.to(world.device).train()
    model.backend = config.backend
    model.encoder.bf16 = config.bf16 and world.device.type == "cuda"
    world.broadcast(model)
    step = TrainingStep(
        model, config.loss, config.augment, config.rates, config.clip_gradient, config.lean_moments, graph, world
    )
    return clips, step


def settings(config: Config) -> dict[str, Any]:
    """Returns the settings that change the trained weights, as JSON types."""
    return json.loads(json.dumps({k: v for k, v in asdict(config).items() if k not in RUNTIME_SETTINGS}, default=str))


def training_clips(config: Config) -> ClipDataset:
    """Opens the training clips, with a cache of decoded ones of up to `decoded_gb`."""
    return ClipDataset(config.data, "train", config.model.image_size, int(config.decoded_gb * 1e9))


def phase(step: int, config: Config) -> Phase:
    """Computes the schedule of a step: learning rates with linear warm-up and cosine decay, and photometric weight.

    First landmarks alone train geometry, and every third step trains light and reflectance with geometry fixed; then
    the photometric term ramps up to full weight.
    """
    progress = step / config.steps
    rate = min(1.0, (step + 1) / config.warmup) * 0.5 * (1 + math.cos(math.pi * progress))
    if progress < config.geometry_first:
        return Phase(rate, float(step % 3 == 0), True)
    return Phase(rate, min(1.0, 0.05 + (progress - config.geometry_first) / max(config.ramp, 1e-9)), False)


def check_template(config: Config, model: FML) -> None:
    """Raises ValueError before training if the data to evaluate on are of another template than the model."""
    made_from = read_meta(config.data).get("template", model.template.fingerprint)
    if config.evaluate and made_from != model.template.fingerprint:
        raise ValueError(
            f"{config.data} shows template {made_from}, this model has {model.template.fingerprint}: remove the folder "
            "to have its clips made anew, choose another --data, or train with --no-evaluate"
        )


def preview_frames(config: Config) -> Frames:
    """Loads up to four clips for previews, of the validation split where there is one."""
    split = "val" if "val" in list_splits(config.data) else "train"
    clips = ClipDataset(config.data, split, config.model.image_size, 0)
    return Frames.whole([clips[i] for i in range(min(4, len(clips)))])


def _plain(config: Config) -> dict[str, Any]:
    """Returns the training settings for config.json, without the architecture, which it holds already."""
    return {k: str(v) if isinstance(v, Path) else v for k, v in asdict(config).items() if k != "model"}


if __name__ == "__main__":
    main()
