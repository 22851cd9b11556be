"""Settings of training runs that tests can afford."""

from pathlib import Path

import train as training
from tests.helpers.small_model import SMALL


def short_run(data: Path, run: Path, steps: int) -> training.Config:
    """A few steps on the CPU, logged at each, with a preview and a checkpoint half way."""
    return training.Config(
        run=run,
        data=data,
        model=SMALL,
        steps=steps,
        batch=2,
        log_every=1,
        preview_every=steps // 2,
        checkpoint_every=steps // 2,
        tensorboard=False,
        evaluate=False,
        device="cpu",
    )
