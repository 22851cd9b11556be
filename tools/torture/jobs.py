"""What is tortured: commands that write folders, with inputs that take a second."""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image

import train as training
from fmlfast.cli.reconstruct import reconstruct
from fmlfast.data.shards import list_clips, list_splits, read_clip
from fmlfast.data.synthetic import generate as generating
from fmlfast.data.synthetic.generate import SyntheticConfig, generate, render_person
from fmlfast.data.video import prepare as preparing
from fmlfast.data.video.clips import ClipRecord, Source, SourceRecord
from fmlfast.evaluation import report
from fmlfast.evaluation.stored_table import store_table
from fmlfast.model.fml import FML
from fmlfast.reconstruction import pipeline
from fmlfast.training import settle as settling
from tests.helpers.photographs import FakeDetector, photograph
from tests.helpers.small_model import SMALL
from tests.helpers.training_runs import short_run

STEPS = 6  # of training
FOUR_PEOPLE = SyntheticConfig(
    Path(), people=4, val_people=0, test_people=0, size=64, level=0, supersample=1, detect=False, workers=1
)


@dataclass(frozen=True)
class Job:
    """A command: `run` writes a folder, or goes on with it; `content` is what must not depend on how often it did."""

    name: str
    run: Callable[[Path], object]
    content: Callable[[Path], object]


def prepare_job(home: Path) -> Job:
    """`fmlfast prepare` of four videos, whose clips are drawn and not detected."""
    drawn = render_person(SyntheticConfig(home, size=32, level=0, supersample=1, frames=2), "train", 0).clip
    videos, detector = home / "videos", home / "face_landmarker.task"
    videos.mkdir()
    detector.touch()
    for name in "abcd":
        (videos / f"{name}.mp4").write_bytes(name.encode())

    def drawn_clips(sources: list[Source], *_: object) -> Iterator[tuple[Source, Any]]:
        for source in sources:
            record = ClipRecord("a", 0, 1, 2, 2, key=source.key)
            yield source, (SourceRecord(source.name, 1.0, 1, clips=[record]), [replace(drawn, key=source.key)])

    def run(out: Path) -> None:
        preparing._run, preparing._CLIPS_A_COMMIT = drawn_clips, 2
        preparing.prepare(preparing.PrepareConfig((videos,), out, face_landmarker=detector))

    def content(out: Path) -> object:
        clips = sorted(read_clip(ref).key for split in list_splits(out) for ref in list_clips(out, split))
        return clips, sorted(json.loads((out / "report.json").read_text())["sources"])

    return Job("prepare", run, content)


def synthesize_job(home: Path) -> Job:
    """`fmlfast synthesize` of three people, rendered in the process itself: others take seconds to start."""
    settings = SyntheticConfig(
        home, people=2, val_people=0, test_people=1, size=32, level=0, supersample=1, detect=False, workers=1
    )

    def run(out: Path) -> None:
        generating.WorkerPool = _no_workers  # pyright: ignore[reportAttributeAccessIssue]
        if not out.exists():
            generate(replace(settings, out=out))

    run(home / "first")  # imports what each child would
    return Job("synthesize", run, files)


def _no_workers(*_: object) -> Any:
    """A pool of workers that is the process itself."""
    return nullcontext(SimpleNamespace(map=lambda call, jobs, chunksize: map(call, jobs)))


def train_job(home: Path) -> Job:
    """`fmlfast train` with a checkpoint every other step, short in the end and without curves in its report."""
    data = home / "clips"
    generate(replace(FOUR_PEOPLE, out=data))
    base = replace(short_run(data, home, STEPS), checkpoint_every=2)
    settling.settle_expressions = partial(settling.settle_expressions, steps=4)  # pyright: ignore
    report.training_curves = lambda history: None

    def run(out: Path) -> None:
        training.train(replace(base, run=out, resume=(out / "state.safetensors").exists()))

    def content(out: Path) -> object:
        steps = [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()]
        return steps, files(out)["model.safetensors"]

    run(home / "first")  # imports what each child would, and decodes the clips
    return Job("train", run, content)


def reconstruct_job(home: Path) -> Job:
    """`fmlfast reconstruct` of a drawn photo, with refinement and texture."""
    picture, face = photograph(120, 120, 0.0, 0.0)
    FakeDetector.faces, pipeline.FaceDetector = {(120, 120): [face]}, FakeDetector  # pyright: ignore
    Image.fromarray(picture).save(home / "photo.png")
    FML(SMALL).save(home / "model")

    def run(out: Path) -> None:
        if not out.exists():
            reconstruct((home / "photo.png",), home / "model", out, refine=2, texture=64, topology="own")

    run(home / "first")  # imports what each child would
    return Job("reconstruct", run, files)


def table_job(home: Path) -> Job:
    """Tables of an evaluation, of which each keeps the one before it."""

    def run(out: Path) -> None:
        out.mkdir(parents=True, exist_ok=True)
        values = np.random.default_rng(0).normal(size=4000).tolist()
        for number in range(3):
            if number == 2 or not any(number == table["number"] for table in tables(out)):
                store_table(out / "evaluation.json", {"number": number, "values": values}, ())

    def tables(out: Path) -> list[dict[str, Any]]:
        return [json.loads(path.read_text()) for path in out.glob("*.json")]

    return Job("evaluate", run, lambda out: {table["number"] for table in tables(out)})


def files(out: Path) -> dict[str, str]:
    """The SHA-256 of every file of a folder, by name."""
    paths = sorted(path for path in out.rglob("*") if path.is_file())
    return {path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


JOBS: dict[str, Callable[[Path], Job]] = {
    "prepare": prepare_job,
    "synthesize": synthesize_job,
    "train": train_job,
    "reconstruct": reconstruct_job,
    "evaluate": table_job,
}
"""Makers of all jobs, which write what these need into an empty folder."""
