"""Two synchronous videos tracked from end to end, by a small untrained model and a detector that knows the truth."""

from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
import torch

from fmlfast.camera import project
from fmlfast.data.crop import assumed_K
from fmlfast.data.face_detector import Face, Glimpse
from fmlfast.data.mediapipe478 import NUM_POINTS
from fmlfast.data.video.decode import Video
from fmlfast.model.fml import FML
from fmlfast.reconstruction.track import estimate, movies, observe, people, source, views
from fmlfast.reconstruction.track.tracked import TrackedPerson, load_people
from fmlfast.reconstruction.track.views import Camera, track_views
from fmlfast.rotation import FRONTAL, axis_angle_from_rotation, rotation_from_axis_angle
from fmlfast.template.face_template import FaceTemplate
from tests.helpers.detections import face_detection
from tests.helpers.drawn_faces import textured
from tests.helpers.interruptions import Interrupted, failing
from tests.helpers.small_model import SMALL
from tests.helpers.videos import write_video

COUNT, RATE, WIDTH, HEIGHT = 9, 12, 160, 120
HIDDEN = {1: (4, 5)}  # frames in which a view does not show the face
SCALE = 0.9  # true millimetres per millimetre of the template
TEMPLATE = FaceTemplate.default(0)
K = assumed_K(WIDTH, HEIGHT)
Given = tuple[list[Path], Path]
Result = tuple[Path, list[TrackedPerson]]


def rotated(angle: float) -> torch.Tensor:
    return rotation_from_axis_angle(torch.tensor([0.0, angle, 0.0]))


def rig() -> list[Camera]:
    """Two cameras 40 degrees apart, that look at the head; the world is the first one's frame."""
    middle = torch.tensor([0.0, 0.0, SCALE * 480])
    turns = [torch.eye(3), rotated(0.7)]
    return [Camera(K, R.double().numpy(), (middle - R @ middle).double().numpy()) for R in turns]


