"""Estimates pose, expression and light of a known person in every frame: the second pass of tracking.

Each window of frames is fitted frame by frame, smoothed along time, refined on the pixels, and smoothed again. The last
frames of a window are estimated anew in the next one, which knows what follows them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike

import numpy as np
import torch
from torch import Tensor

from fmlfast.common.stored_arrays import check_tensors
from fmlfast.common.tensors import TensorBatch
from fmlfast.data.frames import Frames
from fmlfast.data.mediapipe478 import NUM_POINTS
from fmlfast.data.shards import Clip
from fmlfast.model.codes import Codes
from fmlfast.model.fml import FML
from fmlfast.reconstruction.focal_length import scale_focal
from fmlfast.reconstruction.refinement import refine
from fmlfast.reconstruction.track.motion import FrameFit, PersonPoints, View, fit_frames
from fmlfast.reconstruction.track.smooth import Path, expression_groups, smooth_path
from fmlfast.rotation import axis_angle_from_rotation, rotation_from_axis_angle

WINDOW, LAG = 256, 24  # frames of a window; that are estimated anew
BATCH = 32  # frames that are fitted, lit and refined at once
LIGHT_SECONDS = 0.1  # standard deviation of the Gaussian that smooths the light
STORED = {
    "frame": (torch.int64, "T"),
    "time": (torch.float64, "T"),
    "seen": (torch.bool, "T"),
    "rotation": (torch.float32, "T", 3, 3),
    "translation": (torch.float32, "T", 3),
    "expression": (torch.float32, "T", "E"),
    "sh": (torch.float32, "T", 9, 3),
    "landmarks": (torch.float32, "T", 68, 2),
}
"""Types and shapes of a stored track."""


@dataclass
class Track(TensorBatch):
    """What is known of a person in T frames."""

    frame: Tensor  # [T] int64, number in the video
    time: Tensor  # [T] float64 seconds
    seen: Tensor  # [T] bool; False where the face was lost for a moment, and the rest is interpolated
    rotation: Tensor  # [T, 3, 3] model frame -> camera frame
    translation: Tensor  # [T, 3] mm
    expression: Tensor  # [T, E]
    sh: Tensor  # [T, 9, 3]
    landmarks: Tensor  # [T, 68, 2] px of the video, detected

    @classmethod
    def of_stored(cls, path: str | PathLike[str], stored: Mapping[str, Tensor]) -> "Track":
        """Builds a track of what the file `path` holds; raises ValueError, naming it, where that is none."""
        check_tensors(path, stored, STORED)
        return cls(**stored)

    @classmethod
    def join(cls, parts: "Sequence[Track]") -> "Track":
        """Concatenates tracks of one person."""
        return cls(**{name: torch.cat([getattr(part, name) for part in parts]) for name in vars(parts[0])})

    def part(self, chosen: slice | Tensor) -> "Track":
        """Selects frames."""
        return self.map(lambda values: values[chosen])

    def filled(self, times: Sequence[float], first: int) -> "Track":
        """Interpolates the frames missing between those that are there; times of all frames from number `first` on."""
        parts, done = [], 0
        for i in (self.frame.diff() > 1).nonzero()[:, 0].tolist():
            a, b = self.part(slice(i, i + 1)), self.part(slice(i + 1, i + 2))
            parts.append(self.part(slice(done, i + 1)))
            start, gap, done = int(a.frame), int(b.frame - a.frame), i + 1
            for number in range(start + 1, start + gap):
                parts.append(_between(a, b, (number - start) / gap, number, times[number - first]))
        return Track.join([*parts, self.part(slice(done, None))])


@dataclass(frozen=True)
class Shot:
    """Successive frames of one view."""

    clip: Clip
    mask: np.ndarray  # [T] bool, False where the view does not show the face, and the clip anything
    frame: Sequence[int]  # [T] numbers in the view's video
    time: Sequence[float]  # [T] seconds


class PersonEstimator:
    """Estimates a known person's frames, one uninterrupted track after another."""

    def __init__(
        self,
        model: FML,
        person: Codes,
        shape: Tensor | None,
        steps: int,
        focal: Sequence[float],
        views: Sequence[View] | None = None,
    ) -> None:
        """Prepares the estimation.

        person: codes of one subject. shape: smooth fields of the landmark fit that the encoder's outputs are relative
        to. steps: of refinement. focal: factor of the focal lengths that each view's clips have. views: cameras of
        synchronous videos; one without.
        """
        self.model, self.person, self.shape, self.steps = model, person, shape, steps
        self.focal, self.views = focal, views or [View.alone()]
        self.points = PersonPoints(model, model.neutral(person)[0])
        self.groups = expression_groups(model.template.expression_names)

    def track(self, shots: Iterator[Sequence[Shot]], before: Track | None = None) -> Iterator[list[Track]]:
        """Estimates a track from its shots in order, one of each view at a time; yields windows, one of each view.

        before: the first view's last window of a track that is continued.
        """
        window: _Window | None = None
        done = None if before is None else self._common(before.part(slice(-2, None)))
        for shot in shots:
            new = self._read(shot)
            window = new if window is None else _Window.join(window, new)
            if len(window.time) >= WINDOW + LAG:
                keep = len(window.time) - LAG
                path, light = self._estimate(window, done)
                yield [self._view(window, path, light[i], i).part(slice(0, keep)) for i in range(len(self.views))]
                done = path.part(keep - 2, keep), window.time[keep - 2 : keep].tolist()
                window = window.after(keep)
        if window is not None and len(window.time):
            path, light = self._estimate(window, done)
            yield [self._view(window, path, light[i], i) for i in range(len(self.views))]

    def fit(self, shots: Sequence[Shot]) -> FrameFit:
        """Fits each frame by itself, from all views together."""
        return self._read(shots).fit

    def _read(self, shots: Sequence[Shot]) -> "_Window":
        device, seen = self.model.code_mean.device, []
        for shot, focal in zip(shots, self.focal, strict=True):
            frames = Frames.from_clips([shot.clip], self.model.config.image_size)
            frames = replace(frames, mask=torch.from_numpy(shot.mask)[None])
            seen.append(scale_focal(frames, frames.Ks.new_full(frames.mask.shape, focal)).to(device))
        fits = [
            fit_frames(self.model, [f.only(some) for f in seen], self.views, self.person, self.shape, self.points)
            for some in _batches(len(shots[0].time))
        ]
        columns = zip(*(fit.to("cpu").tensors() for fit in fits), strict=True)
        fit = FrameFit(*(torch.cat(parts) for parts in columns))
        return _Window(np.array(shots[0].time), [_Sights.of(s, f) for s, f in zip(shots, seen, strict=True)], fit)

    def _estimate(self, window: "_Window", before: "tuple[Path, list[float]] | None") -> tuple[Path, list[Tensor]]:
        """Finds the path of a window, which begins after `before`, and light times skin tone [T, 9, 3] of each view."""
        given = before or (None, [])
        path = smooth_path(window.fit, window.time, self.groups, *given)
        count = len(window.time)
        light = [
            torch.cat([self._light(window, path, i, some) for some in _batches(count)]) for i in range(len(self.views))
        ]
        if self.steps and len(self.views) == 1:
            refined = Path.join([self._refine(window, path, light[0], some) for some in _batches(count)])
            moved = {name: getattr(refined, name) for name in ("rotation", "translation", "expression")}
            path = smooth_path(replace(window.fit, **moved), window.time, self.groups, *given)
        return path, [_smooth_light(values, window.time) for values in light]

    def _codes(self, path: Path, light: Tensor, view: int, some: Sequence[int]) -> Codes:
        """Builds codes of some frames of a view."""
        device, seen = self.model.code_mean.device, _in_view(path, self.views[view])
        return replace(
            self.person,
            rotation=seen.rotation[None, some].to(device),
            translation=seen.translation[None, some].to(device),
            expression=seen.expression[None, some].to(device),
            sh=light[None].to(device),
        )

    def _light(self, window: "_Window", path: Path, view: int, some: Sequence[int]) -> Tensor:
        """Fits the product of light and skin tone, [N, 9, 3]."""
        codes = self._codes(path, torch.zeros(len(some), 9, 3), view, some)
        camera, pattern = self.model.camera_vertices(codes).flatten(0, 1), self.model.pattern(codes)
        return self.model.fit_light_times_tone(window.views[view].frames.only(some), camera, pattern)[0].cpu()

    def _refine(self, window: "_Window", path: Path, light: Tensor, some: Sequence[int]) -> Path:
        """Refines frames on their pixels; the depth stays, of which they tell less than all frames' points."""
        codes = self._codes(path, light[some] / self.person.tone.exp().cpu(), 0, some)
        found = refine(self.model, window.views[0].frames.only(some), codes, self.steps, person=False)
        place = found.translation[0] * (codes.translation[0, :, 2:] / found.translation[0, :, 2:])
        return Path(found.rotation[0].cpu(), place.cpu(), found.expression[0].cpu())

    def _view(self, window: "_Window", path: Path, light: Tensor, view: int) -> Track:
        sights, seen = window.views[view], _in_view(path, self.views[view])
        return Track(
            frame=torch.from_numpy(sights.number),
            time=torch.from_numpy(sights.time),
            seen=sights.frames.mask[0].cpu(),
            rotation=seen.rotation,
            translation=seen.translation,
            expression=seen.expression,
            sh=light / self.person.tone.exp().cpu(),
            landmarks=sights.landmarks,
        )

    def _common(self, track: Track) -> "tuple[Path, list[float]]":
        """Maps the first view's poses to the frame that all views share."""
        view = self.views[0]
        place = (track.translation - view.translation) @ view.rotation
        return Path(view.rotation.mT @ track.rotation, place, track.expression), track.time.tolist()


