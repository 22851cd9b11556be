"""Figures: whom they show, what they say, and that drawn numbers are the evaluation's."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.paper import figures
from benchmarks.paper.figures_faces import EXAMPLE_QUANTILES, camera_frame, error_faces, mono_multi, quantiles
from benchmarks.paper.figures_pass import ALONE, Pass, at_quantile, run_pass
from benchmarks.paper.figures_store import MOST_BYTES, NAMES, Figure, section, store
from benchmarks.paper.figures_walks import STEPS, walk, walks
from benchmarks.paper.spaces import Space, identity_space, ordered, reflectance_space
from fmlfast import metrics
from fmlfast.camera import project
from fmlfast.data.shards import list_clips, read_clip, read_truth
from fmlfast.evaluation.protocol import evaluation_template, measure
from fmlfast.model.fml import FML
from fmlfast.visualization.panels import PAPER
from tests.helpers.small_model import SMALL


def small_model() -> FML:
    """Untrained, with codes spread as if training subjects had decided so."""
    torch.manual_seed(0)
    model = FML(SMALL).eval()
    model.code_mean.copy_(torch.randn_like(model.code_mean))
    model.code_factor.copy_(torch.randn_like(model.code_factor))
    return model


@pytest.fixture(scope="module")
def found(synthetic_folder: Path) -> Pass:
    return run_pass(small_model(), synthetic_folder, "test", refine_steps=2, clips=None)


@pytest.fixture(scope="module")
def drawn(synthetic_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of all figures, drawn by the command."""
    folder = tmp_path_factory.mktemp("figures")
    small_model().save(folder / "seven", train={"seed": 7, "steps": 11})
    command = [str(folder / "seven"), "--data", str(synthetic_folder), "--refine", "2", "--out", str(folder / "out")]
    figures.main(command)
    return folder / "out"


def test_people_are_chosen_by_rank() -> None:
    errors = {f"p{i}": float(value) for i, value in enumerate((30, 0, 20, 50, 10, 40))}
    assert [at_quantile(errors, share) for share in (0, 0.2, 0.39, 0.6, 0.9, 1)] == ["p1", "p4", "p2", "p0", "p3", "p3"]
    assert at_quantile({"b": 1.0, "a": 1.0, "c": 1.0}, 0.5) == "b"  # ties by name, so the same in each run
    for share in (-0.1, 1.1):
        with pytest.raises(ValueError, match="quantile"):
            at_quantile(errors, share)


def test_a_pass_keeps_what_evaluation_measured(found: Pass, synthetic_folder: Path) -> None:
    expected = measure(small_model(), synthetic_folder, refine_steps=2)
    for row in found.rows:
        assert found.evaluation.table[row] == pytest.approx(expected.table[row], rel=1e-3)
    assert (found.refined, found.joint) == ("frames_4_refined", "frames_4")
    frames = list(range(12))
    face = found.template.regions["face"]
    for row in found.rows:
        errors = found.evaluation.frames[row]
        distances = found.distances(row, frames)
        torch.testing.assert_close(metrics.weighted_mean(distances, face), errors["vertex_mm"], rtol=1e-5, atol=1e-5)
        assert distances[:, face == 0].max() == 0
        shapes, neutral = found.neutral_distances(row, frames)
        torch.testing.assert_close(metrics.weighted_mean(neutral, face), errors["neutral_mm"], rtol=1e-5, atol=1e-5)
        offsets = torch.linalg.vector_norm(shapes - found.truth.neutral[found.truth.clip], dim=-1)
        torch.testing.assert_close(offsets[:, face > 0], neutral[:, face > 0])
        for person, value in found.people_errors(row).items():
            own = [i for i in frames if found.evaluation.people[i] == person]
            assert value == pytest.approx(float(errors["vertex_mm"][own].mean()))
            gap = (errors["vertex_mm"][own] - value).abs()
            assert found.typical_frame(person, row) == own[int(gap.argmin())]
    stored = [read_clip(ref).images for ref in list_clips(synthetic_folder, "test")]
    assert (found.images * 255 - torch.from_numpy(np.concatenate(stored))).abs().max() < 1e-3


def test_the_true_face_lies_over_its_picture(found: Pass, synthetic_folder: Path) -> None:
    truth, frames = found.truth, [1, 6]
    surface = camera_frame(truth.posed, truth.rotation, truth.translation, frames)
    points = project(found.template.landmarks(surface), found.Ks[frames])
    stored = read_truth(synthetic_folder, "test")
    keys = [found.evaluation.people[frame] for frame in frames]
    landmarks = np.stack([stored[key]["landmarks"][frame % 4] for key, frame in zip(keys, frames, strict=True)])
    assert (points - torch.from_numpy(landmarks))[:, 17:].abs().max() < 0.5  # px of 64; the jaw line slides


