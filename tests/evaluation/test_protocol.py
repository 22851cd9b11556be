"""The evaluation protocol on synthetic clips whose truth is known."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fmlfast import metrics
from fmlfast.camera import project
from fmlfast.data.frames import Frames
from fmlfast.data.shards import list_clips, read_clip, read_meta, read_truth, write_meta
from fmlfast.evaluation import protocol as module
from fmlfast.evaluation.methods import Estimate, default_methods, mean_face
from fmlfast.evaluation.protocol import evaluate, evaluation_template, measure
from fmlfast.evaluation.run import evaluate_run
from fmlfast.evaluation.table import METRICS, ErrorTable
from fmlfast.ibug68 import LANDMARKS_66
from fmlfast.model.fml import FML
from fmlfast.model.landmark_pose import fit_pose
from fmlfast.template.face_template import FaceTemplate

ROWS = ["mean_face", "frames_1", "frames_4", "frames_4_refined"]


@pytest.fixture(scope="module")
def table(synthetic_folder: Path) -> dict[str, Any]:
    """The table of a small untrained model, refined a little."""
    return evaluate(small_model(), synthetic_folder, refine_steps=3)


def small_model() -> FML:
    from tests.helpers.small_model import SMALL

    torch.manual_seed(0)
    return FML(SMALL).eval()


def test_the_table_holds_what_it_should(table: dict[str, Any]) -> None:
    for row in ROWS:
        assert tuple(table[row]) == METRICS
        assert all(0 < value < 300 for value in table[row].values()), row
        assert set(table["spread"][row]) == set(METRICS)
    assert list(table["ratios"]) == ROWS[1:]
    for row in ROWS[1:]:
        ratio = table[row]["vertex_mm"] / table["mean_face"]["vertex_mm"]
        assert table["ratios"][row]["vertex_mm"] == pytest.approx(ratio, rel=1e-3)
    assert table["frames_4_refined"] != table["frames_4"] != table["frames_1"]
    assert (table["people"], table["clips"], table["frames"]) == (3, 3, 12)
    assert (table["split"], table["level"], table["refine_steps"]) == ("test", 1, 3)
    assert 0 < table["floor"]["graph"] < table["floor"]["complement"] < table["mean_face"]["neutral_mm"]
    assert table["floor"]["complement_rank"] == 10
    assert list(table["tone_groups"]) == ["dark", "medium", "light"]
    shares = [table["tone_groups"][name]["frames_4"]["vertex_mm"] / 3 for name in table["tone_groups"]]
    assert sum(shares) == pytest.approx(table["frames_4"]["vertex_mm"], rel=1e-3)  # one person in each
    assert json.loads(json.dumps(table)) == table


def test_expressions_are_compared_by_name(table: dict[str, Any], synthetic_folder: Path) -> None:
    named, names = table["expressions"], FaceTemplate.default(0).expression_names
    truth = read_truth(synthetic_folder, "test")
    true = torch.cat([torch.from_numpy(truth[ref.key]["expression"]) for ref in list_clips(synthetic_folder, "test")])
    both = true[:, [names.index("eyeBlinkLeft"), names.index("eyeBlinkRight")]]
    blink = named["by_name"]["eyeBlink"]
    assert blink["activity"] == pytest.approx(float(both.mean()), rel=1e-4)
    assert blink["active"] == pytest.approx(float((both > 0.1).float().mean()), rel=1e-4)
    for row in ROWS:
        assert set(blink[row]) == {"error", "active_error", "correlation"}
        assert named["mean_error"][row] == pytest.approx(
            sum(named["by_name"][name][row]["error"] for name in named["commonest"]) / 10, rel=1e-3
        )
    for name, known in named["by_name"].items():  # the mean face has no expression
        assert known["mean_face"]["error"] == pytest.approx(known["activity"], rel=1e-4), name
        assert known["mean_face"]["correlation"] is None
    activity = [known["activity"] for known in named["by_name"].values()]
    assert activity == sorted(activity, reverse=True) and list(named["by_name"])[:10] == named["commonest"]


@pytest.mark.gpu
def test_a_model_on_a_gpu_is_measured_alike(table: dict[str, Any], synthetic_folder: Path) -> None:
    found = evaluate(small_model().to("cuda"), synthetic_folder, refine_steps=3)
    for row in ROWS:
        assert found[row] == pytest.approx(table[row], rel=1e-2), row
    assert found["floor"] == pytest.approx(table["floor"], rel=1e-3)


def test_the_mean_face_row_is_the_templates_error(table: dict[str, Any], synthetic_folder: Path) -> None:
    template = FaceTemplate.default(1)
    errors, neutral_errors = [], []
    truth = read_truth(synthetic_folder, "test")
    for ref in list_clips(synthetic_folder, "test"):
        neutral = template.subdivide(torch.from_numpy(truth[ref.key]["vertices"]).float())
        moves = torch.einsum("me,evc->mvc", torch.from_numpy(truth[ref.key]["expression"]), template.expressions)
        posed = neutral + moves
        mean = template.vertices.expand_as(posed)
        errors.append(metrics.vertex_error(mean, posed, template.regions["face"]).mean())
        neutral_errors.append(metrics.vertex_error(mean[:1], neutral[None], template.regions["face"]).mean())
    assert table["mean_face"]["vertex_mm"] == pytest.approx(float(torch.stack(errors).mean()), rel=1e-4)
    assert table["mean_face"]["neutral_mm"] == pytest.approx(float(torch.stack(neutral_errors).mean()), rel=1e-4)


def test_the_truth_itself_has_no_error(synthetic_folder: Path) -> None:
    """A perfect reconstruction scores zero: evaluation and generator agree about frames, jaw line, light and units."""
    template = FaceTemplate.default(0)
    refs = list_clips(synthetic_folder, "test")
    clips = [read_clip(ref) for ref in refs]
    truth = read_truth(synthetic_folder, "test")
    frames = Frames.from_clips(clips, clips[0].images.shape[1])
    target = module._target(frames, clips, truth, template)
    known = target.truth
    assert known is not None
    reflectance = torch.stack([torch.from_numpy(truth[ref.key]["reflectance"]).float() for ref in refs])
    translation, sh = (
        torch.cat([torch.from_numpy(truth[ref.key][name]).float() for ref in refs]) for name in ("translation", "sh")
    )
    perfect = Estimate(
        known.neutral,
        known.posed,
        known.rotation,
        translation,
        known.posed @ known.rotation.mT + translation[:, None],
        reflectance[known.clip],
        sh,
        known.expression,
    )
    errors, distances = module._errors(perfect, target, template, template)
    assert distances is not None and distances.max() < 1e-3
    for name in ("vertex_mm", "neutral_mm", "normal_deg", "rotation_deg", "tone_log", "pattern"):
        assert errors[name].max() < 1e-2, name
    off = errors["landmark_nme"]
    assert (off > 1e-2).sum() <= 1 and off.max() < 0.05  # two candidates of a jaw point tie to 1e-5 px in one frame
    dark = replace(perfect, sh=0.5 * sh)
    assert (errors["photometric"] < 0.6 * module._photometric(dark, target, template)).all()
    assert errors["photometric"].median() < 20  # camera noise, occluders, gloss and fine detail remain


def test_neither_batch_size_nor_order_of_people_matters(synthetic_folder: Path, table: dict[str, Any]) -> None:
    one_by_one = evaluate(small_model(), synthetic_folder, refine_steps=3, batch=1)
    for row in ROWS:
        for name in METRICS:
            assert one_by_one[row][name] == pytest.approx(table[row][name], rel=2e-2), (row, name)


def test_refinement_of_no_steps_has_no_row(synthetic_folder: Path) -> None:
    table = evaluate(small_model(), synthetic_folder, refine_steps=0, clips=2)
    assert "frames_4_refined" not in table and table["clips"] == 2


def test_clips_without_truth_give_image_errors_only(synthetic_folder: Path, tmp_path: Path) -> None:
    for path in (*synthetic_folder.glob("test-0*.tar"), synthetic_folder / "meta.json"):
        shutil.copy(path, tmp_path)
    result = measure(small_model(), tmp_path, refine_steps=2)
    for row in ROWS:
        assert set(result.table[row]) == {"landmark_nme", "photometric"}
    assert "floor" not in result.table and result.vertex_errors == {}
    assert (result.table["people"], result.table["frames"]) == (3, 12)


def test_a_model_in_training_stays_in_training_and_unchanged(synthetic_folder: Path) -> None:
    model = small_model().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    evaluate(model, synthetic_folder, refine_steps=1, clips=1)
    assert model.training and all(p.requires_grad for p in model.parameters())
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


def test_a_run_gets_its_files(synthetic_folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    small_model().save(run)
    table = evaluate_run(run, synthetic_folder, "val", refine_steps=1)
    assert json.loads((run / "evaluation.json").read_text()) == table
    assert table["split"] == "val" and table["people"] == 2
    assert (run / "error_map.png").stat().st_size > 1000
    assert sorted(p.name for p in run.iterdir()) == [
        "config.json",
        "error_map.png",
        "evaluation.json",
        "model.safetensors",
    ]
    other = evaluate_run(run, synthetic_folder, "test", refine_steps=0, clips=1)
    assert json.loads((run / "evaluation.json").read_text()) == other
    kept = run / f"evaluation-{synthetic_folder.name}-val.json"
    assert json.loads(kept.read_text()) == table
    (run / "evaluation.json").write_text("damaged")
    evaluate_run(run, synthetic_folder, "test", refine_steps=0, clips=1)
    assert (run / "evaluation-unknown-unknown.json").read_text() == "damaged"


def test_a_run_on_real_clips_gets_what_can_be_known(synthetic_folder: Path, tmp_path: Path) -> None:
    run, real = tmp_path / "run", tmp_path / "real"
    small_model().save(run)
    real.mkdir()
    for path in (*synthetic_folder.glob("test-0*.tar"), synthetic_folder / "meta.json"):
        shutil.copy(path, real)
    table = evaluate_run(run, real, refine_steps=1, clips=2)
    assert set(table["frames_4_refined"]) == {"landmark_nme", "photometric"} and "floor" not in table
    assert table["data"] == "real" and table["clips"] == 2
    assert json.loads((run / "evaluation.json").read_text()) == table
    assert not (run / "error_map.png").exists()


def test_errors_of_every_frame_are_kept(synthetic_folder: Path) -> None:
    result = measure(small_model(), synthetic_folder, refine_steps=1, batch=2)
    refs = list_clips(synthetic_folder, "test")
    assert result.people == [ref.key for ref in refs for _ in range(4)]
    assert list(result.frames) == ROWS
    for row in ROWS:
        for name in METRICS:
            values = result.frames[row][name]
            assert values.shape == (12,)
            people = values.view(3, 4).mean(1)  # the table: means of people's means, and their standard error
            assert result.table[row][name] == pytest.approx(float(people.mean()), rel=1e-4)
            assert result.table["spread"][row][name] == pytest.approx(float(people.std() / 3**0.5), rel=1e-4)


def test_some_frames_of_a_clip_can_be_left_out(synthetic_folder: Path) -> None:
    whole = measure(small_model(), synthetic_folder, refine_steps=0)
    part = measure(small_model(), synthetic_folder, refine_steps=0, frames=2)
    assert list(part.frames) == ["mean_face", "frames_1", "frames_2"]
    assert part.table["frames"] == 6
    kept = torch.tensor([0, 1, 4, 5, 8, 9])
    for row in ("mean_face", "frames_1"):
        for name in METRICS:
            torch.testing.assert_close(part.frames[row][name], whole.frames[row][name][kept], rtol=1e-3, atol=1e-3)
    assert not torch.equal(part.frames["frames_2"]["vertex_mm"], whole.frames["frames_4"]["vertex_mm"][kept])
    with pytest.raises(ValueError, match="at least 1"):
        measure(small_model(), synthetic_folder, frames=0)


def test_contenders_are_compared_with_clips_as_they_are_stored(synthetic_folder: Path) -> None:
    def blind(model: FML, frames: Frames, *rest: Any) -> Iterator[tuple[str, Estimate]]:
        return default_methods(model, replace(frames, images=torch.zeros_like(frames.images)), *rest)

    seen = measure(small_model(), synthetic_folder, refine_steps=0)
    unseen = measure(small_model(), synthetic_folder, refine_steps=0, methods=blind)
    assert (
        unseen.table["mean_face"]["photometric"] > 1.5 * seen.table["mean_face"]["photometric"]
    )  # black is not stored
    assert unseen.table["mean_face"]["vertex_mm"] == seen.table["mean_face"]["vertex_mm"]


def test_clips_of_another_template_are_refused(synthetic_folder: Path, tmp_path: Path) -> None:
    for path in synthetic_folder.glob("test-*.tar"):
        shutil.copy(path, tmp_path)
    meta = read_meta(synthetic_folder)
    assert meta["template"] == FaceTemplate.default(0).fingerprint
    write_meta(tmp_path, {**meta, "template": "0123456789abcdef"})
    with pytest.raises(ValueError, match="0123456789abcdef"):
        evaluate(small_model(), tmp_path)
    with pytest.raises(ValueError, match="nowhere"):
        evaluate(small_model(), synthetic_folder, "nowhere")
    with pytest.raises(ValueError):
        evaluate(small_model(), tmp_path / "absent")


def test_every_level_of_the_template_is_measured_on_the_same_mesh() -> None:
    levels = [evaluation_template(FaceTemplate.default(level)).level for level in (0, 1)]
    assert levels == [1, 1]


def test_the_mean_face_is_posed_by_its_landmarks(synthetic_folder: Path) -> None:
    template = FaceTemplate.default(0)
    points = template.landmarks(template.vertices)[list(LANDMARKS_66)]
    frames = Frames.from_clips([read_clip(list_clips(synthetic_folder, "test")[0])], 64)
    landmarks, Ks = frames.landmarks[0][:, list(LANDMARKS_66)], frames.Ks[0]
    rotation, translation = fit_pose(landmarks, Ks, points)
    offset = (project(points @ rotation.mT + translation[:, None], Ks) - landmarks)[:, 17:].norm(dim=-1).mean()
    estimate = mean_face(small_model(), frames, evaluation_template(template))
    torch.testing.assert_close(estimate.rotation, rotation)
    torch.testing.assert_close(estimate.translation, translation)
    assert offset < 3  # px of 64


def test_people_count_once_however_many_clips_they_have() -> None:
    error_table = ErrorTable(2)
    errors = {"vertex_mm": torch.tensor([1.0, 3.0, 5.0])}
    distances = torch.tensor([[1.0, 0.0], [3.0, 0.0], [5.0, 6.0]])
    error_table.add("mean_face", ["a", "a", "b"], errors, distances.sum(0))
    error_table.add("mean_face", ["b"], {"vertex_mm": torch.tensor([9.0])}, torch.tensor([9.0, 6.0]))
    error_table.add("frames_1", ["a", "a", "b", "b"], {"vertex_mm": torch.tensor([1.0, 1.0, 2.0, 2.0])}, None)
    table = error_table.table()
    assert table["mean_face"]["vertex_mm"] == 4.5  # a: 2, b: 7
    assert table["spread"]["mean_face"]["vertex_mm"] == pytest.approx(2.5)  # std of 2 and 7 over sqrt 2
    assert table["ratios"] == {"frames_1": {"vertex_mm": pytest.approx(1.5 / 4.5)}}
    assert (error_table.people, error_table.frames) == (2, 4)
    torch.testing.assert_close(error_table.vertex_errors()["mean_face"], torch.tensor([4.5, 3.0]).double())