@dataclass
class _Sights:
    number: np.ndarray  # [T] of the frames in the view's video
    time: np.ndarray  # [T] seconds
    landmarks: Tensor  # [T, 68, 2] px of the video
    frames: Frames  # [1, T]

    @classmethod
    def of(cls, shot: Shot, frames: Frames) -> "_Sights":
        clip = shot.clip
        assert clip.detection is not None
        scale, offset = clip.crop_to_source[:, 0, 0, None, None], clip.crop_to_source[:, None, :, 2]
        landmarks = torch.from_numpy(clip.detection.surface[:, NUM_POINTS:] * scale + offset)
        return cls(np.array(shot.frame), np.array(shot.time), landmarks, frames)

    def join(self, other: "_Sights") -> "_Sights":
        both = zip(self.frames.tensors(), other.frames.tensors(), strict=True)
        return _Sights(
            np.concatenate([self.number, other.number]),
            np.concatenate([self.time, other.time]),
            torch.cat([self.landmarks, other.landmarks]),
            Frames.of_tensors(torch.cat(pair, 1) for pair in both),
        )

    def after(self, first: int) -> "_Sights":
        rest = self.frames.only(range(first, len(self.number)))
        return _Sights(self.number[first:], self.time[first:], self.landmarks[first:], rest)


