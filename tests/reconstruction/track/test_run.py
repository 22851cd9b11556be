"""A real video tracked from end to end by the shipped model, and videos that cannot be tracked."""

import csv
import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fmlfast.camera import project
from fmlfast.cli import info
from fmlfast.data.face_detector import FaceDetector
from fmlfast.data.video.decode import Video
from fmlfast.reconstruction.result import Reconstruction
from fmlfast.reconstruction.track import estimate, movies, observe, run
from fmlfast.reconstruction.track.run import track
from fmlfast.reconstruction.track.tracked import TrackedPerson, load_people
from tests.helpers.glb_reader import Glb
from tests.helpers.interruptions import Interrupted, failing
from tests.helpers.real_media import landmarker, real_media
from tests.helpers.videos import smooth, write_video

SECONDS, FRAMES = 0.65, 20


@pytest.fixture(scope="module")
def quick() -> Any:
    """Fewer frames and steps than usual, in small pieces."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "REFINE_PERSON", 1)
        patch.setattr(run, "FRAMES", 2)
        patch.setattr(observe, "SEGMENT", 8)
        patch.setattr(estimate, "WINDOW", 6)
        patch.setattr(estimate, "LAG", 4)
        patch.setattr(movies, "TURN_SECONDS", 0.2)
        patch.setattr(movies, "TURN_SIZE", 64)
        yield


def start(out: Path, **changed: Any) -> list[TrackedPerson]:
    landmarker()
    return track(real_media() / "single_face.mp4", out, **{"refine": 1, "texture": 64, "seconds": SECONDS, **changed})


@pytest.fixture(scope="module")
def result(quick: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrackedPerson]:
    folder = tmp_path_factory.mktemp("tracked")
    (person,) = start(folder / "out")
    assert [path.name for path in folder.iterdir()] == ["out"]
    return folder / "out", person


def test_all_files_are_there(result: tuple[Path, TrackedPerson]) -> None:
    out, _ = result
    assert sorted(p.name for p in out.iterdir()) == ["comparison.mp4", "overlay.mp4", "person-0"]
    names = {path.name for path in (out / "person-0").iterdir()}
    wanted = "animation.glb arkit.csv face head.glb parameters.json parameters.npz transforms.json turntable.mp4"
    assert names == set(wanted.split())
    kinds = {path.name.split("-")[0].split(".")[0] for path in (out / "person-0" / "face").iterdir()}
    assert kinds == {"photo", "texture", "parameters", "codes"}  # no overlays, no meshes


def test_what_is_read_is_what_was_returned(result: tuple[Path, TrackedPerson]) -> None:
    out, person = result
    (found,) = load_people(out)
    assert all(torch.equal(a, b) for a, b in zip(found.track.tensors(), person.track.tensors(), strict=True))
    np.testing.assert_array_equal(found.K, person.K)
    assert found.size == person.size == (640, 360) and found.video == person.video
    torch.testing.assert_close(found.face.codes.tensors(), person.face.codes.tensors())
    assert found.parameters() == person.parameters()
    assert found.motion.times.dtype == np.float64 and found.Ks.shape == (FRAMES, 3, 3)


def test_every_frame_of_the_video_is_tracked(result: tuple[Path, TrackedPerson]) -> None:
    _, person = result
    times = [f.time for f in Video(person.video).frames()][:FRAMES]
    assert person.track.frame.tolist() == list(range(FRAMES))
    np.testing.assert_allclose(person.track.time.numpy(), times)


def test_the_head_lies_on_the_detected_landmarks(result: tuple[Path, TrackedPerson]) -> None:
    _, person = result
    head = person.head
    camera = head.posed(person.track.expression) @ person.track.rotation.mT + person.track.translation[:, None]
    marks = project(head.template.landmarks(camera), torch.from_numpy(person.Ks))
    eyes = (person.track.landmarks[:, 36] - person.track.landmarks[:, 45]).norm(dim=-1)
    error = (marks - person.track.landmarks)[:, 17:].norm(dim=-1).mean(1) / eyes
    assert error.max() < 0.06


def test_the_overlay_has_the_frames_of_the_source_with_the_face_over_them(result: tuple[Path, TrackedPerson]) -> None:
    out, person = result
    source = [(f.time, f.image()) for f in Video(person.video).frames()][:FRAMES]
    over = [(f.time, f.image()) for f in Video(out / "overlay.mp4").frames()]
    assert len(over) == FRAMES and over[0][1].shape == source[0][1].shape
    for (time, image), (wanted, frame), marks in zip(over, source, person.track.landmarks.numpy(), strict=True):
        assert time == pytest.approx(wanted, abs=1e-3)
        (x0, y0), (x1, y1) = marks.min(0).astype(int), marks.max(0).astype(int)
        difference = np.abs(image.astype(int) - frame)
        assert difference[y0:y1, x0:x1].mean() < 25
        assert difference.mean() < 6
    beside = next(iter(Video(out / "comparison.mp4").frames())).image()
    assert beside.shape == (240, 3 * 426, 3)


def test_arkit_s_sheet_has_a_row_for_every_frame(result: tuple[Path, TrackedPerson]) -> None:
    out, person = result
    with (out / "person-0" / "arkit.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == FRAMES
    names = {name.lower(): name for name in rows[0]}
    jaw = person.track.expression[:, person.head.template.expression_names.index("jawOpen")]
    np.testing.assert_allclose([float(r[names["jawopen"]]) for r in rows], jaw.numpy(), atol=1e-3)


def test_the_moving_head_has_the_frames(result: tuple[Path, TrackedPerson]) -> None:
    out, person = result
    glb = Glb(out / "person-0" / "animation.glb")
    (animation,) = glb.document["animations"]
    for sampler in animation["samplers"]:
        np.testing.assert_allclose(glb.accessor(sampler["input"])[:, 0], person.motion.times, atol=1e-5)
    assert {channel["target"]["path"] for channel in animation["channels"]} >= {"weights", "rotation", "translation"}


def test_cameras_are_those_of_the_frames(result: tuple[Path, TrackedPerson]) -> None:
    out, person = result
    stored = json.loads((out / "person-0" / "transforms.json").read_text())
    assert len(stored["frames"]) == FRAMES
    assert stored["fl_x"] == pytest.approx(float(person.K[0, 0])) and (stored["w"], stored["h"]) == (640, 360)


def test_a_tracked_folder_is_told_apart_from_a_reconstruction(result: tuple[Path, TrackedPerson]) -> None:
    out, person = result
    told = dict(info.describe(out))
    assert told["person-0"].startswith(f"{FRAMES} frames, 0.0 to ") and "640 x 360 px" in told["video"]
    with pytest.raises(ValueError, match=r"person-0 is a person of a tracked video; name .*person-0/face$"):
        Reconstruction.load(out / "person-0")
    assert Reconstruction.load(out / "person-0" / "face").model == person.face.model


def test_a_finished_result_is_not_overwritten(result: tuple[Path, TrackedPerson]) -> None:
    with pytest.raises(FileExistsError, match="out exists"):
        start(result[0])


def test_a_damaged_result_is_refused_by_name(result: tuple[Path, TrackedPerson], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is no result of `fmlfast track`"):
        load_people(tmp_path)
    with pytest.raises(ValueError, match=r"person-0 is no person"):
        TrackedPerson.load(tmp_path / "person-0")
    source, copy = result[0] / "person-0", tmp_path / "person-7"
    copy.mkdir()
    for name in ("parameters.json", "parameters.npz"):
        (copy / name).write_bytes((source / name).read_bytes()[:300])
    with pytest.raises(ValueError, match=r"person-7 cannot be read"):
        TrackedPerson.load(copy)


def test_a_run_interrupted_again_and_again_ends_with_the_same_parameters(
    result: tuple[Path, TrackedPerson], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    places: Sequence[tuple[Any, str, int]] = [
        (FaceDetector, "follow", 5),
        (estimate.PersonEstimator, "_estimate", 2),
        (movies.VideoPiece, "add", 21),
        (TrackedPerson, "write_files", 1),
        (run, "draw_turntable", 1),
    ]
    for owner, name, at in places:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(owner, name, failing(getattr(owner, name), at))
            before = {*threading.enumerate()}
            with pytest.raises(Interrupted) as stopped:
                start(out)
            assert not [thread for thread in {*threading.enumerate()} - before if "ThreadPool" in thread.name], stopped
        assert not out.exists()
    with pytest.raises(ValueError, match=r"out\.partial .*\(refine, texture\)"):
        start(out, refine=0, texture=0)
    (person,) = start(out)
    _, wanted = result
    assert torch.equal(person.track.frame, wanted.track.frame)
    np.testing.assert_allclose(person.K, wanted.K, rtol=1e-5)
    torch.testing.assert_close(person.face.codes.identity, wanted.face.codes.identity, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(person.track.rotation, wanted.track.rotation, atol=1e-3, rtol=0)
    torch.testing.assert_close(person.track.translation, wanted.track.translation, atol=0.5, rtol=0)
    torch.testing.assert_close(person.track.expression, wanted.track.expression, atol=5e-3, rtol=0)
    assert len(list(Video(out / "overlay.mp4").frames())) == FRAMES


@pytest.fixture
def checkpoint(tmp_path: Path, model: Any) -> Path:
    model.save(tmp_path / "run")
    return tmp_path / "run"


def test_a_video_without_faces_is_named(checkpoint: Path, tmp_path: Path) -> None:
    landmarker()
    with pytest.raises(ValueError, match=r"no_face\.mp4: no face"):
        track(real_media() / "no_face.mp4", tmp_path / "out", checkpoint, seconds=0.2)
    assert not (tmp_path / "out").exists()


def test_a_missing_video_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.mp4: no such video"):
        track(tmp_path / "none.mp4", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"no video at all" * 100], ids=["empty", "text"])
def test_a_broken_video_is_named_and_leaves_nothing(checkpoint: Path, tmp_path: Path, content: bytes) -> None:
    pytest.importorskip("av")
    (tmp_path / "broken.mp4").write_bytes(content)
    with pytest.raises(ValueError, match=r"broken\.mp4"):
        track(tmp_path / "broken.mp4", tmp_path / "out", checkpoint)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken.mp4", "run"]


@pytest.mark.parametrize(
    ("setting", "value"), [("refine", -1), ("texture", 100), ("seconds", -1.0), ("people", 0), ("people", -1)]
)
def test_settings_that_make_no_sense_are_refused_by_name(
    checkpoint: Path, tmp_path: Path, setting: str, value: float
) -> None:
    landmarker()
    video = write_video(tmp_path / "v.mkv", [smooth(np.random.default_rng(0), 48, 64)] * 3)
    with pytest.raises(ValueError, match=setting):
        track(video, tmp_path / "out", checkpoint, **{setting: value})  # type: ignore[arg-type]


def test_several_people_before_a_calibrated_camera(quick: None, checkpoint: Path, tmp_path: Path) -> None:
    """A still of several people as a video; the small untrained model tells who is where all the same."""
    landmarker()
    with Image.open(real_media() / "multi_face.jpg") as opened:
        photo = opened.convert("RGB")
    photo.thumbnail((960, 960))
    image = np.asarray(photo)[: photo.height // 2 * 2, : photo.width // 2 * 2]
    video = write_video(tmp_path / "several.mkv", [image] * 12, rate=12)
    K = np.array([[1100.0, 0, image.shape[1] / 2 + 7], [0, 1080.0, image.shape[0] / 2], [0, 0, 1]])
    found = track(video, tmp_path / "out", checkpoint, refine=0, texture=0, camera=K, people=2)
    assert len(found) == len(load_people(tmp_path / "out")) == 2
    places = [person.track.landmarks.mean((0, 1)) for person in found]
    assert (places[0] - places[1]).norm() > 40
    for person in found:
        np.testing.assert_allclose(person.K, K, rtol=1e-6)
        assert person.face.focal_sources[0] != "assumed" and person.track.frame.tolist() == list(range(12))
        moved = person.head.neutral @ person.track.rotation.mT + person.track.translation[:, None]
        shown = project(person.head.template.landmarks(moved), torch.from_numpy(person.Ks))[:, 17:].mean((0, 1))
        assert (shown - person.track.landmarks[:, 17:].mean((0, 1))).norm() < 15
    over = next(iter(Video(tmp_path / "out" / "overlay.mp4").frames())).image()
    for x, y in np.array(torch.stack(places)).astype(int):
        changed = np.abs(over.astype(int) - image)[y - 12 : y + 12, x - 12 : x + 12]
        assert changed.mean() > 3  # both are drawn in one picture
