"""Tells which tracks show one person, and reconstructs each person from its best frames."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fmlfast.data.detection import Detection
from fmlfast.data.face_detector import Face
from fmlfast.data.frames import Frames
from fmlfast.data.mediapipe478 import NUM_POINTS
from fmlfast.data.shards import Clip
from fmlfast.data.video.decode import Video
from fmlfast.data.video.tracking import pick_diverse
from fmlfast.model.fml import FML
from fmlfast.reconstruction.inputs import MIN_SHARPNESS, Photo
from fmlfast.reconstruction.track.observe import Segment, Sight, read_sights

FRAMES = 8  # that a person is reconstructed from, at most
LOOKS = 4  # frames that two tracks are compared by
SHORTEST = 0.5  # seconds of a track; shorter ones are false alarms or passers-by
SOFT, VAGUE = 0.4, 1.6  # times the median sharpness and uncertainty: limits of good frames
SMALL = 0.5  # of the largest face: limit of good frames
ONE_PERSON = 1.9  # mm between neutral faces: halves of one clip differ by 1.15, people by 2.96 (docs/landmarks.md)


@dataclass(frozen=True)
class Tracks:
    """All tracks of an observed video."""

    folder: Path
    segments: Sequence[Segment]

    def sights(self, track: int) -> list[tuple[Segment, int, Sight]]:
        """Lists the sights of a track: segment, place in its clip, sight."""
        return [(s, i, sight) for s in self.segments for i, sight in enumerate(s.tracks.get(track, ()))]

    def numbers(self) -> list[int]:
        """Numbers of the tracks that are long enough and have a good frame, the longest first."""
        lengths: dict[int, list[float]] = {}
        for segment in self.segments:
            for track, sights in segment.tracks.items():
                lengths.setdefault(track, []).extend([sights[0].time, sights[-1].time])
        long = [track for track, times in lengths.items() if max(times) - min(times) >= SHORTEST]
        return sorted(long, key=lambda track: (-sum(len(s.tracks.get(track, ())) for s in self.segments), track))

    def best(self, tracks: Sequence[int], count: int) -> list[tuple[Sight, Clip]]:
        """Selects at most `count` sharp, sure and large sights of different poses, in order of time.

        Each with its clip of this one frame.
        """
        seen = [(track, *item) for track in tracks for item in self.sights(track) if item[2].sharpness >= 0]
        if not seen:
            return []
        sharp, vague, side = (
            np.array([getattr(item[3], name) for item in seen]) for name in ("sharpness", "uncertainty", "side")
        )
        good = (sharp >= max(MIN_SHARPNESS, SOFT * np.median(sharp))) & (vague <= VAGUE * np.median(vague))
        good &= side >= SMALL * side.max()
        if not good.any():
            good[np.argmin(vague)] = True
        kept = [item for item, fine in zip(seen, good, strict=True) if fine]
        rotations = np.array([item[3].rotation for item in kept]).reshape(-1, 3, 3)
        times = np.array([item[3].time for item in kept])
        chosen = pick_diverse(rotations, times, vague[good], count)
        found = []
        for track, segment, place, sight in (kept[index] for index in chosen):
            found.append((sight, read_sights(self.folder, segment, track).part(place, place + 1)))
        return found


def group_tracks(tracks: Tracks, model: FML) -> list[list[int]]:
    """Groups tracks that show one person: their neutral faces are alike, and they are never followed at one time.

    The person seen most comes first.
    """
    numbers = tracks.numbers()
    faces, spans = {}, {}
    region = model.template.regions["face"].cpu() > 0.5
    for track in numbers:
        clips = [clip for _, clip in tracks.best([track], LOOKS)]
        if not clips:
            continue
        frames = Frames.from_clips([join_clips(clips)], model.config.image_size).to(model.code_mean.device)
        faces[track] = model.neutral(model.encode(frames))[0].cpu()[region]
        sights = tracks.sights(track)
        spans[track] = sights[0][2].frame, sights[-1][2].frame
    groups: list[list[int]] = []
    for track, face in faces.items():
        near = []
        for group in groups:
            apart = all(spans[track][0] > spans[other][1] or spans[track][1] < spans[other][0] for other in group)
            distance = float(np.mean([(face - faces[other]).norm(dim=1).mean() for other in group]))
            near.append(distance if apart else np.inf)
        if near and min(near) < ONE_PERSON:
            groups[int(np.argmin(near))].append(track)
        else:
            groups.append([track])
    return groups


def person_photos(tracks: Tracks, group: Sequence[int], video: Video, count: int) -> list[Photo]:
    """Reads at most `count` of a person's best frames from the video, with the faces that were observed there."""
    chosen = tracks.best(group, count)
    frames = video.frames_at([sight.time for sight, _ in chosen])
    return [
        Photo(f"{video.path.stem}-{sight.frame:06d}", frame.image(), _face(sight, clip), sight.time)
        for (sight, clip), frame in zip(chosen, frames, strict=True)
    ]


def join_clips(clips: Sequence[Clip]) -> Clip:
    """Joins clips of one subject to one, in their order."""
    arrays = ("images", "landmarks", "confidence", "Ks", "crop_to_source", "times")
    joined: dict[str, Any] = {name: np.concatenate([getattr(clip, name) for clip in clips]) for name in arrays}
    detection = Detection.stack([clip.detection for clip in clips if clip.detection is not None])
    return replace(clips[0], **joined, detection=detection)


def _face(sight: Sight, clip: Clip) -> Face:
    assert clip.detection is not None
    scale, offset = float(clip.crop_to_source[0, 0, 0]), clip.crop_to_source[0, :, 2]
    detection = clip.detection.moved(scale, offset)
    (x0, y0), (x1, y1) = detection.points[0].min(0), detection.points[0].max(0)
    return Face(
        landmarks=detection.surface[0, NUM_POINTS:],
        confidence=detection.confidence[0],
        box=(float(x0), float(y0), float(x1), float(y1)),
        detection=detection,
        detector_disagreement=sight.uncertainty,
    )