@dataclass
class _Window:
    time: np.ndarray  # [T] seconds, of the first view
    views: list[_Sights]
    fit: FrameFit

    def join(self, other: "_Window") -> "_Window":
        fit = FrameFit(*(torch.cat(pair) for pair in zip(self.fit.tensors(), other.fit.tensors(), strict=True)))
        views = [a.join(b) for a, b in zip(self.views, other.views, strict=True)]
        return _Window(np.concatenate([self.time, other.time]), views, fit)

    def after(self, first: int) -> "_Window":
        views = [view.after(first) for view in self.views]
        return _Window(self.time[first:], views, self.fit.map(lambda values: values[first:]))


def _in_view(path: Path, view: View) -> Path:
    """Maps poses to a view's camera."""
    place = path.translation @ view.rotation.mT + view.translation
    return Path(view.rotation @ path.rotation, place, path.expression)


def _batches(count: int) -> list[list[int]]:
    return [list(range(first, min(first + BATCH, count))) for first in range(0, count, BATCH)]


def _smooth_light(light: Tensor, times: np.ndarray) -> Tensor:
    """Averages light [T, 9, 3] along time by a Gaussian window."""
    stamps = torch.from_numpy(times)
    weights = torch.exp(-0.5 * ((stamps[:, None] - stamps) / LIGHT_SECONDS).square()).float()
    return torch.einsum("st,tbc->sbc", weights / weights.sum(1, keepdim=True), light)


def _between(a: Track, b: Track, share: float, number: int, time: float) -> Track:
    """Interpolates a frame between two."""
    turn = axis_angle_from_rotation(b.rotation @ a.rotation.mT)
    mixed = {
        name: torch.lerp(getattr(a, name), getattr(b, name), share)
        for name in ("translation", "expression", "sh", "landmarks")
    }
    return Track(
        frame=torch.tensor([number]),
        time=torch.tensor([time], dtype=torch.float64),
        seen=torch.tensor([False]),
        rotation=rotation_from_axis_angle(share * turn) @ a.rotation,
        **mixed,
    )
