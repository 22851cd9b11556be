"""Logs a training run: progress bar, metrics.jsonl, TensorBoard, and the batch of a non-finite loss."""

import json
import time
from collections import deque
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fmlfast.common.atomic import atomic_path
from fmlfast.common.extras import require
from fmlfast.common.progress import ProgressBar
from fmlfast.common.tensor_file import write_tensors
from fmlfast.common.text_files import parse_json
from fmlfast.data.augment import Batch


class Log:
    """Writes progress bar, metrics.jsonl and TensorBoard of the run in `folder`, from step `start` of `steps` on."""

    def __init__(self, folder: Path, start: int, steps: int, tensorboard: bool) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "metrics.jsonl"
        lines = self.path.read_text("utf-8", "replace").splitlines() if start and self.path.is_file() else []
        kept = [line for line in lines if (step := _step(line)) is not None and step <= start]
        with atomic_path(self.path) as path:
            path.write_text("".join(f"{line}\n" for line in kept))
        self.board: Any = None
        if tensorboard:
            self.board = require("torch.utils.tensorboard", "train").SummaryWriter(str(folder), purge_step=start)
        self.bar = ProgressBar(initial=start, total=steps, unit="step", mininterval=0.5)
        self.frames, self.since = 0, time.perf_counter()

    def count(self, frames: int) -> None:
        """Counts a step and its frames."""
        self.bar.update()
        self.frames += frames

    def write(self, step: int, terms: dict[str, Tensor]) -> None:
        """Logs the loss, its terms and the frames per second since the last row."""
        now = time.perf_counter()
        values = {name: value.item() for name, value in terms.items()}
        row = {"step": step, "loss": sum(values.values()), **values}
        row["frames_per_second"] = self.frames / (now - self.since)
        self.frames, self.since = 0, now
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        self.bar.set_postfix({k: f"{v:.3g}" for k, v in row.items() if k != "step"}, refresh=False)
        if self.board is not None:
            for name, value in row.items():
                self.board.add_scalar(name, value, step)

    def close(self) -> None:
        """Flushes TensorBoard and ends the progress bar."""
        self.bar.close()
        if self.board is not None:
            self.board.close()


def _step(line: str) -> int | None:
    """Reads the step of a row; None where a crash or a full disk cut it short."""
    try:
        step = parse_json(line, "metrics.jsonl")["step"]
    except (ValueError, KeyError, TypeError):
        return None
    return step if isinstance(step, int) else None


class FiniteWatch:
    """Stops at a non-finite loss and saves its batch; on a GPU checks two steps later, without waiting."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        self.folder, self.cuda = folder, device.type == "cuda"
        self.pending: deque[tuple[int, Batch, Tensor, torch.cuda.Event | None]] = deque()

    def check(self, step: int, batch: Batch, loss: Tensor) -> None:
        """Raises FloatingPointError, naming the saved batch, when a loss was NaN or infinite."""
        value = loss.to("cpu", non_blocking=True)
        copied = torch.cuda.Event() if self.cuda else None
        if copied is not None:
            copied.record()
        self.pending.append((step, batch, value, copied))
        while len(self.pending) > 2 * self.cuda:
            self._look()

    def finish(self) -> None:
        """Checks the remaining losses."""
        while self.pending:
            self._look()

    def _look(self) -> None:
        step, batch, loss, copied = self.pending.popleft()
        if copied is not None:
            copied.synchronize()
        if torch.isfinite(loss):
            return
        path = self.folder / f"nonfinite-{step:06d}.safetensors"
        parts = vars(batch.frames) | {f"draws.{name}": value for name, value in vars(batch.draws).items()}
        with atomic_path(path) as temporary:
            write_tensors(temporary, parts)
        raise FloatingPointError(f"loss {loss.item()} at step {step}; its batch is in {path}; lower the rates")
