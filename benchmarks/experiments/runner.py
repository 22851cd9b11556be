"""Trains what studies need and measures it, in processes of one thread each; what is done already is kept."""

import contextlib
import hashlib
import json
import os
import shutil
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from benchmarks.experiments.rows import FOLDER, Row, add_row, read_rows
from benchmarks.experiments.study import LONG_CLIP, Case, Study, base_config, changed
from benchmarks.rows import provenance
from fmlfast._atomic import atomic_path
from fmlfast.data.synthetic import SyntheticConfig, generate
from fmlfast.system import FML
from train import Config, make_clips, train

DEFAULT = "default"
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
# How a run is watched and where it lies changes nothing about what comes out of it.
UNRELATED = {"run", "data", "resume", "evaluate", "tensorboard", "log_every", "preview_every", "checkpoint_every"}
UNRELATED |= {"workers", "decoded_gb", "profile", "seed", "graph"}


@dataclass(frozen=True)
class Plan:
    """How much is trained and measured, and where things lie."""

    budget: str
    base: Config
    seeds: int = 3
    jobs: int = 2
    refine: int = 50
    clips: int | None = None
    test_people: int = 100
    """In the clips of LONG_CLIP frames, when they are made here."""
    again: bool = False
    """Measure anew what was measured already; runs that are trained are kept."""
    runs: Path = Path("runs/experiments")
    results: Path = FOLDER

    @property
    def case(self) -> Case:
        """What the models are measured on."""
        data = self.base.data
        return Case(data, data.with_name(f"{data.name}-{LONG_CLIP}-frames"), self.refine, self.clips)


@dataclass(frozen=True)
class Job:
    """One measurement of one trained model."""

    study: Study
    variant: str
    config: Config
    recipe: str


def plan_jobs(studies: Sequence[Study], plan: Plan) -> list[Job]:
    """What is still to be measured."""
    jobs = []
    for study in studies:
        done = {row.key: row.recipe for row in read_rows(study.name, plan.results)}
        for variant, changes in study.variants(plan.base).items():
            config = changed(plan.base, changes)
            owner = DEFAULT if config == plan.base else f"{study.name}/{variant}"
            for seed in range(plan.seeds):
                run = plan.runs / plan.budget / f"{owner}-{seed}"
                config = replace(config, seed=seed, run=run)
                recipe = digest(settings(config), plan.refine, plan.clips)
                if plan.again or done.get((study.name, plan.budget, variant, seed)) != recipe:
                    jobs.append(Job(study, variant, config, recipe))
    return jobs


def settings(config: Config) -> dict[str, Any]:
    """What decides the outcome of a training run, ready for JSON."""
    chosen = {name: value for name, value in asdict(config).items() if name not in UNRELATED}
    return json.loads(json.dumps(chosen, default=str))


def digest(*values: Any) -> str:
    """Twelve hex digits that stand for the values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


def run_studies(studies: Sequence[Study], plan: Plan) -> list[Row]:
    """Trains and measures what is missing and stores each row as soon as it is there; returns the new rows.

    One failure does not stop the others: when all is done, RuntimeError names what failed, and a second call tries
    that again.
    """
    jobs = plan_jobs(studies, plan)
    if not jobs:
        return []
    make_data(plan, any(job.study.long_clips for job in jobs))
    waiting: dict[Path, list[Job]] = {}
    for job in jobs:
        waiting.setdefault(job.config.run, []).append(job)
    rows, failures = [], []
    with _pool(plan) as pool:
        ready: deque[Path | Job] = deque(waiting)
        under_way: dict[Future[Any], Path | Job] = {}
        while ready or under_way:
            while ready and len(under_way) < plan.jobs:  # no more, so that what is trained is measured next
                item = ready.popleft()
                if isinstance(item, Path):
                    under_way[pool.submit(train_run, waiting[item][0].config)] = item
                else:
                    under_way[pool.submit(measure_run, item, plan)] = item
            for future in wait(under_way, return_when=FIRST_COMPLETED).done:
                item = under_way.pop(future)
                name = str(item) if isinstance(item, Path) else f"{item.study.name} {item.variant} {item.config.seed}"
                if (error := future.exception()) is not None:
                    failures.append(f"{name}: {error}")
                    print(f"failed: {failures[-1]}", flush=True)
                elif isinstance(item, Path):
                    print(f"trained: {name}", flush=True)
                    ready.extendleft(reversed(waiting[item]))
                else:
                    rows.append(future.result())
                    add_row(rows[-1], plan.results)
                    print(f"measured: {name}", flush=True)
    if failures:
        raise RuntimeError("; ".join(failures))
    return rows


def make_data(plan: Plan, long_clips: bool) -> None:
    """Makes the clips that are not there yet, before anybody reads them."""
    make_clips(plan.base)
    folder = plan.case.long_clips
    if long_clips and not folder.exists():
        size = plan.base.model.image_size
        people = {"people": 0, "val_people": 0, "test_people": plan.test_people}
        generate(SyntheticConfig(out=folder, frames=LONG_CLIP, size=size, **people))


def train_run(config: Config) -> None:
    """Trains a run that is not there with the same settings; continues one that was cut short."""
    run, wanted = config.run, settings(config) | {"seed": config.seed}
    note = run / "recipe.json"
    stored = json.loads(note.read_text()) if note.exists() else {}
    if stored.get("settings") != wanted and run.exists():
        shutil.rmtree(run)
    if (run / "model.safetensors").exists():
        return
    commit = provenance(config.device)["commit"]
    with atomic_path(note) as path:
        path.write_text(json.dumps({"settings": wanted, "commit": commit}, indent=1) + "\n")
    config = replace(config, resume=(run / "state.safetensors").exists())
    with (run / "train.log").open("a") as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        train(config)


def measure_run(job: Job, plan: Plan) -> Row:
    """Measures a trained run."""
    config = job.config
    model = FML.load(config.run, config.device)
    found = job.study.measure(model, replace(plan.case, variant=job.variant))
    source = provenance(config.device)
    return Row(
        study=job.study.name,
        variant=job.variant,
        seed=config.seed,
        steps=config.steps,
        budget=plan.budget,
        machine=source["device"],
        torch=source["torch"],
        commit=source["commit"],
        trained=json.loads((config.run / "recipe.json").read_text())["commit"],
        recipe=job.recipe,
        config=dict(job.study.variants(plan.base)[job.variant]),
        metrics=found.metrics,
        spread=found.spread,
    )


def plan_for(budget: str, steps: int | None, people: int | None, **rest: Any) -> Plan:
    """A plan on a budget's default run; steps and people replace that run's."""
    given: dict[str, Iterable[Any] | int | None] = {"steps": steps, "people": people}
    return Plan(budget, replace(base_config(budget), **{k: v for k, v in given.items() if v is not None}), **rest)


@contextlib.contextmanager
def _pool(plan: Plan) -> Iterator[ProcessPoolExecutor]:
    """Fresh processes, with one thread each where they work on the CPU: several then keep out of each other's way."""
    before = {name: os.environ.get(name) for name in THREADS}
    if plan.base.device == "cpu":
        os.environ.update(dict.fromkeys(THREADS, "1"))
    start = _one_thread if plan.base.device == "cpu" else None
    try:
        with ProcessPoolExecutor(plan.jobs, get_context("spawn"), start, max_tasks_per_child=1) as pool:
            yield pool
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _one_thread() -> None:
    torch.set_num_threads(1)
