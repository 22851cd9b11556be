"""Estimates focal lengths of photos: from EXIF data, as a guess, or from the perspective of the landmarks."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from fmlfast.common.tensors import exact
from fmlfast.data.crop import assumed_K
from fmlfast.data.frames import Frames
from fmlfast.model.fml import FML
from fmlfast.model.landmark_fit import InitialFit, LandmarkObservations
from fmlfast.model.landmark_pose import fit_pose
from fmlfast.reconstruction.inputs import Photo

_TRIED = tuple(2.0 ** (k / 4) for k in range(-5, 6))  # times the focal length that was assumed
_PRIOR = 20.0  # weight of the squared log factor: a guess is mostly right within 1.4


@dataclass(frozen=True)
class Cameras:
    """Intrinsics of N photos and the sources of their focal lengths."""

    Ks: np.ndarray  # [N, 3, 3] float32, pixels
    sources: tuple[str, ...]
    """Source of each focal length: "exif", the photo's file; "given", the caller; "estimated", the face's perspective;
    "assumed", a guess of 1.2 x the longer side."""

    @classmethod
    def given(cls, Ks: Sequence[np.ndarray], source: str = "given") -> "Cameras":
        """Takes intrinsics [3, 3] that are known, pixels, from a source."""
        return cls(np.stack(Ks).astype(np.float32), (source,) * len(Ks))

    @classmethod
    def of(cls, photos: Sequence[Photo]) -> "Cameras":
        """Takes focal lengths from EXIF data, and the guess for the other photos."""
        Ks = np.stack([assumed_K(photo.image.shape[1], photo.image.shape[0]) for photo in photos]).astype(np.float32)
        for K, photo in zip(Ks, photos, strict=True):
            K[[0, 1], [0, 1]] = photo.focal or K[0, 0]
        return cls(Ks, tuple("exif" if photo.focal else "assumed" for photo in photos))

    def part(self, photos: Sequence[int]) -> "Cameras":
        """Returns the cameras of some photos."""
        return Cameras(self.Ks[list(photos)], tuple(self.sources[photo] for photo in photos))

    def estimated(self, model: FML, frames: Frames, photos: Sequence[Photo]) -> tuple["Cameras", Frames]:
        """Corrects guessed focal lengths by `focal_factor`; returns new cameras, and the frames with their Ks.

        `frames` holds the photos as frames of one subject. Photos of one size, in portrait or landscape format, are
        assumed to be from one camera and share one correction. Models without `shape_init` leave the guess.
        """
        if model.shape_fit is None:
            return self, frames
        factors = np.ones(len(photos), np.float32)
        sizes = [tuple(sorted(photo.image.shape[:2])) for photo in photos]
        guessed = [index for index, source in enumerate(self.sources) if source == "assumed"]
        for size in {sizes[index] for index in guessed}:
            own = [index for index in guessed if sizes[index] == size]
            factors[own] = float(focal_factor(model, frames.only(own)))
        Ks = self.Ks.copy()
        Ks[:, :2, :2] *= factors[:, None, None]
        sources = tuple("estimated" if source == "assumed" else source for source in self.sources)
        return Cameras(Ks, sources), scale_focal(frames, torch.from_numpy(factors)[None].to(frames.Ks.device))


@exact
@torch.no_grad()
def focal_factor(model: FML, frames: Frames) -> Tensor:  # [B]
    """Estimates a correction factor of each subject's focal lengths, from 0.4 to 2.4, from landmarks and priors.

    Face, poses and expressions are fitted to the points of all frames (`LandmarkFit`) under eleven focal lengths; the
    factor is the minimum of a parabola through the least negative log posterior and its neighbours. One factor for all
    frames of a subject, as of one camera; 1 for models without `shape_init`. Accuracy: docs/refinement.md.
    """
    if model.shape_fit is None:
        return torch.ones_like(frames.Ks[:, 0, 0, 0])
    costs = []
    for tried in _TRIED:
        seen = LandmarkObservations.of(scale_focal(frames, frames.Ks.new_full(frames.mask.shape[:1], tried)))
        start = InitialFit(*fit_pose(seen.landmarks, seen.Ks, model.landmark_points))
        costs.append(model.shape_fit.fit(seen, start).energy + _PRIOR * math.log(tried) ** 2)
    cost, place = torch.stack(costs, 1), frames.Ks.new_tensor(_TRIED).log()  # [B, 11], [11], evenly spaced
    middle = cost.argmin(1).clamp(1, len(_TRIED) - 2)
    before, here, after = (cost.gather(1, middle[:, None] + step)[:, 0] for step in (-1, 0, 1))
    bend = before + after - 2 * here
    offset = torch.where(bend > 0, 0.5 * (before - after) / bend, torch.sign(before - after)).clamp(-1, 1)
    return (place[middle] + offset * (place[1] - place[0])).exp()


def scale_focal(
    frames: Frames,
    factor: Tensor,  # [B], or [B, M] to each frame its own
) -> Frames:
    """Multiplies the focal lengths of frames by `factor`; principal points stay."""
    Ks = frames.Ks.clone()
    Ks[:, :, :2, :2] *= factor.reshape(len(Ks), -1, 1, 1)
    return replace(frames, Ks=Ks)
