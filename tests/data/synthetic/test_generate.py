"""Synthetic clips: repeatable, true to their ground truth, and sane as pictures."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fmlfast.camera import project
from fmlfast.data.shards import Clip, TruthWriter, list_clips, read_clip, read_meta, read_truth
from fmlfast.data.synthetic.generate import SPLITS, SyntheticConfig, generate, render_person
from fmlfast.data.synthetic.motion import PITCH_LIMIT, ROLL_LIMIT, YAW_LIMIT, random_head_motion, rotation_from_angles
from fmlfast.data.synthetic.scene import LabelledClip
from fmlfast.ibug68 import NUM_JAW
from fmlfast.renderer import sh_basis, vertex_normals
from fmlfast.template.face_template import FaceTemplate
from fmlfast.template.jaw_line import select_contour
from tools.contact_sheet import SheetConfig, contact_sheet

SMALL = SyntheticConfig(
    out=Path("unused"),
    people=3,
    val_people=2,
    test_people=2,
    frames=3,
    size=72,
    level=0,
    supersample=2,
    detect=False,
    workers=1,
)


@pytest.fixture(scope="module")
def template() -> FaceTemplate:
    return FaceTemplate.default(0)


@pytest.fixture(scope="module")
def labelled_clips() -> list[LabelledClip]:
    return [render_person(SMALL, "test", person) for person in range(24)]


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix == ".tar"}


def camera_vertices(labelled: LabelledClip, template: FaceTemplate) -> torch.Tensor:
    """[M, V, 3] from nothing but the truth, by the formula that models use."""
    truth = {name: torch.from_numpy(array) for name, array in labelled.truth.items()}
    posed = template.subdivide(truth["vertices"]) + torch.einsum(
        "me,evc->mvc", truth["expression"], template.expressions
    )
    return posed @ truth["rotation"].mT + truth["translation"][:, None]


def test_clips_depend_on_the_seed_alone(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    generate(replace(SMALL, out=tmp_path / "data"))
    assert torch.get_num_threads() == threads
    for split, count in zip(SPLITS, (3, 2, 2), strict=True):
        refs = list_clips(tmp_path / "data", split)
        truth = read_truth(tmp_path / "data", split)
        assert len(refs) == count == len(truth)
        for person, ref in enumerate(refs):
            clip, labelled = read_clip(ref), render_person(SMALL, split, person)
            np.testing.assert_array_equal(clip.landmarks, labelled.clip.landmarks)
            assert np.abs(clip.images.astype(int) - labelled.clip.images).mean() < 6.0  # only JPEG lies between
            for name, array in labelled.truth.items():
                np.testing.assert_array_equal(truth[clip.key][name], array)
    meta = read_meta(tmp_path / "data")
    assert meta["seed"] == 0 and meta["settings"]["people"] == 3
    generate(replace(SMALL, out=tmp_path / "again", workers=2))
    assert files(tmp_path / "again") == files(tmp_path / "data")
    generate(replace(SMALL, out=tmp_path / "other", seed=1, people=1, val_people=0, test_people=0))
    one, other = (read_truth(tmp_path / name, "train")["train-00000"] for name in ("data", "other"))
    assert np.abs(one["vertices"] - other["vertices"]).mean() > 0.5  # mm


def test_no_person_is_in_two_splits() -> None:
    people = [render_person(replace(SMALL, frames=1), split, person) for split in SPLITS for person in range(3)]
    keys = {labelled.clip.key for labelled in people}
    assert len(keys) == 9 == len({labelled.clip.subject for labelled in people})
    for index, labelled in enumerate(people):
        for other in people[index + 1 :]:
            assert np.abs(labelled.truth["vertices"] - other.truth["vertices"]).mean() > 0.5  # mm
            assert np.abs(labelled.truth["reflectance"] - other.truth["reflectance"]).mean() > 0.01


def test_truth_reprojects_onto_its_landmarks(labelled_clips: list[LabelledClip], template: FaceTemplate) -> None:
    for labelled in labelled_clips:
        Ks = torch.from_numpy(labelled.clip.Ks)
        vertices = camera_vertices(labelled, template)
        inner = project(template.landmarks(vertices)[:, NUM_JAW:], Ks)
        np.testing.assert_allclose(inner.numpy(), labelled.truth["landmarks"][:, NUM_JAW:], atol=2e-3)
        # The silhouette was chosen in the source image and in float32: near ties may fall either way.
        jaw = project(template.slide_landmarks(vertices, Ks)[:, :NUM_JAW], Ks).numpy()
        assert np.mean(np.abs(jaw - labelled.truth["landmarks"][:, :NUM_JAW]).max(axis=-1) < 2e-3) > 0.97


def test_crops_frame_the_face_and_map_to_a_source(labelled_clips: list[LabelledClip]) -> None:
    for labelled in labelled_clips:
        clip, truth = labelled.clip, labelled.truth
        span = np.ptp(truth["landmarks"], axis=1).max(axis=-1) / clip.images.shape[1]
        assert (span > 0.5).all() and (span < 0.75).all()
        assert ((truth["landmarks"] > 0.0) & (truth["landmarks"] < clip.images.shape[1])).all()
        relative = clip.Ks[:, 0, 0] / clip.images.shape[1]
        assert (relative > 1.0).all() and (relative < 10.0).all()
        # Every frame of a clip comes from one camera: crop back to source gives one K.
        to_source = np.concatenate([clip.crop_to_source, np.tile([[[0.0, 0.0, 1.0]]], (len(relative), 1, 1))], axis=1)
        sources = to_source @ clip.Ks
        np.testing.assert_allclose(sources, np.broadcast_to(sources[:1], sources.shape), rtol=1e-3, atol=0.05)
    focal = [labelled.clip.Ks[0, 0, 0] / 72 for labelled in labelled_clips]
    assert min(focal) < 2.0 and max(focal) > 5.0


def test_detected_landmarks_are_off_as_a_detector_is(labelled_clips: list[LabelledClip]) -> None:
    inner, jaw = [], []
    for labelled in labelled_clips:
        depth = labelled.truth["translation"][:, 2]
        eyes = 83.0 * labelled.clip.Ks[:, 0, 0] / depth  # px, about the outer-eye distance
        off = np.linalg.norm(labelled.clip.landmarks - labelled.truth["landmarks"], axis=-1) / eyes[:, None]
        inner.append(off[:, NUM_JAW:])
        jaw.append(off[:, :NUM_JAW])
    assert 0.014 < np.mean(inner) < 0.030
    assert 1.4 * np.mean(inner) < np.mean(jaw) < 0.055


def test_confidence_is_lower_on_the_far_jaw_and_under_occluders(labelled_clips: list[LabelledClip]) -> None:
    for labelled in labelled_clips:
        assert (labelled.clip.confidence[:, :NUM_JAW] < labelled.clip.confidence[:, NUM_JAW:].max()).all()
    inner = np.concatenate([labelled.clip.confidence[:, NUM_JAW:] for labelled in labelled_clips])
    assert 0.85 < np.mean(inner == 1.0) < 1.0
    turned = [(f, m) for f in labelled_clips for m in range(3) if abs(f.truth["rotation"][m, 0, 2]) > 0.35]
    assert turned
    for labelled, moment in turned:
        subject_right, subject_left = labelled.clip.confidence[moment, 1:6], labelled.clip.confidence[moment, 11:16]
        # R[0, 2] > 0 moves the nose right in the image: the subject's left side is the far one.
        near, far = (
            (subject_right, subject_left)
            if labelled.truth["rotation"][moment, 0, 2] > 0
            else (subject_left, subject_right)
        )
        assert far.max() < 0.5 and far.mean() < near.mean()


def test_light_of_the_truth_shades_without_negatives(
    labelled_clips: list[LabelledClip], template: FaceTemplate
) -> None:
    for labelled in labelled_clips:
        normals = vertex_normals(camera_vertices(labelled, template), template.triangles)
        shading = sh_basis(normals) @ torch.from_numpy(labelled.truth["sh"])
        picture = shading * torch.from_numpy(labelled.truth["reflectance"])
        assert shading.min() > 0.0
        facing = normals[..., 2] < -0.3
        assert 0.02 < picture[facing].mean() < 0.8


def test_pictures_are_the_shaded_face(labelled_clips: list[LabelledClip], template: FaceTemplate) -> None:
    """The image at a visible vertex is its reflectance times its light, up to gloss, blur, noise and what hides it."""
    errors = []
    skin = template.regions["face"] > 0.95
    for labelled in labelled_clips:
        vertices = camera_vertices(labelled, template)
        normals = vertex_normals(vertices, template.triangles)
        color = torch.from_numpy(labelled.truth["reflectance"]) * (
            sh_basis(normals) @ torch.from_numpy(labelled.truth["sh"])
        )
        uv = project(vertices, torch.from_numpy(labelled.clip.Ks)).long().clamp(0, 71)
        straight = (torch.nn.functional.normalize(vertices, dim=-1) * normals).sum(dim=-1) < -0.8
        for moment in range(3):
            chosen = straight[moment] & skin
            seen = torch.from_numpy(labelled.clip.images[moment])[uv[moment, chosen, 1], uv[moment, chosen, 0]] / 255.0
            shown = color[moment, chosen].clamp(0.0, 1.0) ** (1 / 2.2)
            errors.append((seen - shown).abs().median())
    assert np.median(errors) < 0.04


def test_pictures_are_sane(labelled_clips: list[LabelledClip]) -> None:
    images = np.stack([labelled.clip.images for labelled in labelled_clips]).astype(float) / 255.0  # [P, M, S, S, 3]
    means = images.mean(axis=(1, 2, 3, 4))
    assert 0.2 < means.mean() < 0.65 and means.std() > 0.05
    assert (images.std(axis=(2, 3, 4)) > 0.06).all()  # no empty frame
    clipped = (images.min(axis=-1) > 0.99).mean(axis=(1, 2, 3))
    assert np.median(clipped) < 0.02
    moving = np.abs(np.diff(images, axis=1)).mean(axis=(1, 2, 3, 4))
    assert (moving > 0.003).all()


def test_tracks_keep_to_their_limits_and_are_smooth(template: FaceTemplate) -> None:
    names = template.expression_names
    tracks = [random_head_motion(np.random.default_rng([2, seed]), 4, names) for seed in range(400)]
    angles = np.concatenate([track.angles for track in tracks])
    assert (np.abs(angles) <= [YAW_LIMIT, PITCH_LIMIT, ROLL_LIMIT]).all()
    assert (angles.std(axis=0) > [15.0, 6.0, 4.0]).all()
    expression = np.concatenate([track.expression for track in tracks])
    assert expression.min() >= 0.0 and expression.max() <= 1.0 and expression.dtype == np.float32
    assert 3.0 < (expression > 0.05).sum(axis=1).mean() < 14.0  # of 51: sparse
    assert (expression.max(axis=0) > 0.25).all()  # but every unit is used
    column = {name: expression[:, index] for index, name in enumerate(names)}
    assert np.corrcoef(column["mouthSmileLeft"], column["mouthSmileRight"])[0, 1] > 0.7
    assert (column["mouthClose"] <= column["jawOpen"] + 1e-6).all()
    assert (np.minimum(column["eyeLookUpLeft"], column["eyeLookDownLeft"]) == 0.0).all()
    for track in tracks:
        assert (np.diff(track.times) > 0.0).all() and track.times[-1] < 6.0
    dense = random_head_motion(np.random.default_rng(6), 400, names)  # a few seconds at 400 moments
    assert np.abs(np.diff(dense.angles, axis=0)).max() < 5.0
    still = [index for index, name in enumerate(names) if not name.startswith("eye")]  # but for blinks
    assert np.abs(np.diff(dense.expression[:, still], axis=0)).max() < 0.25


def test_rotations_from_angles() -> None:
    angles = np.random.default_rng(1).uniform(-40.0, 40.0, (7, 3))
    rotations = rotation_from_angles(angles)
    np.testing.assert_allclose(rotations @ rotations.swapaxes(1, 2), np.tile(np.eye(3), (7, 1, 1)), atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(rotations), 1.0)
    np.testing.assert_allclose(rotation_from_angles(np.zeros(3)), np.diag([1.0, -1.0, -1.0]), atol=1e-12)
    nose = rotation_from_angles(np.array([30.0, 0.0, 0.0])) @ [0.0, 0.0, 1.0]
    np.testing.assert_allclose(nose, [0.5, 0.0, -np.sqrt(0.75)], atol=1e-12)  # positive yaw: nose to the image's right
    np.testing.assert_allclose(rotation_from_angles(np.array([0.0, 20.0, 0.0]))[1, 2], np.sin(np.radians(20.0)))


def test_select_contour_takes_the_outermost_candidate() -> None:
    generator = torch.Generator().manual_seed(0)
    candidates = torch.randn(5, NUM_JAW, 4, 2, generator=generator) + 20.0
    center = torch.randn(5, 2, generator=generator)
    index = select_contour(candidates, center)
    for f, j in ((0, 0), (3, 16), (4, 8)):
        direction = candidates[f, j, 0] - center[f]
        assert index[f, j] == max(range(4), key=lambda c: float(candidates[f, j, c] @ direction))
    with pytest.raises(ValueError, match="center"):
        select_contour(candidates, center[:2])
    with pytest.raises(ValueError, match="candidate_uv"):
        select_contour(candidates[:, :9], center)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"frames": 0}, "frames"), ({"size": 8}, "size"), ({"level": 3}, "level"), ({"people": -1}, "people"),
     ({"seed": -1}, "seed"), ({"people": 0, "val_people": 0, "test_people": 0}, "no people")],
)  # fmt: skip
def test_impossible_settings_are_refused(change: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **change)


def test_an_existing_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(ValueError, match="not empty"):
        generate(replace(SMALL, out=tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_nothing_is_left_of_a_run_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add = TruthWriter.add

    def broken(self: TruthWriter, key: str, arrays: dict[str, np.ndarray]) -> None:
        if key == "train-00001":
            raise OSError("no space left on device")
        add(self, key, arrays)

    monkeypatch.setattr(TruthWriter, "add", broken)
    with pytest.raises(OSError, match="no space"):
        generate(replace(SMALL, out=tmp_path / "data"))
    assert not list(tmp_path.iterdir())


def test_contact_sheet() -> None:
    sheet = contact_sheet(SheetConfig(columns=2, rows=1, size=40, level=0, supersample=1, seed=4))
    assert sheet.shape == (40, 80, 3) and sheet.dtype == np.uint8
    assert sheet.std() > 10.0
    clip: Clip = render_person(replace(SMALL, frames=1, size=40, supersample=1, seed=4), "val", 1).clip
    np.testing.assert_array_equal(sheet[:, 40:], clip.images[0])
