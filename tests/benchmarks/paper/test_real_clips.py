"""What is measured where there is no 3D truth, on synthetic clips whose truth is withheld."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.paper import real_clips
from benchmarks.paper.real_clips import consistency, fit_frames, measure_real
from fmlfast.camera import project
from fmlfast.color import linear_to_srgb
from fmlfast.data.frames import Frames
from fmlfast.data.shards import ShardWriter, list_clips, read_clip
from fmlfast.metrics import vertex_distances, weighted_mean
from fmlfast.model.codes import Codes
from fmlfast.model.fml import FML
from fmlfast.renderer import interpolate, rasterize, shade_vertices
from tests.helpers.small_model import SMALL

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
                part = clip.part(2 * number, 2 * number + 2)
                writer.add(replace(part, key=f"{clip.key}-{number}"))
        writer.add(clips[2])
    found = measure_real(small_model(), tmp_path, refine_steps=0)
    assert (found["consistency"]["people_by_clips"], found["consistency"]["people_by_halves"]) == (2, 1)
    # The same looks as halves of whole clips, but for being stored as JPEG once more.
    for quantity, values in found["consistency"]["network"].items():
        assert values == pytest.approx(table["consistency"]["network"][quantity], rel=0.02)

    with ShardWriter(tmp_path, "single") as writer:
        for clip in clips:
            writer.add(clip.part(0, 1))
    found = measure_real(small_model(), tmp_path, "single", refine_steps=0)
    assert found["consistency"] is None and found["prediction"] is None


def test_single_frames_beside_clips_are_left_out_of_the_prediction(folder: Path, tmp_path: Path) -> None:
    """Refined, when codes of identity are longer than those of the mean face."""
    clips = [read_clip(ref) for ref in list_clips(folder, "test")]
    with ShardWriter(tmp_path, "test") as writer:
        writer.add(clips[0].part(0, 1))
        for clip in clips[1:]:
            writer.add(clip)
    found = measure_real(small_model(), tmp_path, refine_steps=1)["prediction"]
    assert (found["frames"], found["people"]) == (4, 2)
    assert all(found[row]["photometric"] > 0 for row in ROWS)


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


@torch.no_grad()
def test_smooth_fields_count_in_codes_and_in_geometry() -> None:
    model, people = small_model(), ["a", "a", "b", "b"]
    codes = torch.randn(4, SMALL.identity_dim, generator=torch.Generator().manual_seed(2))
    fields = torch.randn(4, len(model.face.smooth), generator=torch.Generator().manual_seed(3))
    plain, longer = (real_clips._consistency(model, c, people) for c in (codes, torch.cat([codes, fields], 1)))
    for measure in ("identity", "neutral_mm"):
        within, without = longer[measure]["within"], plain[measure]["within"]
        assert within and without and within > 2 * without > 0


def jackknife(looks: Tensor, people: list[str]) -> float:
    """Standard error of the ratio, by measuring anew without each of the people."""
    ratios = []
    for left_out in sorted(set(people)):
        kept = [i for i, person in enumerate(people) if person != left_out]
        found = consistency(squared(looks[kept]), [people[i] for i in kept])
        ratios.append(found["ratio"])
    return float(np.sqrt((len(ratios) - 1) * np.var(ratios)))


def test_consistency_of_known_looks() -> None:
    # Three people at 0, 10 and 20, seen twice or thrice 1 apart: by hand.
    looks, people = torch.tensor([[0.0], [1], [10], [11], [20], [21], [20]]), list("aabbccc")
    found = consistency(squared(looks), people)
    within = (1 + 1 + 2 / 3) / 3
    pairs = [[10, 11, 9, 10], [20, 21, 20, 19, 20, 19], [10, 11, 10, 9, 10, 9]]
    across = sum(sum(d * d for d in distances) / len(distances) for distances in pairs) / 3
    assert found["within"] == pytest.approx(within**0.5) and found["across"] == pytest.approx(across**0.5)
    assert found["ratio"] == pytest.approx(within / across)
    assert found["ratio_error"] == pytest.approx(jackknife(looks, people))


def test_consistency_is_one_minus_the_intraclass_correlation() -> None:
    generator = torch.Generator().manual_seed(1)
    for inner, outer in ((1.0, 2.0), (1.0, 0.0)):  # spread of looks and of people; 0: codes are random
        people = outer * torch.randn(400, 1, 20, generator=generator)
        looks = (people + inner * torch.randn(400, 2, 20, generator=generator)).flatten(0, 1)
        found = consistency(squared(looks), [str(i // 2) for i in range(800)])
        assert found["ratio"] == pytest.approx(inner**2 / (inner**2 + outer**2), rel=0.05)
        assert found["ratio_error"] is not None and found["ratio_error"] < 0.03


def test_consistency_of_looks_that_are_all_alike() -> None:
    faithful = consistency(squared(torch.tensor([[0.0], [0], [2], [2]])), list("aabb"))
    assert (faithful["within"], faithful["across"], faithful["ratio"]) == (0, 2, 0)
    same = consistency(torch.zeros(4, 4), ["a", "a", "b", "b"])
    assert (same["within"], same["across"], same["ratio"], same["ratio_error"]) == (0, 0, None, None)
    once = consistency(1 - torch.eye(2), ["a", "b"])
    assert (once["within"], once["across"], once["ratio"]) == (None, 1, None)


def test_a_model_that_sees_nothing_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Constant codes have no ratio, and no shape is better than another."""
    model, encode = small_model(), FML.encode

    def constant(self: FML, frames: Frames) -> Codes:
        codes = encode(self, frames)
        return replace(codes, identity=torch.ones_like(codes.identity))

    monkeypatch.setattr(FML, "encode", constant)
    found = measure_real(model, folder, refine_steps=0)
    assert found["consistency"]["network"]["identity"]["ratio"] is None
    assert found["prediction"]["own_wins"]["network"]["landmark_nme"] == 0
    assert found["prediction"]["network"]["landmark_nme"] == found["prediction"]["network_swapped"]["landmark_nme"]


