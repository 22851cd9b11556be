"""The studies: what they store and when they measure anew, and their measures on cases whose answer is known."""

import json
import os
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from conftest import SMALL
from torch import Tensor

import train as training
from benchmarks.experiments import pose, report, runner, studies
from benchmarks.experiments.disentangling import explained_share, transfer_errors, variance_ratio, within_mm
from benchmarks.experiments.disturbances import DISTURBANCES, bias, contrast, focal, noise, occlusion, side_light
from benchmarks.experiments.frames import first_frames
from benchmarks.experiments.rows import Row, add_row, read_rows
from benchmarks.experiments.runner import Job, Plan, plan_jobs, run_studies
from benchmarks.experiments.spaces import Space, best_fit, identity_space, pca
from benchmarks.experiments.study import Case, Changes, Measured, Study, base_config, changed
from benchmarks.experiments.summary import Number, number, ratio, verdict
from fmlfast import metrics
from fmlfast.data.shards import read_meta
from fmlfast.evaluate import Evaluation
from fmlfast.frames import Frames
from fmlfast.rotation import FRONTAL, rotation_from_axis_angle
from fmlfast.system import FML
from fmlfast.tally import rounded
from fmlfast.template import FaceTemplate


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
    assert f"std {value:.3f} ± 0.100\n\nSeeds 0; 2 steps; {row.machine}; torch {row.torch}; trained at commit" in page
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
        assert base in configs or study.name == "complement"  # whose models have no start from landmarks
        assert len({json.dumps(training.settings(config), sort_keys=True) for config in configs}) == len(configs)
    frames = studies.STUDIES["frames"].variants(base).values()
    assert {change["frames"] * change["batch"] for change in frames} == {base.frames * base.batch}


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


# ------------------------------------------------------------------------------------------------------- the measures


@pytest.fixture
def random() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def some_space(random: torch.Generator, dims: int = 4) -> Space:
    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    return Space(30 * normal(50, 3), normal(dims, 50, 3))


def moved(shapes: Tensor, random: torch.Generator) -> Tensor:
    """Each shape under a similarity of its own."""
    turn = rotation_from_axis_angle(torch.randn(len(shapes), 3, generator=random, dtype=torch.float64))
    return 1.7 * shapes @ turn.mT + torch.tensor([3.0, 5.0, 700.0])


def test_shapes_of_the_space_are_fitted_exactly(random: torch.Generator) -> None:
    space = some_space(random)
    codes = torch.randn(6, 4, generator=random, dtype=torch.float64)
    shapes = moved(space.mean + torch.einsum("nk,kvc->nvc", codes, space.basis), random)
    weights = torch.rand(50, generator=random) * (torch.arange(50) % 5 > 0)
    spoiled = shapes.clone()
    spoiled[:, ::5] += 100  # outside the region
    assert best_fit(space, spoiled, weights, rounds=200).max() < 1e-6
    twice = Space(space.mean, torch.cat([space.basis, space.basis[:2] + space.basis[1:3]]))
    assert best_fit(twice, spoiled, weights, rounds=200).max() < 1e-6
    assert best_fit(space.leading(3), spoiled, weights).min() > 0.01


def test_a_fit_is_least_squares(random: torch.Generator) -> None:
    """Against gradient descent on the same squared distance in the true shape's millimetres."""
    space, shape = some_space(random), torch.randn(1, 50, 3, generator=random, dtype=torch.float64)
    shape = moved(space.mean + 3 * shape, random)
    weights = torch.rand(50, generator=random).double() + 0.1
    share = weights / weights.sum()
    codes = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    search = torch.optim.LBFGS([codes], max_iter=100, tolerance_grad=1e-9, tolerance_change=1e-12)

    def fitted() -> Tensor:
        return (space.mean + torch.einsum("k,kvc->vc", codes, space.basis))[None]

    def loss() -> Tensor:
        search.zero_grad()
        place = metrics.similarity_align(fitted(), shape, weights)
        value = ((place.apply(fitted()) - shape).square().sum(-1) * share).sum()
        value.backward()
        return value

    search.step(loss)
    expected = metrics.vertex_error(fitted().detach(), shape, weights)
    torch.testing.assert_close(best_fit(space, shape, weights, rounds=300), expected, rtol=1e-3, atol=0.0)


