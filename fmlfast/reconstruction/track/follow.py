"""Follows the faces of a video from frame to frame, by one look around each where it was a moment ago."""

from dataclasses import dataclass

import numpy as np

from fmlfast.data.face_detector import FaceDetector, Glimpse

SEARCH, RETRY = 1.0, 0.2  # seconds between searches of the whole picture; while a face is missing
PATIENCE = 0.6  # seconds without a sight after which a track ends
JUMP, GROWTH = 0.5, 1.5  # of the face's size from one frame to the next: another face, or a false one
SAME = 0.25  # mean landmark distance below which two tracks follow one face, share of its size
MIN_FACE = 40.0  # px; smaller faces show no expression
MAX_DOUBT = 0.03  # of the detector, share of the face's size; new faces above it are not followed


@dataclass
class Followed:
    """A face that is being followed."""

    number: int  # of the track, in order of appearance
    landmarks: np.ndarray  # [68, 2] px, where it was last
    time: float  # seconds, when that was

    @property
    def size(self) -> float:
        """The longer side of the landmarks' box, px."""
        return float(np.ptp(self.landmarks, axis=0).max())


class FaceFollower:
    """Follows all faces through successive frames of a video."""

    def __init__(
        self,
        detector: FaceDetector,
        tracks: list[Followed] | None = None,
        count: int = 0,
        searched: float = -np.inf,
    ) -> None:
        """Begins with `tracks` of a video that was interrupted.

        count: tracks that were begun before. searched: time of the last search of the whole picture, seconds.
        """
        self.tracks = tracks or []
        self.count = count
        self.searched = searched
        self._detector = detector

    def step(self, time: float, image: np.ndarray, cut: bool) -> list[tuple[int, Glimpse]]:
        """Finds the faces of the next frame [H, W, 3] uint8; `cut` begins a new scene, which ends all tracks.

        Returns the number of the track and the glimpse of each face.
        """
        if cut:
            self.tracks, self.searched = [], -np.inf
        seen: dict[int, Glimpse] = {}
        for track, glimpse in self._glimpses(image):  # of two that find one face, the first keeps it
            if all(_distance(glimpse.landmarks, other.landmarks) > SAME for other in seen.values()):
                seen[track.number] = glimpse
        missing = not self.tracks or len(seen) < len(self.tracks)
        if time - self.searched >= (RETRY if missing else SEARCH):
            self.searched = time
            self._search(image, seen)
        for track in self.tracks:
            if track.number in seen:
                track.landmarks, track.time = seen[track.number].landmarks, time
        known = {track.number for track in self.tracks}
        self.tracks += [Followed(n, seen[n].landmarks, time) for n in seen if n not in known]
        self.tracks = [track for track in self.tracks if time - track.time <= PATIENCE]
        return list(seen.items())

    def _glimpses(self, image: np.ndarray) -> list[tuple[Followed, Glimpse]]:
        """Looks where each face was; a hidden one comes after those in sight, and these by how little they moved."""
        found = [(track, self._detector.follow(image, track.landmarks)) for track in self.tracks]
        good = [(track, look) for track, look in found if look is not None and _plausible(track, look.landmarks)]
        return sorted(good, key=lambda item: (-item[0].time, _distance(item[1].landmarks, item[0].landmarks)))

    def _search(self, image: np.ndarray, seen: dict[int, Glimpse]) -> None:
        """Adds faces of the whole picture that no track has found to `seen`, lost ones under their number."""
        for face in self._detector.detect(image):
            marks = face.landmarks.astype(np.float64)
            if any(_distance(marks, other.landmarks) < JUMP for other in seen.values()):
                continue
            lost = [track for track in self.tracks if track.number not in seen and _plausible(track, marks)]
            if lost:
                number = min(lost, key=lambda track: _distance(marks, track.landmarks)).number
            elif face.size < MIN_FACE or face.detector_disagreement > MAX_DOUBT:
                continue
            else:
                number, self.count = self.count, self.count + 1
            seen[number] = Glimpse(marks, lambda found=face.detection: found)


def _plausible(track: Followed, landmarks: np.ndarray) -> bool:
    size = float(np.ptp(landmarks, axis=0).max())
    moved = float(np.linalg.norm(landmarks.mean(0) - track.landmarks.mean(0)))
    return moved < JUMP * max(size, track.size) and 1 / GROWTH < size / max(track.size, 1e-6) < GROWTH


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    """Returns the mean distance between landmarks, as a share of the larger face's size."""
    size = max(np.ptp(a, axis=0).max(), np.ptp(b, axis=0).max(), 1e-6)
    return float(np.linalg.norm(a - b, axis=1).mean() / size)