# ---------------------------------------------------------------------------------------------------------- prediction


@pytest.fixture(scope="module")
def exact(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[FML, Path, Codes]:
    """A model, clips of three of its own faces as it draws them, and the codes of these."""
    model, generator = small_model(), torch.Generator().manual_seed(2)
    clips = [read_clip(ref) for ref in list_clips(folder, "test")]
    frames = Frames.from_clips(clips, SMALL.image_size)
    folder = tmp_path_factory.mktemp("exact")
    with torch.no_grad():
        codes = replace(
            fit_frames(
                model,
                frames,
                torch.zeros(3, SMALL.identity_dim),
                torch.zeros(3, SMALL.reflectance_dim),
                torch.zeros(3, 0, 3),
            ),
            identity=20 * torch.randn(3, SMALL.identity_dim, generator=generator),
            reflectance=4 * torch.randn(3, SMALL.reflectance_dim, generator=generator),
        )
        surface, Ks, triangles = (
            model.camera_vertices(codes).flatten(0, 1),
            frames.Ks.flatten(0, 1),
            model.template.triangles,
        )
        skin = model.face.occluded(model.reflectance(codes)).repeat_interleave(4, 0)
        colors, _ = shade_vertices(surface, triangles, skin, codes.sh.flatten(0, 1))
        drawn = interpolate(colors, triangles, rasterize(surface, triangles, Ks, SMALL.image_size, SMALL.image_size))
        images = (linear_to_srgb(drawn) * 255).round().byte().unflatten(0, (3, 4)).numpy()
        landmarks = project(model.template.slide_landmarks(surface, Ks), Ks).unflatten(0, (3, 4)).numpy()
    with ShardWriter(folder, "test", quality=100) as writer:
        for number, clip in enumerate(clips):
            sure = np.ones_like(clip.confidence)
            writer.add(replace(clip, images=images[number], landmarks=landmarks[number], confidence=sure))
    return model, folder, codes


def test_the_right_face_predicts_better_than_anothers(
    exact: tuple[FML, Path, Codes], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, folder, known = exact
    clips = [read_clip(ref) for ref in list_clips(folder, "test")]
    points = torch.stack([torch.from_numpy(clip.landmarks) for clip in clips])  # [3, 4, 68, 2]
    encode = FML.encode

    def oracle(self: FML, frames: Frames) -> Codes:
        """Knows who frames 0 and 1 of a clip show, and takes any others for the next person."""
        place = torch.cdist(frames.landmarks[:, 0].flatten(1), points.flatten(0, 1).flatten(1)).argmin(1)
        seen = (place % 4 == 0) & (frames.mask.sum(1) == 2)
        person = torch.where(seen, place // 4, (place // 4 + 1) % 3)
        return replace(encode(self, frames), identity=known.identity[person], reflectance=known.reflectance[person])

    monkeypatch.setattr(FML, "encode", oracle)
    monkeypatch.setattr(real_clips, "FIT_STEPS", 100)
    found = measure_real(model, folder, refine_steps=0)
    own, other, mean = (found["prediction"][row] for row in ("network", "network_swapped", "mean_face"))
    for wrong in (other, mean):
        assert own["landmark_nme"] < 0.5 * wrong["landmark_nme"]
        assert own["photometric"] < 0.5 * wrong["photometric"]
    assert found["prediction"]["own_wins"]["network"] == {"landmark_nme": 1, "photometric": 1}
    for values in found["consistency"]["network"].values():  # one look at everyone is a look at someone else
        assert values["ratio"] == pytest.approx(4 / 3, rel=0.01)  # of the looks at two people a quarter agree
    shapes = model.face.neutral(model.face.displacements(known.identity)).detach()
    face = model.template.regions["face"]
    apart = [vertex_distances(shapes[[i]], shapes[[j]], face)[0].square() for i, j in ((0, 1), (1, 2), (2, 0))]
    expected = float(torch.stack([weighted_mean(distances, face)[0] for distances in apart]).mean() ** 0.5)
    assert found["consistency"]["network"]["neutral_mm"]["within"] == pytest.approx(expected, rel=0.1)


def test_fit_frames_finds_what_a_face_was_drawn_with(exact: tuple[FML, Path, Codes]) -> None:
    model, folder, known = exact
    frames = Frames.from_clips([read_clip(ref) for ref in list_clips(folder, "test")], SMALL.image_size)
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(real_clips, "FIT_STEPS", 200)
        found = fit_frames(model, frames, known.identity, known.reflectance, known.detail)
    chord = torch.linalg.matrix_norm(found.rotation - known.rotation)
    assert torch.rad2deg(chord / 2**0.5).mean() < 1.5  # degrees
    torch.testing.assert_close(found.translation, known.translation, rtol=0.03, atol=3)
    assert (found.expression >= 0).all() and (found.expression - known.expression).abs().mean() < 0.05
    assert not any(value.requires_grad for value in vars(found).values())
