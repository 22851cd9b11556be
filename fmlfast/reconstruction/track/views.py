"""Tracks one person in synchronous videos of several calibrated cameras: one head, one motion, one expression."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fmlfast.common.locks import lock_new_folder
from fmlfast.common.progress import ProgressBar
from fmlfast.common.tensors import independent
from fmlfast.data.shards import Clip
from fmlfast.reconstruction.focal_length import Cameras
from fmlfast.reconstruction.inputs import Photo
from fmlfast.reconstruction.pipeline import Reconstructor
from fmlfast.reconstruction.track.estimate import PersonEstimator, Shot, Track
from fmlfast.reconstruction.track.follow import PATIENCE
from fmlfast.reconstruction.track.motion import FrameFit, View
from fmlfast.reconstruction.track.observe import SEGMENT, read_sights
from fmlfast.reconstruction.track.people import FRAMES, group_tracks, join_clips, person_photos
from fmlfast.reconstruction.track.project import Project, TrackSettings, unfinished
from fmlfast.reconstruction.track.run import REFINE_PERSON, person_face, write_results
from fmlfast.reconstruction.track.source import Source, VideoFacts
from fmlfast.reconstruction.track.tracked import FACE, TrackedPerson

SAME_RATE = 0.01  # largest difference of the videos' frame rates, share
SCALED_BY = 64  # frames, at most, that the head's scale is found from


@dataclass(frozen=True)
class Camera:
    """A calibrated camera of several: X_camera = R X_world + t."""

    K: np.ndarray  # [3, 3] px
    R: np.ndarray  # [3, 3]
    t: np.ndarray  # [3] mm


@independent
@torch.no_grad()
def track_views(
    videos: Sequence[str | Path],
    cameras: Sequence[Camera],
    out: str | Path,
    checkpoint: str | Path | None = None,
    *,
    texture: int = 1024,
    seconds: float | None = None,
    progress: bool = False,
) -> list[TrackedPerson]:
    """Tracks one person, the one seen most, in synchronous videos, and writes `out`/view-0, view-1, ...

    Each view's folder is one that `track` writes, with the same head and expressions, and poses that agree. The points
    of all views count together; frames are not refined on pixels. What the cameras' distances tell of the head's size
    is `scale` in parameters.json: true millimetres per millimetre of the model.

    Args:
        videos: of equal start; frames of one time belong together.
        cameras: of the videos, in their order.
        out, checkpoint, texture, seconds, progress: as of `track`.

    Returns:
        The person in each view.

    Raises what `track` raises, and ValueError where a video shows nobody.
    """
    paths = [Path(video) for video in videos]
    with lock_new_folder(out) as out:
        if len(paths) != len(cameras) or len(paths) < 2:
            raise ValueError(f"{len(paths)} videos need as many cameras, two or more; the file has {len(cameras)}")
        reconstruct = Reconstructor.of(checkpoint, REFINE_PERSON, texture, None)
        told = [np.concatenate([camera.K, camera.R, camera.t[:, None]], 1) for camera in cameras]
        work, size = unfinished(out), reconstruct.model.config.image_size
        projects, sources, groups = [], [], []
        for number, (path, camera) in enumerate(zip(paths, cameras, strict=True)):
            settings = TrackSettings.of(path, reconstruct.digest, 0, texture, seconds, told)
            facts = VideoFacts.of(path)
            projects.append(Project.open(work / f"view-{number}", settings))
            sources.append(Source.observe(facts, projects[-1].observed, camera.K, size, seconds, progress))
            found = group_tracks(sources[-1].tracks, reconstruct.model)
            if not found:
                raise ValueError(f"{path}: no face that could be followed for half a second")
            groups.append(found[0])

        def photos() -> tuple[list[Photo], Cameras]:
            each, chosen, Ks = -(-FRAMES // len(sources)), [], []
            for number, (source, group) in enumerate(zip(sources, groups, strict=True)):
                own = person_photos(source.tracks, group, source.video, each)
                chosen += [replace(photo, name=f"view-{number}-{photo.name}") for photo in own]
                Ks += [source.K] * len(own)
            return chosen, Cameras.given(Ks)

        face = person_face(projects[0].person(0), reconstruct, photos)
        model = reconstruct.model.to(reconstruct.device)
        codes, ones = face.codes.to(reconstruct.device), [1.0] * len(sources)
        timeline, shape = Timeline.of(sources, groups), sources[0].start_shape(model, groups[0], 1.0)
        places = timeline.together(SCALED_BY)
        alone = [PersonEstimator(model, codes, shape, 0, [1.0]).fit([shot]) for shot in timeline.shots(places)]
        scale = rig_scale(alone, cameras)
        turns = [camera.R @ cameras[0].R.T for camera in cameras]  # motion is told in the first camera's frame
        shifts = [camera.t - turn @ cameras[0].t for turn, camera in zip(turns, cameras, strict=True)]
        views = [View(_tensor(turn), scale * _tensor(shift)) for turn, shift in zip(turns, shifts, strict=True)]
        estimator = PersonEstimator(model, codes, shape, 0, ones, views)
        tracks: list[list[Track]] = [[] for _ in sources]
        with ProgressBar(total=len(timeline.times), disable=not progress, desc="motion", unit="frame") as bar:
            for run in timeline.runs():
                pieces = (timeline.shots(run[first : first + SEGMENT]) for first in range(0, len(run), SEGMENT))
                for window in estimator.track(pieces):
                    bar.update(len(window[0].frame))
                    for own, part in zip(tracks, window, strict=True):
                        own.append(part)
        people = []
        for number, (source, project, parts) in enumerate(zip(sources, projects, tracks, strict=True)):
            K, path = cameras[number].K.astype(np.float32), paths[number].resolve()
            people.append(TrackedPerson(face, Track.join(parts), K, source.size, path, 1 / scale))
            if number and not (project.person(0) / FACE).is_dir():
                face.save(project.person(0) / FACE, meshes=False, pictures=False)
            write_results(project, source, reconstruct.model, people[-1:], progress)
        work.rename(out)
        for number in range(len(projects)):
            Project(out / f"view-{number}").clear()
        return people


def rig_scale(alone: Sequence[FrameFit], cameras: Sequence[Camera]) -> float:
    """Finds the model's millimetres per true one, from poses of one head that each camera tells by itself.

    For cameras a, b: t_b = R_ab t_a + s (c_b - R_ab c_a), with R_ab and c of the rig; the median of s over all frames.
    """
    found = []
    first = cameras[0]
    for fit, camera in zip(alone[1:], cameras[1:], strict=True):
        between = _tensor(camera.R @ first.R.T)
        base = _tensor(camera.t) - between @ _tensor(first.t)
        rest = fit.translation - alone[0].translation @ between.mT
        found.append(rest @ base / base.square().sum())
    return float(torch.cat(found).median())


@dataclass(frozen=True)
class Timeline:
    """Frames of synchronous videos that belong together, by the times of the first one."""

    sources: Sequence[Source]
    numbers: list[tuple[int, ...]]  # of each time, the frame's number in each video
    times: list[float]  # seconds
    places: list[dict[int, tuple[int, int, int]]]  # of each video: frame -> segment, track, place of the sight

    @classmethod
    def of(cls, sources: Sequence[Source], groups: Sequence[Sequence[int]]) -> "Timeline":
        """Joins frames of equal time, where one view or more shows the person.

        Raises ValueError where the videos' frame rates differ.
        """
        places = []
        for source, group in zip(sources, groups, strict=True):
            if abs(source.rate / sources[0].rate - 1) > SAME_RATE:
                raise ValueError(
                    f"{source.video.path} has {float(source.rate):.2f} frames a second, {sources[0].video.path} "
                    f"{float(sources[0].rate):.2f}; synchronous videos need one rate"
                )
            sights = [(track, item) for track in group for item in source.tracks.sights(track)]
            places.append({sight.frame: (segment.number, track, place) for track, (segment, place, sight) in sights})
        stamps, apart = np.array(sources[0].times), float(1 / sources[0].rate)
        nearest, numbers, times = [_nearest(np.array(source.times), stamps) for source in sources], [], []
        for time, found in zip(stamps.tolist(), zip(*nearest, strict=True), strict=True):
            if any(off > apart for _, off in found):
                continue  # a video has ended
            frames = tuple(frame for frame, _ in found)
            if any(frame in place for frame, place in zip(frames, places, strict=True)):
                numbers.append(frames)
                times.append(time)
        return cls(sources, numbers, times, places)

    def together(self, count: int) -> list[int]:
        """Selects at most `count` times at which all views show the person, evenly; raises ValueError for none."""
        common = [
            index
            for index, frames in enumerate(self.numbers)
            if all(number in place for number, place in zip(frames, self.places, strict=True))
        ]
        if not common:
            raise ValueError("the videos never show the person's face at one time: are they synchronous?")
        return [common[i] for i in np.linspace(0, len(common) - 1, min(count, len(common))).astype(int)]

    def runs(self) -> list[list[int]]:
        """Splits the times where nobody sees the person for longer than a track lasts."""
        ends = [i + 1 for i in range(len(self.times) - 1) if self.times[i + 1] - self.times[i] > PATIENCE]
        return [list(range(a, b)) for a, b in zip([0, *ends], [*ends, len(self.times)], strict=True)]

    def shots(self, indices: Sequence[int]) -> list[Shot]:
        """Reads what each view shows at these times."""
        return [self._shot(view, indices) for view in range(len(self.sources))]

    def _shot(self, view: int, indices: Sequence[int]) -> Shot:
        source, places = self.sources[view], self.places[view]
        frames = [self.numbers[index][view] for index in indices]
        found = [places.get(frame) for frame in frames]
        any_place = next((place for place in found if place), next(iter(places.values())))
        clips: dict[tuple[int, int], Clip] = {}
        for segment, track, _ in {any_place, *(place for place in found if place)}:
            if (segment, track) not in clips:
                clips[segment, track] = read_sights(source.tracks.folder, source.segments[segment], track)
        parts = []
        for segment, track, place in (place or any_place for place in found):
            parts.append(clips[segment, track].part(place, place + 1))
        mask, times = np.array([place is not None for place in found]), source.times
        return Shot(join_clips(parts), mask, frames, [times[frame] for frame in frames])


def _nearest(times: np.ndarray, stamps: np.ndarray) -> list[tuple[int, float]]:
    """Finds the nearest of rising times [N] to each stamp [T], and how far it is, seconds."""
    after = np.searchsorted(times, stamps).clip(max=len(times) - 1)
    before = (after - 1).clip(min=0)
    chosen = np.where(np.abs(times[before] - stamps) <= np.abs(times[after] - stamps), before, after)
    return list(zip(chosen.tolist(), np.abs(times[chosen] - stamps).tolist(), strict=True))


def _tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.asarray(values, np.float32))