def test_without_components_the_mean_is_fitted(random: torch.Generator) -> None:
    space = some_space(random)
    shapes = moved(space.mean + 3 * torch.randn(2, 50, 3, generator=random).double(), random)
    expected = metrics.vertex_error(space.mean.expand_as(shapes), shapes, torch.ones(50))
    torch.testing.assert_close(best_fit(space.leading(0), shapes, torch.ones(50)), expected)


def test_pca_finds_the_space_of_its_scans(random: torch.Generator) -> None:
    space = some_space(random, 3)
    codes = torch.randn(40, 3, generator=random, dtype=torch.float64) * torch.tensor([1.0, 0.5, 0.1])
    scans = space.mean + torch.einsum("nk,kvc->nvc", codes, space.basis)
    weights = torch.ones(50)
    found = pca(scans, weights, 12)
    assert best_fit(found, scans, weights, rounds=100).max() < 0.02  # Procrustes bends the space a little
    flat = found.basis.flatten(1)
    gram = flat @ flat.T
    torch.testing.assert_close(gram, torch.diag(gram.diagonal()), atol=1e-6 * float(gram.max()), rtol=0.0)
    assert (gram.diagonal().diff() <= 0).all()
    errors = [float(best_fit(found.leading(k), scans, weights).mean()) for k in range(4)]
    assert errors[0] > 1.5 * errors[1] > errors[2] > errors[3]
    assert len(pca(scans[:5], weights, 12).basis) == 4  # five scans differ in four directions
    assert best_fit(pca(scans[:5], weights, 12), scans[:5], weights, rounds=100).max() < 0.01


