"""The table of a run that is measured against scans, and what stops the measuring."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fmlfast.evaluation.scans import protocol as scans
from fmlfast.evaluation.scans.datasets import NOW_POINTS, read_scans
from fmlfast.evaluation.scans.face_regions import FACE_PARTS
from fmlfast.evaluation.scans.protocol import evaluate_scans, face_disc
from fmlfast.mesh_io import write_mesh
from fmlfast.model.fml import FML
from fmlfast.reconstruction.result import Reconstruction
from tests.helpers.scan_scenes import TEMPLATE, TRIANGLES, deformed

pytest.importorskip("scipy")


def skin_of(vertices: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The skin of a head as a mesh of its own, for no scanner sees the inside of the mouth, and points of shoulders."""
    inside = (TEMPLATE.regions["skin"] > 0.5).numpy()
    triangles = TRIANGLES[inside[TRIANGLES].all(1)]
    used, triangles = np.unique(triangles, return_inverse=True)
    shoulders = np.random.default_rng(0).uniform(-200, -150, (100, 3))
    return np.vstack([vertices.numpy()[used], shoulders]), triangles.reshape(-1, 3)


@pytest.fixture
def scan_folder(tmp_path: Path) -> Path:
    """Two people in the plain layout with two photos each, anna's `b` with a scan of its own moment."""
    for seed, name in enumerate(("anna", "ben")):
        home = tmp_path / "scans" / name
        home.mkdir(parents=True)
        vertices = deformed(seed)
        write_mesh(home / "scan.ply", *skin_of(vertices))
        np.savetxt(home / "landmarks.txt", TEMPLATE.landmarks(vertices))
        for photo in "ab":
            Image.new("RGB", (40, 40), (seed, ord(photo), 0)).save(home / f"{photo}.png")
    posed = deformed(0) + TEMPLATE.expressions[TEMPLATE.expression_names.index("jawOpen")]
    write_mesh(tmp_path / "scans/anna/b.obj", *skin_of(posed))
    np.savetxt(tmp_path / "scans/anna/b.txt", TEMPLATE.landmarks(posed)[list(NOW_POINTS)])
    return tmp_path / "scans"


@pytest.fixture
def reconstructions(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], int]]:
    """Replaces reconstruction by one whose shapes are known: alone the mean face, jointly half way to the truth, with
    refinement the truth. Returns the calls."""
    calls: list[tuple[list[str], int]] = []

    def fake(images: list[Path], checkpoint: Path, *, refine: int) -> Reconstruction:
        calls.append(([path.name for path in images], refine))
        if any(path.name == "faceless.png" for path in images):
            raise ValueError("faceless.png: no face found")
        share = 0.0 if len(images) == 1 else 1.0 if refine else 0.5
        name = images[0].parent.name
        truth = deformed(0 if name == "anna" else 1)
        neutral = torch.lerp(TEMPLATE.vertices, truth, share)
        opened = share * TEMPLATE.expressions[TEMPLATE.expression_names.index("jawOpen")]
        posed = torch.stack([neutral + opened * (path.name == "b.png") for path in images])
        result = object.__new__(Reconstruction)
        for field, value in {"template": TEMPLATE, "neutral": neutral, "vertices": posed}.items():
            object.__setattr__(result, field, value)
        return result

    monkeypatch.setattr(scans, "reconstruct", fake)
    monkeypatch.setattr("fmlfast.evaluation.scans.alignment.MAX_POINTS", 300)
    return calls


@pytest.fixture
def run(tmp_path: Path, model: FML) -> Path:
    model.save(tmp_path / "run")
    return tmp_path / "run"


