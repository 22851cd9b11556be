"""Trains the face model from clips: python train.py [--preset cpu|base|paper] [options]; --help lists all of them.

The run folder holds config.json, metrics.jsonl, model.safetensors, previews/, evaluation.json and report.html.
"""

import argparse
import json
import math
import sys
import time
from collections import deque
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from fmlfast._atomic import atomic_path
from fmlfast._extras import require
from fmlfast.checkpoint import load_state, save_state
from fmlfast.data.augment import mirror, tint, warp
from fmlfast.data.loader import ClipDataset, training_batches
from fmlfast.data.shards import list_splits, read_clip, read_meta
from fmlfast.data.synthetic import SyntheticConfig, generate
from fmlfast.evaluate import evaluate_run
from fmlfast.frames import Frames
from fmlfast.kernels._backend import choose_backend
from fmlfast.objective import LossWeights, objective
from fmlfast.pictures import reconstruction_panel
from fmlfast.report import write_report
from fmlfast.system import FML, ModelConfig


@dataclass(frozen=True)
class Config:
    run: Path = Path("runs/default")
    """Folder for everything the run writes."""
    data: Path = Path("data/synthetic")
    """Prepared clips. A folder that does not exist yet is filled with synthetic ones."""
    people: int = 1600
    """Synthetic training people, when the clips are made here."""
    resume: bool = False
    """Continue the run from its last checkpoint, bit for bit."""
    init: Path | None = None
    """Start from the weights of another run with the same architecture."""
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossWeights = field(default_factory=LossWeights)
    steps: int = 200_000
    batch: int = 8
    """Subjects a step."""
    frames: int = 4
    """Frames of each subject a step (M in the paper)."""
    rate_network: float = 1e-3
    rate_identity: float = 1e-2
    rate_reflectance: float = 2e-3
    warmup: int = 50
    """Steps over which the learning rates rise; they then fall to 0 along a cosine."""
    clip_gradient: float = 1.0
    geometry_first: float = 0.33
    """Share of the steps in which landmarks alone move geometry while light and reflectance settle."""
    ramp: float = 0.33
    """Share of the steps over which the photometric term then gains its full weight."""
    mirror: bool = True
    tint: float = 0.1
    """Augmentation: spread of exposure and colour."""
    roll: float = 0.0
    """Augmentation: spread of in-plane rotation, radians; useless with aligned crops, which remove it."""
    scale: float = 0.0
    shift: float = 0.0
    jitter: float = 0.005
    """Noise on the landmarks that the network sees, in shares of the image's side."""
    drop: float = 0.1
    """Probability that a landmark is hidden from the network."""
    seed: int = 0
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    backend: Literal["torch", "triton"] | None = None
    """Which kernels run the face model and its rendering; by default triton on a GPU and torch on the CPU."""
    bf16: bool = True
    """Run the encoder in bfloat16 where there is a GPU."""
    workers: int = 0
    """Processes that decode clips; 0 decodes in this one."""
    cache_gb: float = 4.0
    """Memory for decoded clips."""
    log_every: int = 20
    preview_every: int = 500
    checkpoint_every: int = 500
    tensorboard: bool = True
    evaluate: bool = True
    """Evaluate on held-out people at the end and write the report."""


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
            spectral=150,
            visibility="backface",
        ),
        steps=3600,
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
            spectral=300,
        ),
        data=Path("data/synthetic-base"),
        people=20_000,
        steps=60_000,
        batch=16,
        workers=8,
    ),
    "paper": Config(
        model=ModelConfig(complement_rank=None),
        data=Path("data/synthetic-paper"),
        people=50_000,
        workers=12,
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(add_help=False)
    default = "base" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--preset", choices=PRESETS, default=default)
    chosen, rest = parser.parse_known_args()
    description = f"{__doc__}\n--preset {{cpu,base,paper}} sets the defaults below (now: {chosen.preset})."
    config = tyro.cli(Config, default=PRESETS[chosen.preset], args=rest, description=description)
    try:
        train(config)
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        sys.exit(f"error: {error}")


def train(config: Config) -> None:
    """Trains, evaluates and reports one run."""
    if (config.run / "model.safetensors").exists() and not config.resume:
        raise ValueError(f"{config.run} already holds a run; continue it with --resume or choose another --run")
    choose_backend(config.backend, torch.empty(0, device=config.device))  # before the work, not after it
    if not config.data.exists():
        if config.model.template != "default":
            raise ValueError(
                f"{config.data} does not exist; synthetic clips show the default template only, so "
                f"prepare real ones for {config.model.template}: fmlfast prepare VIDEOS... --out DIR"
            )
        size = config.model.image_size
        generate(SyntheticConfig(out=config.data, people=config.people, frames=config.frames, size=size))
    torch.manual_seed(config.seed)
    model = FML(config.model) if config.init is None else _initialised(config)
    check_template(config, model)
    model = model.to(config.device).train()
    model.backend = config.backend
    model.encoder.bf16 = config.bf16 and config.device.startswith("cuda")
    optimizer = make_optimizer(model, config)
    clips = ClipDataset(config.data, "train", config.model.image_size, int(config.cache_gb * 1e9))
    shown = preview_frames(config)
    start = load_state(config.run / "state.safetensors", model, optimizer) if config.resume else 0
    log = Log(config, start)
    batches = training_batches(clips, config.batch, config.frames, config.steps, config.seed, start, config.workers)
    watch = FiniteWatch(config)

    for step, batch in enumerate(batches, start):
        torch.manual_seed(config.seed * 1_000_003 + step)  # a resumed run draws what an unbroken one would
        progress = step / config.steps
        learning_rate = min(1.0, (step + 1) / config.warmup) * 0.5 * (1 + math.cos(math.pi * progress))
        for group in optimizer.param_groups:
            group["lr"] = group["rate"] * learning_rate
        frames = augment(batch.to(config.device), config)
        codes = model.encode(frames, config.jitter, config.drop)
        ramp, detach = photometric_schedule(step, progress, config)
        terms = {k: v.mean() for k, v in objective(model, frames, codes, config.loss, ramp, detach).items()}
        loss = torch.stack(list(terms.values())).sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for group in optimizer.param_groups:
            torch.nn.utils.clip_grad_norm_(group["params"], config.clip_gradient)
        watch.check(step, frames, loss)
        optimizer.step()
        log.step(step, loss, terms, config.batch * config.frames)
        done = step + 1
        if done % config.preview_every == 0 or done == config.steps:
            log.preview(done, model, shown)
        if done % config.checkpoint_every == 0 and done < config.steps:
            save_state(config.run / "state.safetensors", model, optimizer, done)

    watch.finish()
    if start < config.steps:
        fit_code_prior(model, clips)
        model.eval().save(config.run, train=_plain(config))
        save_state(config.run / "state.safetensors", model, optimizer, config.steps)
    log.close()
    if config.evaluate and "test" in list_splits(config.data):
        evaluate_run(config.run, config.data, "test")
    print(f"report: {write_report(config.run)}")


def check_template(config: Config, model: FML) -> None:
    """Raises ValueError before the work where the evaluation after it would have nothing to compare with."""
    made_from = read_meta(config.data).get("template", model.template.fingerprint)
    if config.evaluate and made_from != model.template.fingerprint:
        raise ValueError(
            f"{config.data} shows template {made_from}, this model has {model.template.fingerprint}: remove the folder "
            "to have its clips made anew, choose another --data, or train with --no-evaluate"
        )


def make_optimizer(model: FML, config: Config) -> torch.optim.Adam:
    """Adam with a rate for the network, one for the identity basis, one for reflectance."""
    face = model.face
    groups = [
        (list(model.encoder.parameters()), config.rate_network),
        ([face.identity_basis], config.rate_identity),
        ([face.reflectance_mean, face.reflectance_basis], config.rate_reflectance),
    ]
    return torch.optim.Adam([{"params": p, "lr": r, "rate": r} for p, r in groups], betas=(0.9, 0.99))


def photometric_schedule(step: int, progress: float, config: Config) -> tuple[float, bool]:
    """Weight of the photometric term and whether geometry is spared: first every third step to fit light and
    reflectance under the landmarks' geometry, then ramping up to full weight."""
    if progress < config.geometry_first:
        return float(step % 3 == 0), True
    return min(1.0, 0.05 + (progress - config.geometry_first) / max(config.ramp, 1e-9)), False


def augment(frames: Frames, config: Config) -> Frames:
    """Random mirror image, colour and similarity."""
    if config.mirror:
        frames = mirror(frames, torch.rand(len(frames.mask), device=frames.mask.device) < 0.5)
    if config.tint:
        frames = tint(frames, config.tint)
    if config.roll or config.scale or config.shift:
        frames = warp(frames, config.roll, config.scale, config.shift)
    return frames


@torch.no_grad()
def fit_code_prior(model: FML, clips: ClipDataset, most: int = 512, batch: int = 32) -> None:
    """Mean and square root of the covariance of the codes over training clips, for refinement's prior."""
    model.eval()
    codes = []
    for first in range(0, min(most, len(clips)), batch):
        some = [clips[i] for i in range(first, min(first + batch, most, len(clips)))]
        frames = Frames.from_clips(some, clips.size).to(model.code_mean.device)
        found = model.encode(frames)
        codes.append(torch.cat([found.identity, found.reflectance], 1))
    stacked = torch.cat(codes)
    share = len(stacked) / (len(stacked) + 32)  # few clips hardly move what the model knew
    mean = torch.lerp(model.code_mean, stacked.mean(0), share)
    scatter = (stacked - mean).T @ (stacked - mean) / len(stacked)
    values, vectors = torch.linalg.eigh(torch.lerp(model.code_factor.T @ model.code_factor, scatter, share))
    spread = (values.clamp(min=0.0) + 2e-3 * values.max()).sqrt()
    model.code_mean.copy_(mean)
    model.code_factor.copy_(spread[:, None] * vectors.T)


def preview_frames(config: Config) -> Frames:
    """Up to four clips to look at, of the validation split where there is one."""
    split = "val" if "val" in list_splits(config.data) else "train"
    refs = ClipDataset(config.data, split, config.model.image_size, 0).refs[:4]
    return Frames.from_clips([read_clip(ref) for ref in refs], config.model.image_size)


class FiniteWatch:
    """Stops at a non-finite loss and saves its batch; on a GPU it looks two steps later, so as not to wait."""

    def __init__(self, config: Config) -> None:
        self.run, self.cuda = config.run, config.device.startswith("cuda")
        self.pending: deque[tuple[int, Frames, Tensor, torch.cuda.Event | None]] = deque()

    def check(self, step: int, frames: Frames, loss: Tensor) -> None:
        """Raises FloatingPointError, naming the saved batch, when a loss was NaN or infinite."""
        value = loss.detach().to("cpu", non_blocking=True)
        copied = torch.cuda.Event() if self.cuda else None
        if copied is not None:
            copied.record()
        self.pending.append((step, frames, value, copied))
        while len(self.pending) > 2 * self.cuda:
            self._look()

    def finish(self) -> None:
        """Looks at the losses that are still on their way."""
        while self.pending:
            self._look()

    def _look(self) -> None:
        step, frames, loss, copied = self.pending.popleft()
        if copied is not None:
            copied.synchronize()
        if torch.isfinite(loss):
            return
        path = self.run / f"nonfinite-{step:06d}.safetensors"
        with atomic_path(path) as temporary:
            save_file({k: v.contiguous().cpu() for k, v in vars(frames).items() if k != "linear"}, temporary)
        raise FloatingPointError(f"loss {loss.item()} at step {step}; its batch is in {path}; lower the rates")


class Log:
    """Progress bar, metrics.jsonl, TensorBoard and preview pictures of a run."""

    def __init__(self, config: Config, start: int) -> None:
        self.config = config
        config.run.mkdir(parents=True, exist_ok=True)
        self.path = config.run / "metrics.jsonl"
        kept = self.path.read_text().splitlines() if start and self.path.exists() else []
        kept = [line for line in kept if json.loads(line)["step"] <= start]
        with atomic_path(self.path) as path:
            path.write_text("".join(f"{line}\n" for line in kept))
        self.board: Any = None
        if config.tensorboard:
            self.board = require("torch.utils.tensorboard", "train").SummaryWriter(str(config.run), purge_step=start)
        self.bar = tqdm(initial=start, total=config.steps, unit="step", mininterval=0.5)
        self.frames, self.since = 0, time.perf_counter()

    def step(self, step: int, loss: Tensor, terms: dict[str, Tensor], frames: int) -> None:
        """Counts a step's frames and writes a row every `log_every` steps."""
        self.bar.update()
        self.frames += frames
        if (step + 1) % self.config.log_every:
            return
        now = time.perf_counter()
        row = {"step": step + 1, "loss": loss.item(), **{k: v.item() for k, v in terms.items()}}
        row["frames_per_second"] = self.frames / (now - self.since)
        self.frames, self.since = 0, now
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        self.bar.set_postfix({k: f"{v:.3g}" for k, v in row.items() if k != "step"}, refresh=False)
        if self.board is not None:
            for name, value in row.items():
                self.board.add_scalar(name, value, step + 1)

    @torch.no_grad()
    def preview(self, step: int, model: FML, frames: Frames) -> None:
        """Writes previews/step-*.png: input, reconstruction, geometry, reflectance and shading side by side."""
        model.eval()
        frames = frames.to(self.config.device)
        panel = reconstruction_panel(model, frames, model.encode(frames))
        with atomic_path(self.config.run / "previews" / f"step-{step:06d}.png") as path:
            Image.fromarray(panel).save(path)
        model.train()

    def close(self) -> None:
        """Flushes TensorBoard and ends the progress bar."""
        self.bar.close()
        if self.board is not None:
            self.board.close()


def _initialised(config: Config) -> FML:
    model = FML.load(config.init or "")
    if model.config != config.model:
        raise ValueError(f"{config.init} has another architecture than this run; use the preset it was trained with")
    return model


def _plain(config: Config) -> dict[str, Any]:
    """The training settings for config.json, without the architecture, which stands there already."""
    return {k: str(v) if isinstance(v, Path) else v for k, v in asdict(config).items() if k != "model"}


if __name__ == "__main__":
    main()