def test_clips_without_truth_are_refused(synthetic_folder: Path, tmp_path: Path) -> None:
    for path in synthetic_folder.glob("test-0*.tar"):
        shutil.copy(path, tmp_path)
    with pytest.raises(ValueError, match="ground truth"):
        run_pass(small_model(), tmp_path, "test", refine_steps=0, clips=None)


def test_figures_show_the_right_people(found: Pass) -> None:
    refined = found.people_errors(found.refined)
    figure = quantiles(found, small_model().template, size=32)
    assert list(figure.numbers["people"]) == ["5%", "25%", "50%", "75%", "95%"]
    for share, shown in zip(EXAMPLE_QUANTILES, figure.numbers["people"].values(), strict=True):
        assert shown["person"] == at_quantile(refined, share)
        assert shown["person_mm"] == pytest.approx(refined[shown["person"]])
    people = [shown["person"] for shown in error_faces(found, size=32).numbers["vertex_mm"].values()]
    assert people == sorted(refined, key=lambda person: refined[person])
    figure = mono_multi(found)
    alone, joint = (found.people_errors(row, "neutral_mm") for row in (ALONE, found.joint))
    gains = {person: alone[person] - joint[person] for person in alone}
    assert sorted(gains, key=lambda person: gains[person])[1] == figure.numbers["person"]
    person = figure.numbers["person"]
    assert np.mean(list(figure.numbers["alone_mm"].values())) == pytest.approx(alone[person])
    assert figure.numbers["together_mm"] == pytest.approx(joint[person])
    assert f"({gains[person]:.2f} mm)" in figure.caption
    assert figure.numbers["better_share"] == pytest.approx(np.mean([gain > 0 for gain in gains.values()]))


def test_faces_are_drawn_where_the_camera_sees_them(found: Pass) -> None:
    size = 96
    figure = quantiles(found, small_model().template, size)
    person = figure.numbers["people"]["95%"]["person"]
    frame = found.typical_frame(person, found.refined)
    truth = found.truth
    surface = camera_frame(truth.posed, truth.rotation, truth.translation, [frame])
    points = project(surface, found.Ks[[frame]])[0] * size / 64
    page = figure.picture[-size:, :-64]  # its last row, without the colour bar
    true, distance = (page[:, -size:] if last else page[:, -2 * size - 4 : -size - 4] for last in (False, True))
    for cell in (true, distance):
        ys, xs = np.nonzero((cell != PAPER).any(-1))
        low, high = points.amin(0).clamp(min=0), points.amax(0).clamp(max=size)
        assert (
            np.abs(np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]) - torch.cat([low, high]).numpy()).max()
            < 2
        )
    grey = np.ptp(true.astype(int), axis=-1)
    assert grey.max() <= 3 and np.ptp(distance.astype(int), axis=-1).max() > 60


@pytest.mark.parametrize("space_of", [identity_space, reflectance_space])
def test_modes_hold_the_spread_of_codes(space_of: Callable[[FML], Space]) -> None:
    """Directions times their transpose is the covariance that the prior's codes give shapes and colours."""
    model = small_model()
    space = space_of(model)
    with torch.no_grad():
        codes = torch.cat([torch.zeros_like(model.code_factor[:1]), model.code_factor])
        alpha, beta = codes.split([SMALL.identity_dim, SMALL.reflectance_dim], 1)
        made = model.face.reflectance(model.code_mean[SMALL.identity_dim :] + beta)
        if space_of is identity_space:
            assert model.shape_fit is not None
            alpha = torch.block_diag(alpha, torch.eye(model.shape_fit.count))
            alpha[:, : SMALL.identity_dim] += model.code_mean[: SMALL.identity_dim]
            made = model.face.neutral(model.face.displacements(alpha), evaluation_template(model.template))
    made = made.double()
    rounded = 2.0**-24 * made[0].abs().max()  # in each of the few float32 terms that the model sums
    torch.testing.assert_close(space.mean, made[0], rtol=0, atol=8 * float(rounded))
    rows = torch.randperm(made[0].numel(), generator=torch.Generator().manual_seed(0))[:200]
    expected, basis = (made[1:] - made[0]).flatten(1)[:, rows], space.basis.flatten(1)[:, rows]
    covariance = expected.T @ expected
    torch.testing.assert_close(basis.T @ basis, covariance, rtol=1e-3, atol=1e-4 * float(covariance.abs().max()))


def test_a_walk_goes_through_the_mean() -> None:
    space = identity_space(small_model())
    for mode in range(2):
        steps = walk(space, mode)
        middle = len(STEPS) // 2
        torch.testing.assert_close(steps[middle], space.mean, rtol=0, atol=0)
        ends = torch.linalg.vector_norm(steps[-1] - steps[0], dim=-1)
        torch.testing.assert_close(ends, 6 * torch.linalg.vector_norm(space.basis[mode], dim=-1))
        assert ends.mean() > 0.1
        torch.testing.assert_close((steps[-1] + steps[0]) / 2, space.mean)


