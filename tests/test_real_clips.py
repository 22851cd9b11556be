"""What is measured where there is no 3D truth, on synthetic clips whose truth is withheld."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import SMALL
from torch import Tensor

from fmlfast import real_clips
from fmlfast.camera import project
from fmlfast.contour import slide_landmarks
from fmlfast.data.shards import ShardWriter, list_clips, read_clip, read_truth
from fmlfast.frames import Codes, Frames
from fmlfast.real_clips import consistency, fit_frames, measure_real
from fmlfast.system import FML

ROWS = ("mean_face", "network", "network_swapped", "refined", "refined_swapped")


@pytest.fixture(scope="module", autouse=True)
def quick_fits() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(real_clips, "FIT_STEPS", 20)
        yield


@pytest.fixture(scope="module")
def folder(synthetic_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three people in one clip each, without truth."""
    folder = tmp_path_factory.mktemp("real")
    for path in synthetic_folder.glob("test-0*.tar"):
        shutil.copy(path, folder)
    return folder


def small_model() -> FML:
    torch.manual_seed(0)
    return FML(SMALL).eval()


@pytest.fixture(scope="module")
def table(folder: Path) -> dict[str, Any]:
    return measure_real(small_model(), folder, refine_steps=2)


def test_the_table_holds_what_it_should(table: dict[str, Any]) -> None:
    assert json.loads(json.dumps(table)) == table
    for row in ("mean_face", "frames_1", "frames_4", "frames_4_refined"):
        assert set(table[row]) == {"landmark_nme", "photometric"}
    found = table["consistency"]
    assert (found["people_by_clips"], found["people_by_halves"]) == (0, 3)
    for stage in ("network", "refined"):
        for quantity in ("identity", "neutral_mm"):
            assert all(value > 0 for value in found[stage][quantity].values())
    found = table["prediction"]
    assert (found["frames"], found["people"]) == (6, 3)
    for row in ROWS:
        assert 0 < found[row]["landmark_nme"] < 10 and 0 < found[row]["photometric"] < 100
    assert set(found["own_wins"]["network"]) == {"landmark_nme", "photometric"}


def test_a_person_in_several_clips_is_compared_across_them(folder: Path, table: dict[str, Any], tmp_path: Path) -> None:
    """And single frames can be neither halved nor predicted."""
    clips = [read_clip(ref) for ref in list_clips(folder, "test")]
    with ShardWriter(tmp_path, "test") as writer:
        for clip in clips[:2]:
            for number in range(2):
                part = real_clips._cut(clip, 2 * number, 2 * number + 2)
                writer.add(replace(part, key=f"{clip.key}-{number}"))
        writer.add(clips[2])
    found = measure_real(small_model(), tmp_path, refine_steps=0)
    assert (found["consistency"]["people_by_clips"], found["consistency"]["people_by_halves"]) == (2, 1)
    # The same looks as halves of whole clips, but for being stored as JPEG once more.
    for quantity, values in found["consistency"]["network"].items():
        assert values == pytest.approx(table["consistency"]["network"][quantity], rel=0.02)

    with ShardWriter(tmp_path, "single") as writer:
        for clip in clips:
            writer.add(real_clips._cut(clip, 0, 1))
    found = measure_real(small_model(), tmp_path, "single", refine_steps=0)
    assert found["consistency"] is None and found["prediction"] is None


def test_one_person_has_nobody_to_be_told_from(folder: Path) -> None:
    found = measure_real(small_model(), folder, refine_steps=0, clips=1)
    assert found["consistency"] is None
    assert "network_swapped" not in found["prediction"] and found["prediction"]["own_wins"] == {}


def test_neither_the_model_nor_the_batches_matter(folder: Path, table: dict[str, Any]) -> None:
    model = small_model().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = measure_real(model, folder, refine_steps=2, batch=1)
    assert model.training and all(p.requires_grad and p.grad is None for p in model.parameters())
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
    for row in ROWS:
        assert found["prediction"][row] == pytest.approx(table["prediction"][row], rel=2e-2), row