def test_a_run_is_measured_against_scans(scan_folder, run, reconstructions):
    for name in ("c", "faceless"):
        Image.new("RGB", (40, 40)).save(scan_folder / "ben" / f"{name}.png")
    table = evaluate_scans(run, scan_folder, refine=7)
    assert table["layout"] == "folder" and table["people"] == 2 and table["photos"] == 5
    assert list(table["failed"].values()) == ["faceless.png: no face found"]
    assert (["a.png", "b.png"], 7) in reconstructions and (["a.png", "b.png"], 0) in reconstructions
    mean, alone, joint, refined = (table[row] for row in ("mean_face", "frames_1", "frames_4", "frames_4_refined"))
    assert alone == mean  # the fake sees no more than the template in one photo
    for metric in ("posed_median_mm", "posed_mean_mm", "neutral_median_mm", "neutral_mean_mm"):
        assert 0.4 < mean[metric] and 0.3 * mean[metric] < joint[metric] < 0.75 * mean[metric]
        assert refined[metric] < 0.02 * mean[metric]
    assert abs(table["ratios"]["frames_4"]["posed_mean_mm"] - joint["posed_mean_mm"] / mean["posed_mean_mm"]) < 1e-3
    assert set(table["person_means"]["frames_4"]["neutral"]) == {"anna", "ben"}
    assert set(table["person_means"]["frames_4"]["posed"]) == {"anna"}
    people = list(table["person_means"]["mean_face"]["neutral"].values())
    assert abs(table["spread"]["mean_face"]["neutral_mean_mm"] - abs(people[0] - people[1]) / 2) < 1e-3
    assert set(table["parts"]["frames_1"]["neutral"]) == set(FACE_PARTS)
    curve = table["curves"]["mean_face"]["neutral"]
    assert len(curve) == len(table["curves"]["mm"]) and curve == sorted(curve) and curve[-1] > 0.95
    at_median = np.interp(mean["neutral_median_mm"], table["curves"]["mm"], curve)
    assert abs(at_median - 0.5) < 0.02
    alone = table["person_means"]["mean_face"]["neutral"]
    weights = [n * face_disc(p.scans[0].read()).sum() for n, p in zip((2, 3), read_scans(scan_folder), strict=True)]
    pooled = np.average([alone["anna"], alone["ben"]], weights=weights)
    assert abs(mean["neutral_mean_mm"] - pooled) < 1e-3  # every photo counts with its points
    assert table["not_converged"] == 0
    assert json.loads((run / "scans.json").read_text()) == table
    assert Image.open(run / "scans.png").size[0] > 1000  # a panel for each kind of geometry


def test_a_set_without_refinement_or_several_photos_has_fewer_rows(scan_folder, run, reconstructions):
    for name in ("anna", "ben"):
        (scan_folder / name / "b.png").unlink()
    table = evaluate_scans(run, scan_folder, refine=0)
    assert {"mean_face", "frames_1"} == {row for row in table if row == "mean_face" or row.startswith("frames")}
    assert not any(name.startswith("posed") for name in table["frames_1"])


def test_a_person_without_landmarks_is_named(scan_folder, run, reconstructions):
    (scan_folder / "ben" / "landmarks.txt").unlink()
    with pytest.raises(ValueError, match=r"ben.landmarks\.txt .*is missing: the 7 or 68 landmarks of scan\.ply"):
        evaluate_scans(run, scan_folder, refine=0)
    assert reconstructions == [] and not (run / "scans.json").exists()


def test_landmarks_in_another_order_are_named(scan_folder, run, reconstructions):
    marks = np.loadtxt(scan_folder / "ben" / "landmarks.txt")[list(NOW_POINTS)]
    np.savetxt(scan_folder / "ben" / "landmarks.txt", marks[[3, 2, 1, 0, 4, 6, 5]])
    with pytest.raises(ValueError, match=r"ben.landmarks\.txt: the landmarks .* do not fit"):
        evaluate_scans(run, scan_folder, refine=0)
    assert reconstructions == []  # found before the work


def test_a_scan_in_another_frame_than_its_landmarks_is_named(scan_folder, run, reconstructions):
    vertices, triangles = skin_of(deformed(1))
    write_mesh(scan_folder / "ben" / "scan.ply", vertices + 1000, triangles)
    with pytest.raises(ValueError, match=r"ben.landmarks\.txt: 0 scan points .* share one frame"):
        evaluate_scans(run, scan_folder, refine=0)


def test_no_usable_photo_and_no_run_are_errors(scan_folder, run, reconstructions, tmp_path):
    for name in ("anna", "ben"):
        (scan_folder / name / "a.png").rename(scan_folder / name / "faceless.png")
        (scan_folder / name / "b.png").unlink()
    with pytest.raises(ValueError, match="no photo could be reconstructed.*no face found"):
        evaluate_scans(run, scan_folder, refine=0)
    with pytest.raises(ValueError, match="not a finished run"):
        evaluate_scans(tmp_path / "nothing", scan_folder, refine=0)
