"""The evaluation protocol on clips that the face detector has seen, or has not."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fmlfast.data.shards import ShardWriter, list_clips, read_clip
from fmlfast.evaluation.protocol import SIMULATED, evaluate, measure
from fmlfast.evaluation.report import write_report
from fmlfast.evaluation.run import evaluate_run
from fmlfast.evaluation.table import METRICS, row_name
from fmlfast.model.fml import FML
from tests.helpers.small_model import SMALL

OWN = ["mean_face", "frames_1", "frames_4", "frames_4_refined"]
ADDED = ["simulated_frames_4", "simulated_frames_4_refined"]


def small_model() -> FML:
    torch.manual_seed(0)
    return FML(SMALL).eval()


@pytest.fixture(scope="module")
def table(detected_folder: Path) -> dict[str, Any]:
    return evaluate(small_model(), detected_folder, refine_steps=2)


def rows(table: dict[str, Any]) -> list[str]:
    return [name for name, value in table.items() if isinstance(value, dict) and "landmark_nme" in value]


def test_detected_clips_get_rows_with_simulated_landmarks_beside(table: dict[str, Any]) -> None:
    assert table["landmarks"] == "detector"
    assert sorted(rows(table)) == sorted(OWN + ADDED)
    for row in ADDED:
        assert tuple(table[row]) == METRICS and set(table["spread"][row]) == set(METRICS)
        assert table[row] != table[row.removeprefix("simulated_")]
    assert (table["people"], table["frames"], table["clips"]) == (3, 12, 3)


def test_simulated_rows_are_what_undetected_clips_give(table: dict[str, Any], synthetic_folder: Path) -> None:
    plain = evaluate(small_model(), synthetic_folder, refine_steps=2)
    assert plain["landmarks"] == SIMULATED and SIMULATED.startswith("simulated: ")
    assert sorted(rows(plain)) == sorted(OWN)
    for row in ADDED:
        assert table[row] == pytest.approx(plain[row.removeprefix("simulated_")], rel=3e-3), row
    # The pose of the mean face comes from the landmarks, too, but not what similarity alignment leaves.
    assert table["mean_face"]["vertex_mm"] == plain["mean_face"]["vertex_mm"]


def test_points_that_are_all_but_exact_give_better_landmarks(table: dict[str, Any]) -> None:
    assert table["frames_4"]["landmark_nme"] < 0.9 * table["simulated_frames_4"]["landmark_nme"]


def test_one_clip_without_detection_makes_a_table_of_simulated_landmarks(
    detected_folder: Path, synthetic_folder: Path, tmp_path: Path
) -> None:
    shutil.copy(detected_folder / "meta.json", tmp_path)
    shutil.copy(detected_folder / "test-truth-000000.tar", tmp_path)
    with ShardWriter(tmp_path, "test") as writer:
        for index, ref in enumerate(list_clips(detected_folder, "test")):
            clip = read_clip(ref)
            writer.add(replace(clip, detection=None) if index == 1 else clip)
    table = evaluate(small_model(), tmp_path, refine_steps=0)
    assert table["landmarks"] == SIMULATED and sorted(rows(table)) == sorted(OWN[:3])


def test_measures_add_no_rows_unless_asked(detected_folder: Path) -> None:
    result = measure(small_model(), detected_folder, refine_steps=0, clips=1)
    assert list(result.frames) == OWN[:3] and result.table["landmarks"] == "detector"


def test_real_clips_have_the_detectors_landmarks_and_no_simulated_rows(detected_folder: Path, tmp_path: Path) -> None:
    for name in ("test-000000.tar", "meta.json"):
        shutil.copy(detected_folder / name, tmp_path)
    table = evaluate(small_model(), tmp_path, refine_steps=0, clips=2)
    assert table["landmarks"] == "detector" and sorted(rows(table)) == sorted(OWN[:3])
    assert set(table["frames_4"]) == {"landmark_nme", "photometric"}


def test_a_report_names_the_simulated_rows(detected_folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    small_model().save(run)
    evaluate_run(run, detected_folder, refine_steps=1, clips=1)
    text = write_report(run).read_text()
    assert row_name("simulated_frames_4_refined") == "4 frames, refined, simulated landmarks"
    assert "4 frames, refined, simulated landmarks" in text and "The methods' landmarks: detector." in text
    headline = text[: text.index("<table")]
    assert "simulated landmarks" not in headline
