"""Holds one observed video: who is seen where, and its frames and crops."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch

from fmlfast.common.progress import ProgressBar
from fmlfast.data.crop import assumed_K
from fmlfast.data.face_detector import FaceDetector
from fmlfast.data.frames import Frames
from fmlfast.data.video.decode import Frame, Video
from fmlfast.model.fml import FML
from fmlfast.reconstruction.focal_length import scale_focal
from fmlfast.reconstruction.track.estimate import Shot
from fmlfast.reconstruction.track.observe import Segment, observe_video, observed_segments, read_sights
from fmlfast.reconstruction.track.people import LOOKS, Tracks, join_clips
from fmlfast.reconstruction.track.threads import single_threads

DONE = "done"


@dataclass(frozen=True)
class VideoFacts:
    """What a video's file tells."""

    video: Video
    size: tuple[int, int]
    """Width and height, pixels."""
    rate: Fraction
    """Mean number of frames a second."""
    count: int | None
    """Number of frames, or about; None where the file does not tell it."""

    @classmethod
    def of(cls, path: Path) -> "VideoFacts":
        """Reads a video's facts; raises ValueError, naming the file, where it cannot be read."""
        video = Video(path)
        try:
            first: Frame | None = next(iter(video.frames()), None)
            if first is None:
                raise ValueError("has no frame")
            height, width = first.image().shape[:2]
            return cls(video, (width, height), *video.rate_and_count())
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error


@dataclass(frozen=True)
class Source:
    """A video whose faces have been observed."""

    video: Video
    size: tuple[int, int]
    """Width and height, pixels."""
    rate: Fraction
    """Mean number of frames a second."""
    K: np.ndarray
    """[3, 3] intrinsics that the crops have, given or assumed, pixels."""
    tracks: Tracks

    @classmethod
    def observe(
        cls, facts: VideoFacts, folder: Path, K: np.ndarray | None, size: int, seconds: float | None, progress: bool
    ) -> "Source":
        """Observes a video, or what an interrupted run left to observe, into `folder`; size: side of the crops, px."""
        video, count = facts.video, facts.count
        if seconds is not None:
            wanted = round(seconds * float(facts.rate))
            count = wanted if count is None else min(count, wanted)
        K, segments = assumed_K(*facts.size) if K is None else K, observed_segments(folder)
        if not (folder / DONE).is_file():
            start = segments[-1].end if segments else 0
            with (
                ProgressBar(total=count, initial=start, disable=not progress, desc="faces", unit="frame") as bar,
                FaceDetector() as detector,
                single_threads(),
            ):
                segments += observe_video(video, folder, K, size, detector, seconds, bar.update)
            (folder / DONE).touch()
        return cls(video, facts.size, facts.rate, K, Tracks(folder, segments))

    @property
    def segments(self) -> Sequence[Segment]:
        """The video's segments, in order."""
        return self.tracks.segments

    @property
    def times(self) -> list[float]:
        """Times of all frames, seconds."""
        return [time for segment in self.segments for time in segment.times]

    def shots_after(self, track: int, frame: int) -> Iterator[tuple[Shot]]:
        """Reads the shots of a track after a frame, segment by segment."""
        for segment in self.segments:
            sights = segment.tracks.get(track, ())
            first = next((i for i, sight in enumerate(sights) if sight.frame > frame), len(sights))
            if rest := sights[first:]:
                clip = read_sights(self.tracks.folder, segment, track).part(first, len(sights))
                yield (Shot(clip, np.ones(len(rest), bool), [s.frame for s in rest], [s.time for s in rest]),)

    def start_shape(self, model: FML, group: Sequence[int], focal: float) -> torch.Tensor | None:
        """Fits the smooth fields that the encoder's outputs are relative to, to some of a person's best frames."""
        if model.shape_fit is None:
            return None
        clip = join_clips([clip for _, clip in self.tracks.best(group, 2 * LOOKS)])
        frames = Frames.from_clips([clip], model.config.image_size).to(model.code_mean.device)
        start = model.observe(scale_focal(frames, frames.Ks.new_full(frames.mask.shape, focal))).start
        return None if start is None else start.smooth
