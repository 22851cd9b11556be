"""The studies: what they store, when they measure anew, and what they write of it."""

import json
import os
import re
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

import train as training
from benchmarks.paper import presets, report, runner, studies
from benchmarks.paper.frames import first_frames
from benchmarks.paper.rows import Row, add_row, read_rows
from benchmarks.paper.runner import Job, Plan, plan_jobs, run_studies
from benchmarks.paper.study import Case, Changes, Measured, Study, base_config, changed
from benchmarks.paper.summary import Number, number, ratio, verdict
from fmlfast.data.shards import read_meta
from fmlfast.evaluation.protocol import Evaluation
from fmlfast.evaluation.table import rounded
from fmlfast.model.fml import FML
from fmlfast.template.face_template import FaceTemplate
from tests.helpers.small_model import SMALL


def spread_of_weights(model: FML, case: Case) -> Measured:
    """A measure that costs nothing."""
    return Measured({"basis": {"std": float(model.face.identity_basis.std())}}, {"basis": {"std": 0.1}})


def two_variants(base: training.Config) -> dict[str, Changes]:
    return {"default": {"frames": base.frames}, "no prior": {"loss.expression": 0.0}}


def one_variant(base: training.Config) -> dict[str, Changes]:
    return {"no prior": {"loss.expression": 0.0}}


def one_line(rows: Sequence[Row], docs: Path) -> str:
    return f"std {number(rows, 'no prior', 'basis', 'std')}"


TINY = Study("tiny", "A tiny study", "About nothing.", two_variants, spread_of_weights, one_line)


@pytest.fixture
def plan(synthetic_folder: Path, tmp_path: Path) -> Plan:
    base = replace(base_config("cpu"), data=synthetic_folder, model=SMALL, steps=2, batch=2, people=6)
    return Plan("cpu", base, seeds=2, runs=tmp_path / "runs", results=tmp_path / "results")


