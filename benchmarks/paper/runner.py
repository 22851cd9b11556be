"""Trains what studies need and measures it, in processes of one thread each; what is done already is kept."""

import contextlib
import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.harness.rows import provenance
from benchmarks.paper.rows import FOLDER, Row, add_row, read_rows
from benchmarks.paper.study import LONG_CLIP, Case, Study, base_config, changed
from fmlfast.common.atomic import atomic_path
from fmlfast.common.child_processes import WorkerPool, single_threaded_children
from fmlfast.data.shards import read_meta
from fmlfast.data.synthetic.generate import SyntheticConfig, generate
from fmlfast.model.fml import FML
from train import Config, make_clips, settings, train

DEFAULT = "default"
T = TypeVar("T")


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
    """Lists what is still to be measured, on clips that are there."""
    jobs, case = [], plan.case
    clips = read_meta(case.data)
    for study in studies:
        done = {row.key: row.recipe for row in read_rows(study.name, plan.results)}
        for variant, changes in study.variants(plan.base).items():
            config = changed(plan.base, changes)
            owner = DEFAULT if config == plan.base else f"{study.name}/{variant}"
            trained = digest(settings(replace(config, seed=0)), clips)
            recipe = digest(trained, plan.refine, plan.clips, read_meta(case.long_clips) if study.long_clips else None)
            for seed in range(plan.seeds):
                run = plan.runs / plan.budget / f"{owner}-{seed}-{trained}"
                config = replace(config, seed=seed, run=run)
                if plan.again or done.get((study.name, plan.budget, variant, seed)) != recipe:
                    jobs.append(Job(study, variant, config, recipe))
    return jobs


def digest(*values: Any) -> str:
    """Hashes the values to twelve hex digits."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


def run_studies(studies: Sequence[Study], plan: Plan) -> list[Row]:
    """Trains and measures what is missing and stores each row as soon as it is there; returns the new rows.

    One failure does not stop the others: when all is done, RuntimeError names what failed, and a second call tries
    that again.
    """
    make_data(plan, any(study.long_clips for study in studies))
    waiting: dict[Path, list[Job]] = {}
    for job in plan_jobs(studies, plan):
        waiting.setdefault(job.config.run, []).append(job)
    rows, failures = [], []
    alone = single_threaded_children() if plan.base.device == "cpu" else contextlib.nullcontext()
    with alone, ThreadPoolExecutor(plan.jobs) as pool:
        ready: deque[Path | Job] = deque(waiting)
        under_way: dict[Future[Any], Path | Job] = {}
        while ready or under_way:
            while ready and len(under_way) < plan.jobs:  # no more, so that what is trained is measured next
                item = ready.popleft()
                if isinstance(item, Path):
                    under_way[pool.submit(_alone, train_run, waiting[item][0].config)] = item
                else:
                    under_way[pool.submit(_alone, measure_run, item, plan)] = item
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
        config = SyntheticConfig(out=folder, frames=LONG_CLIP, size=size, people=0, val_people=0)
        generate(replace(config, test_people=plan.test_people))


def train_run(config: Config) -> None:
    """Trains a run that is not there; continues one that was cut short."""
    run = config.run
    if (run / "model.safetensors").exists():
        return
    recipe = {"settings": settings(config), "commit": provenance(config.device)["commit"]}
    with atomic_path(run / "recipe.json") as path:
        path.write_text(json.dumps(recipe, indent=1) + "\n")
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
    """Makes a plan on a budget's default run; steps and people replace that run's."""
    given: dict[str, Iterable[Any] | int | None] = {"steps": steps, "people": people}
    return Plan(budget, replace(base_config(budget), **{k: v for k, v in given.items() if v is not None}), **rest)


def _alone(work: Callable[..., T], *arguments: Any) -> T:
    """Does some work in a fresh process, so that a crash takes nothing else along."""
    with WorkerPool(1) as pool:
        return pool.submit(work, *arguments).result()