def test_the_identity_space_holds_the_models_faces(model: FML) -> None:
    """Learned ones and those of the start from landmarks."""
    model.code_mean.normal_()
    with torch.no_grad():
        model.face.identity_basis.mul_(20.0)  # untrained it hardly moves the face
    space = identity_space(model)
    assert model.shape_fit is not None
    assert len(space.basis) == SMALL.identity_dim + model.shape_fit.count
    codes = torch.randn(3, len(space.basis), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        shapes = model.face.neutral(model.face.displacements(codes), FaceTemplate.default(1))
    moved = (shapes - space.mean).flatten(1).T

    def left(some: Space) -> Tensor:
        directions = some.basis.flatten(1).T
        return (moved - directions @ torch.linalg.lstsq(directions, moved, driver="gelsd").solution).abs().max()

    assert left(space) < 1e-3 < 0.1 < left(space.leading(40))
    lengths = space.basis.flatten(1).norm(dim=1)
    assert (lengths.diff() <= 1e-9).all()


def test_exact_codes_transfer_without_error(random: torch.Generator) -> None:
    neutral, moves = 30 * torch.randn(4, 20, 3, generator=random), torch.randn(4, 3, 20, 3, generator=random)
    weights = torch.ones(20)
    for shift in (0, 1):
        assert transfer_errors(neutral, moves, neutral, moves, weights, shift).max() < 1e-4
    own = transfer_errors(neutral, moves, neutral, moves.flip(0), weights, 0)
    assert own.min() > 0.1
    # Person 1 wears what person 0 does: only that pair notices a wrong expression of person 0.
    wrong = moves.clone()
    wrong[0] += torch.randn(3, 20, 3, generator=random)
    errors = transfer_errors(neutral, wrong, neutral, moves, weights)
    assert errors[1] > 0.1 and errors[[0, 2, 3]].max() < 1e-4


def test_variance_within_people_over_variance_across(random: torch.Generator) -> None:
    person, frame = torch.randn(2000, 1, 3, generator=random), torch.randn(2000, 4, 3, generator=random)
    assert variance_ratio(person.expand(-1, 4, -1)) == 0
    assert variance_ratio(person + 0.5 * frame) == pytest.approx(0.25 / (1 + 0.25 / 4), rel=0.05)
    assert variance_ratio(frame) == pytest.approx(4, rel=0.05)
    with pytest.raises(ValueError, match="two people"):
        variance_ratio(person)


def test_the_share_that_causes_explain(random: torch.Generator) -> None:
    causes, other = torch.randn(100, 8, 10, generator=random), torch.randn(100, 8, 6, generator=random)
    person = 9 * torch.randn(100, 1, 6, generator=random)
    effect = causes @ torch.randn(10, 6, generator=random) / 10**0.5
    assert explained_share(person + effect, causes) == pytest.approx(1, abs=1e-6)
    assert explained_share(person + effect + other, causes) == pytest.approx(0.5, abs=0.08)
    assert explained_share(person + other, causes) == pytest.approx(0, abs=0.03)
    few = torch.randn(12, 4, 400, generator=random)  # ten of 36 directions are explained by chance
    assert explained_share(few, causes[:12, :4]) == pytest.approx(0, abs=0.05)
    with pytest.raises(ValueError, match="too few"):
        explained_share(other[:1, :3], causes[:1, :3])


def test_drift_in_millimetres(random: torch.Generator) -> None:
    face = 60 * torch.randn(1, 1, 400, 3, generator=random, dtype=torch.float64)
    drift = torch.randn(5, 6, 400, 3, generator=random, dtype=torch.float64)
    shapes = moved((face + drift).flatten(0, 1), random) / 1.7
    _, apart = within_mm(shapes.unflatten(0, (5, 6)), torch.ones(400))
    torch.testing.assert_close(apart, torch.full_like(apart, 3**0.5), rtol=0.05, atol=0.0)


def test_yaw_is_the_turn_sideways() -> None:
    frontal = torch.tensor(FRONTAL)
    turns = [
        rotation_from_axis_angle(torch.tensor(axis)) for axis in ([0, 0.5, 0.0], [0, -0.5, 0], [0, 0, 0.4], [0.3, 0, 0])
    ]
    yaw = pose.yaw_degrees(torch.stack([frontal, *(frontal @ turn for turn in turns)]))
    torch.testing.assert_close(yaw, torch.tensor([0.0, 28.648, 28.648, 0.0, 0.0]), atol=0.05, rtol=0.0)


# ---------------------------------------------------------------------------------------------------- the disturbances


def test_disturbances_change_what_they_say(frames: Frames) -> None:
    before = frames.images.clone(), frames.landmarks.clone(), frames.Ks.clone()
    eyes = (frames.landmarks[:, :, 36] - frames.landmarks[:, :, 45]).norm(dim=-1)[..., None, None]
    noisy = (noise(0.02, frames).landmarks - frames.landmarks) / eyes
    assert float(noisy.std()) == pytest.approx(0.02, rel=0.1) and abs(float(noisy.mean())) < 2e-3
    off = (bias(0.04, frames).landmarks - frames.landmarks) / eyes
    torch.testing.assert_close(off.norm(dim=-1), torch.full(off.shape[:-1], 0.04), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(off, off[:1, :1].expand_as(off), rtol=1e-2, atol=1e-4)
    covered = (occlusion(0.25, frames).images == 0.5).all(2).sum((-1, -2))
    box = (frames.landmarks.amax(2) - frames.landmarks.amin(2)).prod(-1)
    assert ((covered / box > 0.15) & (covered / box < 0.35)).all()
    assert (focal(1.4, frames).Ks[..., 0, 0] / frames.Ks[..., 0, 0] - 1.4).abs().max() < 1e-5
    assert torch.equal(focal(1.4, frames).Ks[..., :2, 2], frames.Ks[..., :2, 2])
    dark = DISTURBANCES["half as bright"](frames)
    torch.testing.assert_close(dark.linear, 0.5 * frames.linear, atol=1e-3, rtol=1e-3)
    lit = side_light(0.6, frames).linear / frames.linear.clamp(min=1e-3)
    assert lit[..., 0].median() < 0.5 < 1.2 < lit[..., -1].median()
    assert contrast(1.5, frames).images.std() > frames.images.std()
    for name, disturb in DISTURBANCES.items():
        first, second = disturb(frames), disturb(frames)
        changes = [not torch.equal(a, b) for a, b in zip(first.tensors(), frames.tensors(), strict=True)]
        assert sum(changes) == 1, name  # one thing at a time
        assert all(torch.equal(a, b) for a, b in zip(first.tensors(), second.tensors(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(before, (frames.images, frames.landmarks, frames.Ks), strict=True))