def test_modes_are_those_of_the_region() -> None:
    basis = torch.zeros(2, 5, 3, dtype=torch.float64)
    basis[0, :3, 0] = 5.0  # moves most, but where nothing counts
    basis[1, 3:, 1] = 1.0
    space = Space(torch.zeros(5, 3, dtype=torch.float64), basis)
    assert ordered(space).basis[0, 0, 0].abs() == pytest.approx(5)
    inside = ordered(space, torch.tensor([0.0, 0.0, 0.0, 1.0, 1.0])).basis
    assert inside[0, 3:, 1].abs().tolist() == pytest.approx([1, 1]) and inside[0, :3].abs().max() < 1e-9


def test_walks_say_how_far_they_go() -> None:
    model = small_model()
    figure = walks(model, size=24, width=20)
    shares = {k: v["variance_share"] for k, v in figure.numbers.items()}
    assert list(shares) == [f"{name} {i}" for name in ("identity", "reflectance") for i in (1, 2, 3, 4)]
    values = list(shares.values())
    assert values[:4] == sorted(values[:4], reverse=True) and 0.1 < sum(values[:4]) < 1
    assert sum(values[4:]) == pytest.approx(1)  # it has four reflectances
    model.code_factor.mul_(2)
    model.face.smooth.mul_(2)
    with torch.no_grad():
        model.face.identity_basis.div_(2)
    twice = walks(model, size=24, width=20).numbers
    for mode in ("identity 1", "reflectance 1"):
        assert twice[mode]["spread"] == pytest.approx(2 * figure.numbers[mode]["spread"], rel=1e-3)
    assert not np.array_equal(figure.picture[-22:, -22:], figure.picture[-22:, -6 * 24 - 20 : -6 * 24])


def test_files_and_their_notes(drawn: Path, found: Pass, synthetic_folder: Path) -> None:
    assert sorted(path.name for path in drawn.iterdir()) == sorted(f"{n}{s}" for n in NAMES for s in (".json", ".png"))
    for name in NAMES:
        with Image.open(drawn / f"{name}.png") as image:
            assert image.width <= 1100 and np.ptp(np.asarray(image.convert("L"))) > 150
        assert (drawn / f"{name}.png").stat().st_size <= MOST_BYTES
        note = json.loads((drawn / f"{name}.json").read_text())
        assert (note["run"], note["seed"], note["steps"], note["split"], note["refine_steps"]) == (
            "seven",
            7,
            11,
            "test",
            2,
        )
        assert (note["people"], note["clips"], note["frames"]) == (3, 3, 12)
        assert note["commit"] and note["caption"] and note["numbers"]
        assert str(synthetic_folder) not in json.dumps(note)
    errors = json.loads((drawn / "error_faces.json").read_text())["numbers"]
    assert errors["mean"] == {row: found.evaluation.table[row]["vertex_mm"] for row in found.rows}
    curves = json.loads((drawn / "cumulative.json").read_text())["numbers"]
    values = found.evaluation.frames[found.refined]["vertex_mm"]
    assert curves["frames"][found.refined]["median_mm"] == pytest.approx(float(values.median()), rel=1e-4)
    for limit in (1.0, 3.0):
        share = float((values <= limit).double().mean())
        assert curves["frames"][found.refined][f"below_{limit:g}_mm"] == pytest.approx(share, rel=1e-4)


def test_the_page_shows_what_is_drawn(drawn: Path, tmp_path: Path) -> None:
    page = section(drawn)
    for name in NAMES:
        note = json.loads((drawn / f"{name}.json").read_text())
        run = f"Run seven, seed 7, 11 steps, trained at commit {note['trained']}; 3 people of split test"
        assert f"](images/{name}.png)\n\n{note['caption']} {run}" in page
    shutil.copy(drawn / "walks.json", tmp_path)
    assert section(tmp_path).endswith("Not drawn yet: cumulative, error_faces, mono_multi, quantiles.")


def test_stored_colours_are_the_drawn_ones(tmp_path: Path) -> None:
    """Exactly, and nearly where the file would be too large otherwise."""
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, 2)
    noise = np.random.default_rng(0).integers(0, 256, (370, 370, 3), dtype=np.uint8)
    for picture, most in ((ramp, 0), (noise, 2)):
        path = store(Figure("some", "Some", picture, "Grey.", {"x": 1 / 3}), tmp_path, {"run": "r"})
        with Image.open(path) as image:
            lost = np.abs(np.asarray(image).astype(int) - picture)
        assert lost.max() <= most and (lost[(picture == 0) | (picture == 255)] == 0).all()
        assert path.stat().st_size <= MOST_BYTES
    assert sorted(path.name for path in tmp_path.iterdir()) == ["some.json", "some.png"]
    note = json.loads((tmp_path / "some.json").read_text())
    assert note == {"title": "Some", "caption": "Grey.", "run": "r", "numbers": {"x": 0.33333}}