def truth(frame: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rotation, place (mm of the template) and expression of the head in the world."""
    expression = torch.zeros(len(TEMPLATE.expressions))
    expression[TEMPLATE.expression_names.index("jawOpen")] = 0.08 * frame
    place = torch.tensor([2.0 * frame - 8, 5.0, 480.0 + frame])
    return torch.tensor(FRONTAL) @ rotated(0.03 * frame - 0.3), place, expression


class KnowingDetector:
    """Reads view and frame from the picture's corner, and sees the template there."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def detect(self, image: np.ndarray, min_face: float = 0) -> list[Face]:
        red, _, blue = image[:8, :8].reshape(-1, 3).mean(0)
        frame, view = round(red / 10), round(blue / 100)
        if frame in HIDDEN.get(view, ()):
            return []
        rotation, place, expression = truth(frame)
        head = TEMPLATE.vertices + torch.einsum("e,evc->vc", expression, TEMPLATE.expressions)
        camera, told = rig()[view], torch.from_numpy(rig()[view].R).float()
        seen = (head @ rotation.mT + place) @ told.mT + torch.from_numpy(camera.t).float() / SCALE
        intrinsics = torch.from_numpy(K).float()
        points = project(TEMPLATE.surface_points(seen, torch.arange(NUM_POINTS))[None], intrinsics[None])[0].numpy()
        marks = project(TEMPLATE.slide_landmarks(seen[None], intrinsics[None]), intrinsics[None])[0].numpy()
        (x0, y0), (x1, y1) = marks.min(0), marks.max(0)
        detection = face_detection(marks, (told @ rotation).numpy(), points)
        box = float(x0), float(y0), float(x1), float(y1)
        return [Face(marks.astype(np.float32), np.full(68, 0.9, np.float32), box, detection, 0.005)]

    def follow(self, image: np.ndarray, landmarks: np.ndarray) -> Glimpse | None:
        faces = self.detect(image)
        return Glimpse(faces[0].landmarks.astype(np.float64), lambda: faces[0].detection) if faces else None


def film(folder: Path, view: int) -> Path:
    page = textured(np.random.default_rng(view), WIDTH)[:HEIGHT].copy()
    images = []
    for frame in range(COUNT):
        page[:8, :8] = (10 * frame, 0, 100 * view)
        images.append(page.copy())
    return write_video(folder / f"film-{view}.mkv", images, rate=RATE)


@pytest.fixture(scope="module")
def quick() -> Any:
    """Small pieces, few steps, and the detector that knows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source, "FaceDetector", KnowingDetector)
        patch.setattr(views, "REFINE_PERSON", 1)
        patch.setattr(views, "FRAMES", 4)
        for module in (observe, views):
            patch.setattr(module, "SEGMENT", 4)
        patch.setattr(estimate, "WINDOW", 4)
        patch.setattr(estimate, "LAG", 2)
        patch.setattr(people, "MIN_SHARPNESS", 0.0)
        patch.setattr(movies, "TURN_SECONDS", 0.1)
        patch.setattr(movies, "TURN_SIZE", 32)
        yield


@pytest.fixture(scope="module")
def given(quick: None, tmp_path_factory: pytest.TempPathFactory) -> Given:
    """The videos, and the run folder of a small model."""
    folder = tmp_path_factory.mktemp("views")
    torch.manual_seed(0)
    FML(SMALL).eval().save(folder / "run")
    return [film(folder, view) for view in (0, 1)], folder / "run"


@pytest.fixture(scope="module")
def result(given: Given, tmp_path_factory: pytest.TempPathFactory) -> Result:
    videos, run = given
    out = tmp_path_factory.mktemp("result") / "out"
    found = track_views(videos, rig(), out, run, texture=0)
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    return out, found


def test_each_view_has_a_folder_as_of_one_video(result: Result) -> None:
    out, found = result
    assert sorted(path.name for path in out.iterdir()) == ["view-0", "view-1"]
    for number, person in enumerate(found):
        folder = out / f"view-{number}"
        assert sorted(path.name for path in folder.iterdir()) == ["comparison.mp4", "overlay.mp4", "person-0"]
        assert len(list(Video(folder / "overlay.mp4").frames())) == COUNT
        (stored,) = load_people(folder)
        assert all(torch.equal(a, b) for a, b in zip(stored.track.tensors(), person.track.tensors(), strict=True))
        assert stored.scale == person.scale and stored.video.name == f"film-{number}.mkv"
        np.testing.assert_allclose(stored.K, K)


def test_all_views_have_one_head_and_one_motion(result: Result) -> None:
    _, (first, second) = result
    assert torch.equal(first.face.neutral, second.face.neutral)
    assert torch.equal(first.track.expression, second.track.expression)
    assert first.track.frame.tolist() == second.track.frame.tolist() == list(range(COUNT))
    assert first.track.seen.all()
    assert second.track.seen.tolist() == [frame not in HIDDEN[1] for frame in range(COUNT)]
    assert first.scale == second.scale and first.scale is not None
    here, there = (torch.from_numpy(np.stack([c.R])).float()[0] for c in rig())
    torch.testing.assert_close(there @ here.mT @ first.track.rotation, second.track.rotation, atol=1e-4, rtol=0)
    base = torch.from_numpy(rig()[1].t).float() / first.scale
    torch.testing.assert_close(first.track.translation @ there.mT + base, second.track.translation, atol=0.05, rtol=0)


def test_the_head_lies_where_each_view_sees_it(result: Result) -> None:
    _, found = result
    for person in found:
        head, track = person.head, person.track
        camera = head.posed(track.expression) @ track.rotation.mT + track.translation[:, None]
        marks = project(head.template.landmarks(camera), torch.from_numpy(person.Ks))[:, 17:]
        error = (marks - track.landmarks[:, 17:]).norm(dim=-1).mean(1)
        assert error[track.seen].max() < 1.0  # px


def test_scale_pose_and_jaw_are_the_true_ones(result: Result) -> None:
    _, (first, _) = result
    assert first.scale is not None
    assert first.scale == pytest.approx(SCALE, rel=0.1)
    wanted = torch.stack([truth(frame)[0] for frame in range(COUNT)])
    turn = axis_angle_from_rotation(first.track.rotation @ wanted.mT).norm(dim=1)
    assert turn.max() < 0.05
    places = torch.stack([truth(frame)[1] for frame in range(COUNT)]) * SCALE / first.scale
    assert (first.track.translation - places).norm(dim=1).max() < 3.0  # mm
    jaw = first.track.expression[:, first.head.template.expression_names.index("jawOpen")]
    np.testing.assert_allclose(jaw - jaw.mean(), 0.08 * (np.arange(COUNT) - COUNT // 2), atol=0.05)


def test_an_interrupted_run_ends_as_if_it_had_not_been(given: Given, result: Result, tmp_path: Path) -> None:
    videos, run = given
    out = tmp_path / "out"
    for owner, name, at in (
        (KnowingDetector, "follow", COUNT + 3),  # in the second video
        (estimate.PersonEstimator, "_estimate", 2),
        (movies.VideoPiece, "add", 2 * COUNT + 14),
        (TrackedPerson, "write_files", 2),
    ):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(owner, name, failing(getattr(owner, name), at))
            with pytest.raises(Interrupted):
                track_views(videos, rig(), out, run, texture=0)
        assert not out.exists()
    with pytest.raises(ValueError, match=r"other settings \(seconds\)"):
        track_views(videos, rig(), out, run, texture=0, seconds=0.5)
    found = track_views(videos, rig(), out, run, texture=0)
    for a, b in zip(found, result[1], strict=True):
        torch.testing.assert_close(a.track.rotation, b.track.rotation, atol=1e-3, rtol=0)
        torch.testing.assert_close(a.track.translation, b.track.translation, atol=0.2, rtol=0)
        torch.testing.assert_close(a.track.expression, b.track.expression, atol=2e-3, rtol=0)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_videos_need_as_many_cameras(given: Given, tmp_path: Path) -> None:
    videos, run = given
    for some, cameras in ((videos, rig()[:1]), (videos[:1], rig()), (videos[:1], rig()[:1])):
        with pytest.raises(ValueError, match="need as many cameras, two or more"):
            track_views(some, cameras, tmp_path / "out", run)
    assert list(tmp_path.iterdir()) == []
