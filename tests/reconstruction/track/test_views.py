"""Several calibrated cameras: poses from all of them, the scale that they tell, and the frames that belong together."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from fmlfast.camera import project
from fmlfast.data.frames import Frames
from fmlfast.data.mediapipe478 import NUM_POINTS
from fmlfast.data.shards import list_clips, read_clip
from fmlfast.data.video.decode import Video
from fmlfast.model.fml import FML
from fmlfast.reconstruction.track.motion import FrameFit, PersonPoints, View, fit_frames
from fmlfast.reconstruction.track.observe import Segment, Sight
from fmlfast.reconstruction.track.people import Tracks
from fmlfast.reconstruction.track.source import Source
from fmlfast.reconstruction.track.views import Camera, Timeline, rig_scale
from fmlfast.rotation import FRONTAL, axis_angle_from_rotation, rotation_from_axis_angle
from fmlfast.template.face_template import FaceTemplate
from tests.helpers.small_model import SMALL
from tests.reconstruction.track.test_people import observed as stored_tracks

TEMPLATE = FaceTemplate.default(0)
RATE = 10
NOISE = 0.1  # px, of 64, that points err by


def rotated(angle: float) -> Tensor:
    return rotation_from_axis_angle(torch.tensor([0.0, angle, 0.0]))


class Stage:
    """A person in four frames before two cameras 45 degrees apart, and what is seen: points that err a little."""

    def __init__(self, model: FML, frames: Frames) -> None:
        self.model = model
        with torch.no_grad():
            self.person = model.encode(frames)
        rng = torch.Generator().manual_seed(1)
        turn = 0.08 * torch.randn(1, 4, 3, generator=rng)
        expression = self.person.expression + 0.1 * torch.randn(self.person.expression.shape, generator=rng)
        self.truth = replace(
            self.person,
            rotation=rotation_from_axis_angle(turn) @ self.person.rotation,
            translation=self.person.translation + 8 * torch.randn(1, 4, 3, generator=rng),
            expression=expression.clamp(min=0),
        )
        middle = self.truth.translation[0].mean(0)
        side = rotated(0.8)
        self.views = [View.alone(), View(side, middle - side @ middle)]
        self.frames = [self._seen(frames, view, rng) for view in self.views]

    @torch.no_grad()
    def _seen(self, frames: Frames, view: View, rng: torch.Generator) -> Frames:
        camera = self.model.camera_vertices(self.truth).flatten(0, 1) @ view.rotation.mT + view.translation
        Ks = frames.Ks.flatten(0, 1)
        marks = project(TEMPLATE.slide_landmarks(camera, Ks), Ks).view_as(frames.landmarks)
        surface = project(TEMPLATE.surface_points(camera, torch.arange(NUM_POINTS)), Ks).view_as(frames.surface)
        return replace(
            frames,
            landmarks=marks,
            confidence=torch.ones_like(frames.confidence),
            surface=surface + NOISE * torch.randn(surface.shape, generator=rng),
            precision=torch.full_like(frames.precision, NOISE**-2),
            scores=torch.zeros_like(frames.scores),
        )

    def fit(self, views: list[int], hidden: dict[int, list[int]] | None = None) -> FrameFit:
        """Fits with some of the views; hidden: frames in which a view does not show the face."""
        seen = []
        for view in views:
            mask = self.frames[view].mask.clone()
            mask[0, (hidden or {}).get(view, [])] = False
            seen.append(replace(self.frames[view], mask=mask))
        with torch.no_grad():
            points = PersonPoints(self.model, self.model.neutral(self.person)[0])
        smooth = self.person.identity[:, self.model.config.identity_dim :]
        return fit_frames(self.model, seen, [self.views[view] for view in views], self.person, smooth, points)

    def errors(self, fit: FrameFit) -> np.ndarray:
        """Mean errors of rotation (radians), place (mm) and shape of the expressions (mm)."""
        turn = axis_angle_from_rotation(fit.rotation @ self.truth.rotation[0].mT).norm(dim=1).mean()
        place = (fit.translation - self.truth.translation[0]).norm(dim=1).mean()
        offsets = torch.einsum("te,evc->tvc", fit.expression - self.truth.expression[0], TEMPLATE.expressions)
        expression = offsets.norm(dim=-1).mean()
        return np.array([float(turn), float(place), float(expression)])


@pytest.fixture
def stage(dense_frames: Frames) -> Stage:
    torch.manual_seed(0)
    return Stage(FML(SMALL, TEMPLATE).eval(), dense_frames.select(slice(0, 1)))


def test_two_views_tell_pose_and_expressions_better_than_each_alone(stage: Stage) -> None:
    both, first, second = (stage.errors(stage.fit(views)) for views in ([0, 1], [0], [1]))
    assert (both < first).all() and (both < second).all()
    assert both[1] < 0.3 * min(first[1], second[1])  # the depth, which one view hardly tells
    assert both[0] < 0.02 and both[1] < 2.0


def test_two_views_know_more_than_one(stage: Stage) -> None:
    spreads = [
        stage.fit(views).information.double().inverse().diagonal(dim1=1, dim2=2).sqrt() for views in ([0, 1], [0], [1])
    ]
    assert (spreads[0] < spreads[1]).all() and (spreads[0] < spreads[2]).all()


def test_where_one_view_does_not_show_the_face_the_other_decides(stage: Stage) -> None:
    both = stage.fit([0, 1], {0: [0, 1], 1: [2]})
    first, second, joint = stage.fit([0]), stage.fit([1]), stage.fit([0, 1])
    for frames, wanted in (([0, 1], second), ([2], first), ([3], joint)):
        torch.testing.assert_close(both.rotation[frames], wanted.rotation[frames], atol=1e-3, rtol=0)
        torch.testing.assert_close(both.translation[frames], wanted.translation[frames], atol=0.05, rtol=0)
        torch.testing.assert_close(both.expression[frames], wanted.expression[frames], atol=1e-3, rtol=0)
    assert (first.translation - second.translation).norm(dim=1).min() > 0.4  # or the views could not be told apart


def test_motion_is_told_in_the_frame_that_the_cameras_share(stage: Stage) -> None:
    """That frame is a little turned and shifted from a camera's; `track_views` takes the first camera's own."""
    at_home = stage.fit([0, 1])
    turn, shift = rotated(0.5), at_home.translation.mean(0) + torch.tensor([30.0, -20.0, -100.0])
    stage.views = [View(v.rotation @ turn, v.rotation @ shift + v.translation) for v in stage.views]
    moved = stage.fit([0, 1])
    torch.testing.assert_close(turn @ moved.rotation, at_home.rotation, atol=1e-3, rtol=0)
    torch.testing.assert_close(moved.translation @ turn.mT + shift, at_home.translation, atol=0.3, rtol=0)
    torch.testing.assert_close(moved.expression, at_home.expression, atol=2e-3, rtol=0)


@pytest.mark.parametrize("scale", [0.9, 1.0, 1.2])
def test_the_scale_of_the_head_is_found(scale: float) -> None:
    rng = torch.Generator().manual_seed(3)
    turns = rotation_from_axis_angle(0.3 * torch.randn(7, 3, generator=rng)) @ torch.tensor(FRONTAL)
    places = torch.tensor([0.0, 0, 900]) + 60 * torch.randn(7, 3, generator=rng)  # mm of the model, in the world
    cameras = [
        Camera(np.eye(3), rotated(angle).double().numpy(), np.array([200.0 * angle, 30.0, 500 * abs(angle)]))
        for angle in (0.1, -0.4, 0.7)
    ]
    alone = []
    for camera in cameras:
        R, t = torch.from_numpy(camera.R).float(), torch.from_numpy(camera.t).float()
        alone.append(FrameFit(R @ turns, places @ R.mT + scale * t, torch.zeros(7, 2), torch.eye(8).expand(7, 8, 8)))
    assert rig_scale(alone, cameras) == pytest.approx(scale, rel=1e-3)
    alone[1].translation[2] += 300  # a frame where the face was mistaken
    assert rig_scale(alone, cameras) == pytest.approx(scale, rel=2e-2)


def source(
    name: str,
    times: list[float],
    sights: dict[int, list[int]],
    rate: Fraction = Fraction(RATE),
    folder: Path = Path("nowhere"),
) -> Source:
    """A video with frames at `times`, where tracks were seen in some frames; in one segment."""
    about = (0.01, 0.3, 100.0, ())
    tracks = {track: tuple(Sight(n, times[n], *about) for n in numbers) for track, numbers in sights.items()}
    found = Tracks(folder, [Segment(0, 0, tuple(times), tracks, (), {})])
    return Source(Video(f"{name}.mp4"), (64, 48), rate, np.eye(3), found)


def even(count: int) -> list[float]:
    return [i / RATE for i in range(count)]


def test_frames_of_one_time_are_joined_whatever_their_numbers() -> None:
    late = [0.02, 0.12, 0.32, 0.42, 0.52]  # a frame was dropped
    first, second = source("a", even(6), {0: list(range(6))}), source("b", late, {3: [0, 1, 2, 4]})
    line = Timeline.of([first, second], [[0], [3]])
    assert line.times == even(6)
    assert [line.numbers[i] for i in (0, 1, 3, 4, 5)] == [(0, 0), (1, 1), (3, 2), (4, 3), (5, 4)]
    assert line.together(64) == [i for i in range(6) if line.numbers[i][1] != 3]


def test_times_at_which_nobody_sees_the_person_are_left_out() -> None:
    first, second = source("a", even(8), {0: [1, 2], 1: [6]}), source("b", even(8), {0: [2, 3, 4]})
    line = Timeline.of([first, second], [[0, 1], [0]])
    assert line.times == [i / RATE for i in (1, 2, 3, 4, 6)]
    assert line.together(64) == [1]
    other = Timeline.of([first, second], [[0], [0]])  # without another person's track
    assert other.times == [i / RATE for i in (1, 2, 3, 4)]


def test_a_video_that_ends_sooner_shows_nobody_afterwards() -> None:
    first, second = source("a", even(10), {0: list(range(10))}), source("b", even(5), {0: list(range(5))})
    line = Timeline.of([first, second], [[0], [0]])
    assert line.together(64)[:5] == [0, 1, 2, 3, 4] and max(line.together(64)) <= 5


@pytest.mark.parametrize("rate", [Fraction(11), Fraction(9), Fraction(20)])
def test_videos_of_other_frame_rates_are_refused_by_name(rate: Fraction) -> None:
    first, second = source("a", even(4), {0: [0]}), source("b", even(4), {0: [0]}, rate)
    with pytest.raises(ValueError, match=rf"b\.mp4 has {float(rate):.2f} frames a second, a\.mp4 10\.00; .* one rate"):
        Timeline.of([first, second], [[0], [0]])


def test_rates_that_differ_by_their_rounding_are_one() -> None:
    first, second = source("a", even(4), {0: [0]}), source("b", even(4), {0: [0]}, Fraction(10010, 1001))
    assert Timeline.of([first, second], [[0], [0]]).times == [0.0]
    close = source("b", even(4), {0: [0]}, Fraction(10000, 1001))
    assert Timeline.of([first, close], [[0], [0]]).times == [0.0]


def test_nobody_seen_at_one_time_is_an_error() -> None:
    first, second = source("a", even(8), {0: [0, 1, 2]}), source("b", even(8), {0: [4, 5]})
    line = Timeline.of([first, second], [[0], [0]])
    with pytest.raises(ValueError, match=r"never show the person's face at one time"):
        line.together(4)


def test_times_for_the_scale_are_even_and_limited() -> None:
    all_frames = list(range(40))
    line = Timeline.of([source(n, even(40), {0: all_frames}) for n in "ab"], [[0], [0]])
    assert line.together(5) == [0, 9, 19, 29, 39] and line.together(100) == all_frames


def test_runs_end_where_nobody_was_seen_for_longer_than_a_track_lasts() -> None:
    first = source("a", even(40), {0: [*range(5), *range(10, 14), 30]})
    second = source("b", even(40), {0: [31, 32]})
    line = Timeline.of([first, second], [[0], [0]])
    runs = [[round(line.times[i] * RATE) for i in run] for run in line.runs()]
    assert runs == [[*range(5), *range(10, 14)], [30, 31, 32]]


def test_shots_hold_what_each_view_shows(detected_folder: Path, tmp_path: Path) -> None:
    clips = [read_clip(ref) for ref in list_clips(detected_folder, "train")[:2]]
    seen = [list(range(4)), [1, 3]]
    sources = []
    for view, (clip, numbers) in enumerate(zip(clips, seen, strict=True)):
        bare = source("ab"[view], even(5), {0: numbers})
        folder = stored_tracks(tmp_path / f"{view}", {0: (clip, bare.segments[0].tracks[0])}).folder
        sources.append(replace(bare, tracks=replace(bare.tracks, folder=folder)))
    line = Timeline.of(sources, [[0], [0]])
    shots = line.shots([0, 1, 3])
    assert [shot.mask.tolist() for shot in shots] == [[True] * 3, [False, True, True]]
    for shot in shots:
        assert list(shot.frame) == [0, 1, 3] and shot.clip.frames == 3
        np.testing.assert_allclose(shot.time, [0, 0.1, 0.3])
    np.testing.assert_array_equal(shots[0].clip.landmarks, clips[0].landmarks[[0, 1, 3]])
    np.testing.assert_array_equal(shots[1].clip.landmarks[1:], clips[1].landmarks[[0, 1]])
    (nothing,) = line.shots([0, 2])[1:]
    assert not nothing.mask.any() and nothing.clip.frames == 2
