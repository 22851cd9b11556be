"""Generates synthetic clips with ground truth, in the format of real ones: `python -m fmlfast.data.synthetic --help`.

Person p of split s depends on `default_rng([seed, s, p])` only, so a data set depends on its settings but not on the
number of workers, and a larger one begins with the smaller one.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch

from fmlfast.common.atomic import atomic_folder
from fmlfast.common.child_processes import WorkerPool, single_threaded_children
from fmlfast.common.progress import ProgressBar
from fmlfast.common.termination import ends_in_one_line
from fmlfast.common.version import __version__
from fmlfast.data.detection import Detection
from fmlfast.data.face_detector import FaceDetector
from fmlfast.data.landmark_assets import landmarks_version
from fmlfast.data.shards import Clip, ShardWriter, TruthWriter, write_meta
from fmlfast.data.synthetic.population import Population
from fmlfast.data.synthetic.scene import LabelledClip, SceneGenerator
from fmlfast.template.face_template import FaceTemplate

SPLITS = ("train", "val", "test")
GENERATOR = "fmlfast.data.synthetic"


@dataclass(frozen=True)
class SyntheticConfig:
    """Settings of a synthetic data set."""

    out: Path
    """Output folder; must not exist yet, or be empty."""
    people: int = 1600
    """Number of people in the training split, one clip each."""
    val_people: int = 64
    """Number of people in the validation split."""
    test_people: int = 100
    """Number of people in the test split."""
    frames: int = 4
    """Frames per clip."""
    size: int = 128
    """Side of a frame, pixels."""
    level: int = 1
    """Subdivision level of the rendered meshes, 0 to 2."""
    supersample: float = 1.5
    """Samples per pixel along each axis."""
    population: Path | None = None
    """People of another head model (tools/register_population.py makes the file), beside MakeHuman's."""
    population_share: float = 0.5
    """Share of the people that are of `population`."""
    detect: bool = True
    """Store what the face detector says of the frames, too. Needs the `video` extra; left out where it is missing."""
    workers: int = os.cpu_count() or 1
    """Number of processes; the clips do not depend on it."""
    seed: int = 0
    """Seed of all random numbers."""

    def __post_init__(self) -> None:
        limits = dict.fromkeys(("people", "val_people", "test_people"), (0, 99_999))
        limits |= {"frames": (1, 999), "size": (16, 4096), "level": (0, 2), "supersample": (1, 8), "workers": (1, 1024)}
        limits |= {"seed": (0, 2**63), "population_share": (0, 1)}
        for name, (low, high) in limits.items():
            if not low <= getattr(self, name) <= high:
                flag = f"--{name.replace('_', '-')}"
                raise ValueError(f"{flag} must lie in {low}..{high}, got {getattr(self, name)}")
        if self.people + self.val_people + self.test_people == 0:
            raise ValueError("no people to make: set --people, --val-people or --test-people")


@cache
def _scene_generator(level: int, size: int, supersample: float) -> SceneGenerator:
    return SceneGenerator(level, size, supersample)


@cache
def _population(path: Path) -> Population:
    return Population(path)


def render_person(config: SyntheticConfig, split: str, person: int) -> LabelledClip:
    """Renders the clip of one person of a split, with its ground truth."""
    rng = np.random.default_rng([config.seed, SPLITS.index(split), person])
    population = None
    if config.population is not None and rng.random() < config.population_share:
        population = _population(config.population)
    return _scene_generator(config.level, config.size, config.supersample).render_clip(
        rng, f"{split}-{person:05d}", config.frames, population
    )


@cache
def _detector() -> FaceDetector:
    return FaceDetector()


def detected(clip: Clip, detector: FaceDetector) -> Clip:
    """Returns the clip with what the face detector says of its frames."""
    return replace(clip, detection=Detection.stack([detector.observe(image) for image in clip.images]))


def _render_job(job: tuple[SyntheticConfig, str, int]) -> LabelledClip:
    labelled = render_person(*job)
    return replace(labelled, clip=detected(labelled.clip, _detector())) if job[0].detect else labelled


def _with_detector(config: SyntheticConfig) -> SyntheticConfig:
    """Switches detection off, with a note, where the face detector is missing."""
    try:
        if config.detect:
            FaceDetector().close()
        return config
    except (ImportError, ValueError) as error:
        print(f"note: the clips get simulated landmarks only: {error}", file=sys.stderr)
        return replace(config, detect=False)


def _one_thread() -> None:
    torch.set_num_threads(1)  # parallelism is over people, and sums keep their order


def _render_all(config: SyntheticConfig, split: str, count: int, pool: WorkerPool) -> Iterator[LabelledClip]:
    """Renders the clips of a split on all workers; yields them in order."""
    return pool.map(_render_job, ((config, split, person) for person in range(count)), chunksize=4)


def generate(config: SyntheticConfig) -> None:
    """Generates a data set: shards of clips and of ground truth for train, val and test, and meta.json.

    The folder is written whole or not at all. Raises ValueError when it exists and is not empty.
    """
    out, config = config.out, _with_detector(config)
    if out.exists():
        if not out.is_dir() or any(out.iterdir()):
            raise ValueError(f"{out} exists and is not empty: choose another folder or remove it first")
        out.rmdir()  # the data set is written elsewhere and then moved here in one step
    if config.population is not None:
        _population(config.population)  # before the work, not in it
    counts = dict(zip(SPLITS, (config.people, config.val_people, config.test_people), strict=True))
    with atomic_folder(out) as folder, ExitStack() as stack:
        settings = {name: value for name, value in asdict(config).items() if name not in ("out", "workers")}
        settings["population"] = config.population and config.population.name  # never a machine's path
        fingerprint = FaceTemplate.default(config.level).fingerprint
        meta = {"generator": GENERATOR, "version": __version__, "template": fingerprint, "settings": settings}
        points = {"landmarks": landmarks_version()} if config.detect else {}
        write_meta(folder, meta | points | {"seed": config.seed})
        stack.enter_context(single_threaded_children())
        # Also for one worker: BLAS with other numbers of threads would give other last bits.
        pool = stack.enter_context(WorkerPool(config.workers, _one_thread))
        progress = stack.enter_context(ProgressBar(total=sum(counts.values()), desc="synthetic clips", unit="clip"))
        for split, count in counts.items():
            if count == 0:
                continue
            with ShardWriter(folder, split) as clips, TruthWriter(folder, split) as truths:
                for labelled in _render_all(config, split, count, pool):
                    clips.add(labelled.clip)
                    truths.add(labelled.clip.key, labelled.truth)
                    progress.update()


def main(args: list[str] | None = None, prog: str | None = None) -> None:
    """Runs the command line."""
    import tyro

    with ends_in_one_line():
        generate(tyro.cli(SyntheticConfig, prog=prog, args=args, description=__doc__))