def test_bad_input(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere"):
        measure_real(small_model(), folder, "nowhere")
    with pytest.raises(ValueError):
        measure_real(small_model(), tmp_path / "absent")


# --------------------------------------------------------------------------------------------------------- consistency


def squared(looks: Tensor) -> Tensor:
    return real_clips._squared_distances(looks.double())


def test_consistency_of_known_looks() -> None:
    # Three people at 0, 10 and 20, seen twice or thrice 1 apart: by hand.
    found = consistency(squared(torch.tensor([[0.0], [1], [10], [11], [20], [21], [20]])), ["a", "a", "b", "b", *"ccc"])
    within = (1 + 1 + 2 / 3) / 3
    pairs = [[10, 11, 9, 10], [20, 21, 20, 19, 20, 19], [10, 11, 10, 9, 10, 9]]
    across = sum(sum(d * d for d in distances) / len(distances) for distances in pairs) / 3
    assert found["within"] == pytest.approx(within**0.5) and found["across"] == pytest.approx(across**0.5)
    assert found["ratio"] == pytest.approx(within / across)
    assert found["ratio_error"] is not None and 0 < found["ratio_error"] < 0.01


def test_consistency_is_one_minus_the_intraclass_correlation() -> None:
    generator = torch.Generator().manual_seed(1)
    for inner, outer in ((1.0, 2.0), (1.0, 0.0)):  # spread of looks and of people; 0: codes are random
        people = outer * torch.randn(400, 1, 20, generator=generator)
        looks = (people + inner * torch.randn(400, 2, 20, generator=generator)).flatten(0, 1)
        found = consistency(squared(looks), [str(i // 2) for i in range(800)])
        assert found["ratio"] == pytest.approx(inner**2 / (inner**2 + outer**2), rel=0.05)
        assert found["ratio_error"] is not None and found["ratio_error"] < 0.03


def test_consistency_that_cannot_be_said() -> None:
    same = consistency(torch.zeros(4, 4), ["a", "a", "b", "b"])
    assert (same["within"], same["across"], same["ratio"], same["ratio_error"]) == (0, 0, None, None)
    once = consistency(1 - torch.eye(2), ["a", "b"])
    assert (once["within"], once["across"], once["ratio"]) == (None, 1, None)


def test_a_model_that_sees_nothing_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Constant codes have no ratio; codes that know the person and nothing else have ratio 0."""
    model, encode = small_model(), FML.encode

    def constant(self: FML, frames: Frames) -> Codes:
        codes = encode(self, frames)
        return replace(codes, identity=torch.ones_like(codes.identity))

    monkeypatch.setattr(FML, "encode", constant)
    found = measure_real(model, folder, refine_steps=0)
    assert found["consistency"]["network"]["identity"]["ratio"] is None
    # Nothing to swap but reflectance: no frame's landmarks know whose face it is.
    assert found["prediction"]["own_wins"]["network"]["landmark_nme"] == 0
    assert found["prediction"]["network"]["landmark_nme"] == found["prediction"]["network_swapped"]["landmark_nme"]


# ---------------------------------------------------------------------------------------------------------- prediction


def exact_model(folder: Path) -> tuple[FML, dict[str, Tensor]]:
    """A model whose reflectance codes are the truth of three people, one dimension each, and the codes by clip."""
    model, truth = small_model(), read_truth(folder, "test")
    codes = {}
    with torch.no_grad():
        for number, ref in enumerate(list_clips(folder, "test")):
            skin = torch.from_numpy(truth[ref.key]["reflectance"]).float().flatten() - model.face.reflectance_mean
            model.face.reflectance_basis[number, : len(skin)] = skin
            codes[ref.key] = torch.eye(SMALL.reflectance_dim)[number]
    return model, codes


def test_the_true_skin_predicts_better_than_anothers(
    synthetic_folder: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, known = exact_model(synthetic_folder)
    refs = list_clips(folder, "test")
    by_place = {float(read_clip(ref).landmarks[0].sum()): known[ref.key] for ref in refs}
    encode = FML.encode

    def exact(self: FML, frames: Frames) -> Codes:
        codes = encode(self, frames)
        for item, landmarks in enumerate(frames.landmarks[:, 0]):
            nearest = min(by_place, key=lambda total: abs(total - float(landmarks.sum())))
            if abs(nearest - float(landmarks.sum())) < 1e-2:  # first frames only: the second half is nobody's
                codes.reflectance[item] = by_place[nearest]
        return replace(codes, identity=torch.zeros_like(codes.identity))

    monkeypatch.setattr(FML, "encode", exact)
    found = measure_real(model, folder, refine_steps=0)["prediction"]
    assert found["network"]["photometric"] < 0.95 * found["network_swapped"]["photometric"]
    assert found["network"]["photometric"] < found["mean_face"]["photometric"]
    assert found["network"]["landmark_nme"] == found["network_swapped"]["landmark_nme"]  # one shape for all


def test_fit_frames_finds_pose_and_expression(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a face of the model that is none of the template's, from its exact landmarks."""
    monkeypatch.setattr(real_clips, "FIT_STEPS", 100)
    model, generator = small_model(), torch.Generator().manual_seed(2)
    frames = Frames.from_clips([read_clip(ref) for ref in list_clips(folder, "test")], SMALL.image_size)
    truth = model.encode(frames)
    truth = replace(
        truth,
        identity=torch.randn(3, SMALL.identity_dim, generator=generator),
        reflectance=torch.randn(3, SMALL.reflectance_dim, generator=generator),
    )
    mesh, Ks = model.landmark_mesh, frames.Ks.flatten(0, 1)
    with torch.no_grad():
        surface = model.camera_vertices(truth, mesh).flatten(0, 1)
        points = project(slide_landmarks(surface, Ks, mesh), Ks)
    exact = replace(frames, landmarks=points.view_as(frames.landmarks), confidence=torch.ones_like(frames.confidence))
    with torch.no_grad():
        found = fit_frames(model, exact, truth.identity, truth.reflectance)
        moved = model.camera_vertices(found, mesh).flatten(0, 1)
    error = (project(slide_landmarks(moved, Ks, mesh), Ks) - points).norm(dim=-1).mean()
    start = (points - frames.landmarks.flatten(0, 1)).norm(dim=-1).mean()
    assert error < 0.2 < start  # px of 64
    assert (found.expression >= 0).all()
    assert not found.rotation.requires_grad and not found.sh.requires_grad