def test_a_study_end_to_end(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In processes of its own: trains, measures, stores, writes, and does nothing twice."""
    plan = replace(plan, seeds=1)
    study = replace(TINY, variants=one_variant)
    (row,) = run_studies([study], plan)
    assert read_rows("tiny", plan.results) == [replace(row, **rounded(asdict(row)))]
    assert (row.variant, row.seed, row.steps, row.config) == ("no prior", 0, 2, {"loss.expression": 0.0})
    assert "1 thread" in row.machine and row.torch == torch.__version__ and row.commit and row.trained
    assert 0 < row.metrics["basis"]["std"] < 1
    (run,) = plan.runs.rglob("model.safetensors")
    assert run.relative_to(plan.runs).as_posix().startswith("cpu/tiny/no prior-0-")
    assert run_studies([study], plan) == []
    for module in (report, studies):
        monkeypatch.setattr(module, "STUDIES", {"tiny": TINY})
    page = report.write_report(plan.results, tmp_path / "docs").read_text()
    value = row.metrics["basis"]["std"]
    assert "## A tiny study\n\nAbout nothing.\n\n### CPU budget\n\nNot measured yet: default.\n\n" in page
    flat = re.sub(r"(?<!\n)\n(?!\n)", " ", page)  # as if no line were wrapped
    assert f"std {value:.3f} ± 0.100\n\nSeeds 0; 2 steps; {row.machine}; torch {row.torch}; trained at commit" in flat
    assert page.rstrip().endswith("### GPU budget\n\nNot measured.")


def test_what_is_measured_anew(plan: Plan, tmp_path: Path) -> None:
    jobs = plan_jobs([TINY], plan)
    assert [(job.variant, job.config.seed) for job in jobs] == [
        ("default", 0),
        ("default", 1),
        ("no prior", 0),
        ("no prior", 1),
    ]
    names = [job.config.run.relative_to(plan.runs).as_posix().rpartition("-")[0] for job in jobs[1:3]]
    assert names == ["cpu/default-1", "cpu/tiny/no prior-0"]
    for job in jobs[:3]:
        add_row(a_row(variant=job.variant, seed=job.config.seed, recipe=job.recipe), plan.results)
    assert [(job.variant, job.config.seed) for job in plan_jobs([TINY], plan)] == [("no prior", 1)]
    assert len(plan_jobs([TINY], replace(plan, again=True))) == 4
    assert len(plan_jobs([TINY], replace(plan, refine=3))) == 4
    longer = replace(plan, base=replace(plan.base, steps=3))
    assert len(plan_jobs([TINY], longer)) == 4
    runs = {job.config.run for some in (plan, longer) for job in plan_jobs([TINY], replace(some, again=True))}
    assert len(runs) == 8  # a run of other settings stays beside it
    quieter = replace(plan, base=replace(plan.base, log_every=7))
    assert len(plan_jobs([TINY], quieter)) == 1
    (tmp_path / "meta.json").write_text(json.dumps(read_meta(plan.base.data) | {"seed": 9}))
    assert len(plan_jobs([TINY], replace(plan, base=replace(plan.base, data=tmp_path)))) == 4


def test_a_run_that_was_cut_short_continues_and_a_finished_one_stays(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(plan.base, run=plan.runs / "a", checkpoint_every=1)
    seen: list[bool] = []

    def cut_short(config: training.Config) -> None:
        seen.append(config.resume)
        (config.run / "state.safetensors").write_bytes(b"")
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "train", cut_short)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            runner.train_run(config)
    assert seen == [False, True]
    (config.run / "model.safetensors").write_bytes(b"")
    runner.train_run(config)
    assert len(seen) == 2


def test_a_crash_ends_one_piece_of_work_only() -> None:
    with pytest.raises(BrokenProcessPool):
        runner._alone(os._exit, 1)
    assert runner._alone(max, 2, 3) == 3


def test_one_failure_does_not_stop_the_others(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails_once(job: Job, plan: Plan) -> Row:
        if (job.variant, job.config.seed) == ("no prior", 1):
            raise ValueError("no luck")
        return a_row(variant=job.variant, seed=job.config.seed, recipe=job.recipe)

    monkeypatch.setattr(runner, "_alone", lambda work, *arguments: work(*arguments))
    monkeypatch.setattr(runner, "train_run", lambda config: None)
    monkeypatch.setattr(runner, "measure_run", fails_once)
    with pytest.raises(RuntimeError, match="^tiny no prior 1: no luck$"):
        run_studies([TINY], plan)
    assert [row.key[2:] for row in read_rows("tiny", plan.results)] == [("default", 0), ("default", 1), ("no prior", 0)]
    assert [(job.variant, job.config.seed) for job in plan_jobs([TINY], plan)] == [("no prior", 1)]


def test_settings_are_changed_by_name() -> None:
    base = base_config("cpu")
    config = changed(base, {"loss.photometric": 0.0, "frames": 2})
    assert (config.loss.photometric, config.frames) == (0.0, 2)
    assert replace(config, loss=base.loss, frames=4) == base
    with pytest.raises(ValueError, match="LossWeights has no setting 'nothing'"):
        changed(base, {"loss.nothing": 0.0})
    with pytest.raises(ValueError, match="Config has no setting 'los'"):
        changed(base, {"los.photometric": 0.0})


@pytest.mark.parametrize("budget", ["cpu", "gpu"])
def test_every_variant_is_a_setting_and_one_is_the_default(budget: str) -> None:
    base = base_config(budget)
    for study in studies.STUDIES.values():
        variants = study.variants(base)
        configs = [changed(base, changes) for changes in variants.values()]
        # Those of complement have no start from landmarks, those of presets are trained for fewer steps.
        assert base in configs or study.name in ("complement", "presets")
        assert len({json.dumps(training.settings(config), sort_keys=True) for config in configs}) == len(configs)
    frames = studies.STUDIES["frames"].variants(base).values()
    assert {change["frames"] * change["batch"] for change in frames} == {base.frames * base.batch}


@pytest.mark.parametrize("budget", ["cpu", "gpu"])
def test_the_papers_choices_are_those_of_its_preset(budget: str) -> None:
    base, paper = base_config(budget), training.PRESETS["paper"]
    changes = presets.variants(base)
    ours, theirs = (changed(base, changes[name]) for name in ("aligned", "paper"))
    assert ours == replace(base, steps=300)
    size = ("level", "image_size", "input_size", "channels", "width", "identity_dim", "reflectance_dim")
    assert theirs.model == replace(paper.model, **{name: getattr(base.model, name) for name in size})
    assert theirs.loss == paper.loss
    assert replace(theirs, model=base.model, loss=base.loss) == ours


def test_both_presets_stand_side_by_side(tmp_path: Path) -> None:
    metrics = {"vertex_mm": 3.0, "landmark_nme": 2.0, "photometric": 0.05}
    rows = [
        a_row(variant="aligned", metrics={"frames_4": metrics, "mean_face": {"vertex_mm": 4.0}}),
        a_row(variant="paper", metrics={"frames_4": {**metrics, "vertex_mm": 5.0}, "mean_face": {"vertex_mm": 4.0}}),
    ]
    lines = presets.section(rows, tmp_path).split("\n")
    assert lines[0] == "|  | vertex_mm | over the mean face | landmark_nme | photometric |"
    assert lines[2] == "| 1 frame, aligned | – | – | – | – |"
    assert lines[4:6] == [
        "| 4 frames, aligned | 3.00 | 0.750 | 2.00 | 0.050 |",
        "| 4 frames, paper | 5.00 | 1.25 | 2.00 | 0.050 |",
    ]
    assert [line.split(" |")[0] for line in lines[6:]] == ["| 4 frames, refined, aligned", "| 4 frames, refined, paper"]


def test_a_page_without_measurements_says_so(tmp_path: Path) -> None:
    page = report.write_report(tmp_path / "none", tmp_path).read_text()
    assert page.count("Not measured.") == 2 * len(studies.STUDIES)
    assert "## Claims\n\nNone measured yet." in page


def test_the_page_begins_with_all_claims(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = "It helps: reproduced, 1 against 2."
    monkeypatch.setattr(report, "STUDIES", {"tiny": replace(TINY, section=lambda rows, docs: f"**{line}**\n\nMore.")})
    add_row(a_row(), tmp_path)
    page = report.write_report(tmp_path, tmp_path).read_text()
    assert f"## Claims\n\nCPU budget:\n\n- {line}\n\n" in page
    assert page.index("## Claims") < page.index("## A tiny study")


# ------------------------------------------------------------------------------------------------------- the numbers


def a_row(**given) -> Row:
    told = {"study": "tiny", "variant": "default", "seed": 0, "steps": 2, "budget": "cpu", "machine": "m", "torch": "t"}
    told |= {"commit": "c", "trained": "c", "recipe": "r", "config": {}, "metrics": {}, "spread": {}}
    return Row(**(told | given))  # type: ignore[arg-type]


def test_rows_survive_the_file_and_replace_older_ones(tmp_path: Path) -> None:
    add_row(a_row(seed=1), tmp_path)
    add_row(a_row(metrics={"x": {"y": 1.0}}), tmp_path)
    add_row(a_row(metrics={"x": {"y": 2.0}}), tmp_path)
    assert read_rows("tiny", tmp_path) == [a_row(metrics={"x": {"y": 2.0}}), a_row(seed=1)]
    assert read_rows("other", tmp_path) == []
    add_row(a_row(seed=1, recipe="new"), tmp_path)
    add_row(a_row(variant="another"), tmp_path)
    assert read_rows("tiny", tmp_path) == [a_row(variant="another"), a_row(seed=1, recipe="new")]
    (tmp_path / "tiny.json").write_text('[{"study": "tiny"}]')
    with pytest.raises(ValueError, match="does not hold rows"):
        read_rows("tiny", tmp_path)


def test_seeds_give_a_mean_and_a_deviation() -> None:
    rows = [a_row(seed=i, metrics={"a": {"x": v}, "mean_face": {"x": 2.0}}) for i, v in enumerate((1.0, 2.0, 3.0))]
    assert number(rows, "default", "a", "x") == Number({0: 1.0, 1: 2.0, 2: 3.0})
    assert str(number(rows, "default", "a", "x")) == "2.00 ± 1.00"
    assert str(ratio(rows, "default", "a", "x")) == "1.00 ± 0.50"
    assert number(rows, "default", "b", "x") is None and number(rows, "other", "a", "x") is None
    one = [a_row(metrics={"a": {"x": 1.0}, "mean_face": {"x": 2.0}}, spread={"a": {"x": 0.2}})]
    assert number(one, "default", "a", "x") == Number({0: 1.0}, 0.2)
    assert str(ratio(one, "default", "a", "x")) == "0.500 ± 0.100"


def test_verdicts_follow_from_the_numbers() -> None:
    low, high = Number({0: 0.70}, 0.01), Number({0: 0.78}, 0.01)
    assert verdict("A", low, high) == "**A: reproduced, 0.700 ± 0.010 against 0.780 ± 0.010.**"
    assert ": not reproduced, 0.780" in verdict("A", high, low)
    assert ": undecided, " in verdict("A", low, Number({0: 0.71}, 0.01))
    assert verdict("A", low, None) == "**A: not measured.**"
    assert ": undecided, 0.700 against 0.780; one seed" in verdict("A", Number({0: 0.7}), Number({0: 0.78}))
    # Seeds differ more than variants do, but always in the same way.
    seeds, above = Number({0: 0.7, 1: 0.8, 2: 0.9}), Number({0: 0.72, 1: 0.81, 2: 0.92})
    assert ": reproduced, 0.800 ± 0.100 against 0.817" in verdict("A", seeds, above)
    assert ": not reproduced, " in verdict("A", above, seeds)
    assert ": undecided, " in verdict("A", seeds, Number({0: 0.9, 1: 0.8, 2: 0.72}))


def test_the_first_frame_of_each_person_is_found() -> None:
    values = torch.arange(5.0)
    people = ["b", "b", "a", "a", "a"]
    found = Evaluation({}, FaceTemplate.default(0), {}, {"frames_1": {"vertex_mm": values}}, people)
    assert first_frames(found, "frames_1", "vertex_mm").tolist() == [0.0, 2.0]


def test_the_committed_rows_are_found() -> None:
    assert all(read_rows(name) for name in studies.STUDIES)
