"""Estimates pose, expression and light of a known person in every frame: the second pass of tracking.

Each window of frames is fitted frame by frame, smoothed along time, refined on the pixels, and smoothed again. The last
frames of a window are estimated anew in the next one, which knows what follows them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from fmlfast.common.tensors import TensorBatch
from fmlfast.data.frames import Frames
from fmlfast.data.mediapipe478 import NUM_POINTS
from fmlfast.data.shards import Clip
from fmlfast.model.codes import Codes
from fmlfast.model.fml import FML
from fmlfast.reconstruction.focal_length import scale_focal
from fmlfast.reconstruction.refinement import refine
from fmlfast.reconstruction.track.motion import FrameFit, PersonPoints, fit_frames
from fmlfast.reconstruction.track.smooth import Path, expression_groups, smooth_path
from fmlfast.rotation import axis_angle_from_rotation, rotation_from_axis_angle

WINDOW, LAG = 256, 24  # frames of a window; that are estimated anew
BATCH = 32  # frames that are fitted, lit and refined at once
LIGHT_SECONDS = 0.1  # standard deviation of the Gaussian that smooths the light


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
    def join(cls, parts: "Sequence[Track]") -> "Track":
        """Concatenates tracks of one person."""
        return cls(**{name: torch.cat([getattr(part, name) for part in parts]) for name in vars(parts[0])})

    def part(self, chosen: slice | Tensor) -> "Track":
        """Selects frames."""
        return self.map(lambda values: values[chosen])

    def filled(self, times: Sequence[float], first: int) -> "Track":
        """Interpolates the frames missing between those that are there; times of all frames from number `first` on."""
        parts = [self.part(slice(0, 1))]
        for i in range(1, len(self.frame)):
            a, b = self.part(slice(i - 1, i)), self.part(slice(i, i + 1))
            gap = int(b.frame - a.frame)
            for number in range(int(a.frame) + 1, int(b.frame)):
                parts.append(_between(a, b, (number - int(a.frame)) / gap, number, times[number - first]))
            parts.append(b)
        return Track.join(parts)


class PersonEstimator:
    """Estimates a known person's frames, one uninterrupted track after another."""

    def __init__(self, model: FML, person: Codes, shape: Tensor | None, focal: float, steps: int) -> None:
        """Prepares the estimation.

        person: codes of one subject. shape: smooth fields of the landmark fit that the encoder's outputs are relative
        to. focal: factor of the focal lengths that the clips have. steps: of refinement.
        """
        self.model, self.person, self.shape, self.focal, self.steps = model, person, shape, focal, steps
        self.points = PersonPoints(model, model.neutral(person)[0])
        self.groups = expression_groups(model.template.expression_names)

    def track(
        self,
        clips: Iterator[tuple[Clip, Sequence[int], Sequence[float]]],
        before: Track | None = None,
    ) -> Iterator[Track]:
        """Estimates a track from its clips in order, each with the numbers and times of its frames; yields windows.

        before: the last window of a track that is continued.
        """
        window: _Window | None = None
        done = None if before is None else before.part(slice(-2, None))
        for clip, numbers, times in clips:
            new = self._read(clip, numbers, times)
            window = new if window is None else _Window.join([window, new])
            if len(window.number) >= WINDOW + LAG:
                keep = len(window.number) - LAG
                result = self._estimate(window, done).part(slice(0, keep))
                yield result
                done, window = result.part(slice(-2, None)), window.after(keep)
        if window is not None and len(window.number):
            yield self._estimate(window, done)

    def _read(self, clip: Clip, numbers: Sequence[int], times: Sequence[float]) -> "_Window":
        assert clip.detection is not None
        frames = Frames.from_clips([clip], self.model.config.image_size).to(self.model.code_mean.device)
        frames = scale_focal(frames, frames.Ks.new_full((1, len(numbers)), self.focal))
        fits = [
            fit_frames(self.model, frames.only(some), self.person, self.shape, self.points).to("cpu")
            for some in _batches(len(numbers))
        ]
        fit = FrameFit(**{name: torch.cat([getattr(part, name) for part in fits]) for name in vars(fits[0])})
        scale, offset = clip.crop_to_source[:, 0, 0][:, None, None], clip.crop_to_source[:, None, :, 2]
        landmarks = torch.from_numpy(clip.detection.surface[:, NUM_POINTS:] * scale + offset)
        return _Window(np.array(numbers), np.array(times), landmarks, frames, fit)

    def _estimate(self, window: "_Window", before: Track | None) -> Track:
        """Estimates a window; the frames `before` it stay."""
        path = self._smooth(window, window.fit, before)
        light = torch.cat([self._light(window, path, some) for some in _batches(len(window.time))])
        if self.steps:
            refined = Path.join([self._refine(window, path, light, some) for some in _batches(len(window.time))])
            moved = {name: getattr(refined, name) for name in ("rotation", "translation", "expression")}
            path = self._smooth(window, replace(window.fit, **moved), before)
        return Track(
            frame=torch.from_numpy(window.number),
            time=torch.from_numpy(window.time),
            seen=torch.ones(len(window.number), dtype=torch.bool),
            rotation=path.rotation,
            translation=path.translation,
            expression=path.expression,
            sh=_smooth_light(light, window.time) / self.person.tone.exp().cpu(),
            landmarks=window.landmarks,
        )

    def _smooth(self, window: "_Window", fit: FrameFit, before: Track | None) -> Path:
        if before is None:
            return smooth_path(fit, window.time, self.groups)
        path = Path(before.rotation, before.translation, before.expression)
        return smooth_path(fit, window.time, self.groups, path, before.time.tolist())

    def _codes(self, path: Path, light: Tensor, some: Sequence[int]) -> Codes:
        device = self.model.code_mean.device
        return replace(
            self.person,
            rotation=path.rotation[None, some].to(device),
            translation=path.translation[None, some].to(device),
            expression=path.expression[None, some].to(device),
            sh=light[None].to(device),
        )

    def _light(self, window: "_Window", path: Path, some: Sequence[int]) -> Tensor:
        """Fits the product of light and skin tone, [N, 9, 3]."""
        codes = self._codes(path, torch.zeros(len(some), 9, 3), some)
        camera, pattern = self.model.camera_vertices(codes).flatten(0, 1), self.model.pattern(codes)
        return self.model.fit_light_times_tone(window.frames.only(some), camera, pattern)[0].cpu()

    def _refine(self, window: "_Window", path: Path, light: Tensor, some: Sequence[int]) -> Path:
        """Refines frames on their pixels; the depth stays, of which they tell less than all frames' points."""
        codes = self._codes(path, light[some] / self.person.tone.exp().cpu(), some)
        found = refine(self.model, window.frames.only(some), codes, self.steps, person=False)
        place = found.translation[0] * (codes.translation[0, :, 2:] / found.translation[0, :, 2:])
        return Path(found.rotation[0].cpu(), place.cpu(), found.expression[0].cpu())


@dataclass
class _Window:
    number: np.ndarray  # [T] of the frames
    time: np.ndarray  # [T] seconds
    landmarks: Tensor  # [T, 68, 2] px of the video
    frames: Frames  # [1, T]
    fit: FrameFit

    @classmethod
    def join(cls, parts: "Sequence[_Window]") -> "_Window":
        a, b = parts
        frames = Frames(
            **{f.name: torch.cat([getattr(a.frames, f.name), getattr(b.frames, f.name)], 1) for f in fields(Frames)}
        )
        fit = FrameFit(**{k: torch.cat([v, getattr(b.fit, k)]) for k, v in vars(a.fit).items()})
        return cls(
            np.concatenate([a.number, b.number]),
            np.concatenate([a.time, b.time]),
            torch.cat([a.landmarks, b.landmarks]),
            frames,
            fit,
        )

    def after(self, first: int) -> "_Window":
        rest = range(first, len(self.number))
        fit = self.fit.map(lambda values: values[first:])
        return _Window(self.number[first:], self.time[first:], self.landmarks[first:], self.frames.only(rest), fit)


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
