"""Tracks faces through a video, rejects bad frames and selects frames of different poses."""

from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from fmlfast.data.crop import crop_image, face_crop
from fmlfast.data.face_detector import Face
from fmlfast.ibug68 import INNER

_SHARPNESS_SIZE = 128  # pixels; sharpness is measured at this size, so that large and small faces compare
_NEAR = 0.5  # largest mean landmark distance between frames of one track, share of the face's size
_PATIENCE = 0.6  # seconds without a detection after which a track ends
_TIME_WEIGHT = 0.02  # radians a second, at most 5 s: among equal poses, frames far apart differ in expression at least


@dataclass
class FaceTrack:
    """One face tracked through one scene."""

    number: int  # in order of appearance in the video
    scene: int
    face: Face  # the last detection
    time: float  # of the last detection, seconds
    weight: float = field(default=0.0)  # sum of the face's sizes: the main person of a scene has the largest


class Tracker:
    """Tracks faces through successive frames by greedy matching of landmark distances."""

    def __init__(self) -> None:
        self.active: list[FaceTrack] = []
        self._count = 0
        self._scene = 0

    def update(self, time: float, faces: list[Face]) -> list[FaceTrack]:
        """Assigns each face to a track, in the order of `faces`; tracks not seen for 0.6 s end first."""
        self.active = [track for track in self.active if time - track.time <= _PATIENCE]
        pairs = sorted(
            (distance, index, track.number)
            for index, face in enumerate(faces)
            for track in self.active
            if (distance := _distance(face, track.face)) < _NEAR
        )
        tracks = {track.number: track for track in self.active}
        assigned: dict[int, FaceTrack] = {}
        for _, index, number in pairs:  # the nearest pair first
            if index not in assigned and number in tracks:
                assigned[index] = tracks.pop(number)
        for index, face in enumerate(faces):
            if index not in assigned:
                assigned[index] = FaceTrack(self._count, self._scene, face, time)
                self.active.append(assigned[index])
                self._count += 1
            track = assigned[index]
            track.face, track.time = face, time
            track.weight += face.size
        return [assigned[index] for index in range(len(faces))]

    def cut(self) -> None:
        """Begins a new scene: ends all tracks."""
        self.active = []
        self._scene += 1


def sharpness(image: np.ndarray, landmarks: np.ndarray) -> float:
    """Computes sharpness: the variance of the Laplacian over the variance of grey values, on the face at 128 px.

    image: [H, W, 3] uint8. landmarks: [68, 2] pixels. Clear faces give 0.1 to 0.6; a Gaussian blur of 1% of the crop's
    side brings them to 0.02. Neither the face's size nor its contrast matters.
    """
    picture = Image.fromarray(crop_image(image, face_crop(landmarks), _SHARPNESS_SIZE)).convert("L")
    border = round(0.15 * _SHARPNESS_SIZE)  # leaves the landmarks' box, away from hair and background
    grey = np.asarray(picture).astype(np.float64)[border:-border, border:-border]
    inside = grey[1:-1, 1:-1]
    laplacian = 4 * inside - grey[:-2, 1:-1] - grey[2:, 1:-1] - grey[1:-1, :-2] - grey[1:-1, 2:]
    return float(laplacian.var() / max(inside.var(), 1.0))


def rejection_reason(
    image: np.ndarray, face: Face, min_face: float, max_doubt: float, min_sharpness: float
) -> tuple[str, float]:
    """Returns the reason to reject a frame ("" to keep it), and its sharpness (0 when not measured).

    image: [H, W, 3] uint8. Reasons: "small", "cut off", "unsure" (detector disagreement above max_doubt), "blurred".
    """
    height, width = image.shape[:2]
    outside = np.any((face.landmarks < 0) | (face.landmarks > (width, height)), axis=1)
    if face.size < min_face:
        return "small", 0.0
    if outside[INNER].any() or outside.sum() > 4:
        return "cut off", 0.0
    if face.detector_disagreement > max_doubt:
        return "unsure", 0.0
    value = sharpness(image, face.landmarks)
    return ("blurred" if value < min_sharpness else ""), value


def pick_diverse(rotations: np.ndarray, times: np.ndarray, disagreements: np.ndarray, count: int) -> list[int]:
    """Selects at most `count` frames of different poses by farthest-point sampling; indices in order of time.

    rotations: [N, 3, 3]. times: [N] seconds. disagreements: [N] of the detector; the frame with the smallest is taken
    first, then, each time, the frame farthest from all taken ones: by the angle between rotations, radians, plus 0.02
    times the difference in time, seconds (at most 5).
    """
    taken = [int(np.argmin(disagreements))]
    nearest = np.full(len(times), np.inf)
    while len(taken) < min(count, len(times)):
        cosine = (np.einsum("nij,ij->n", rotations, rotations[taken[-1]]) - 1) / 2
        elapsed = np.minimum(np.abs(times - times[taken[-1]]), 5.0)
        distance = np.arccos(np.clip(cosine, -1, 1)) + _TIME_WEIGHT * elapsed
        nearest = np.minimum(nearest, distance)
        nearest[taken] = -1
        taken.append(int(np.argmax(nearest)))
    return sorted(taken, key=lambda index: times[index])


def _distance(face: Face, other: Face) -> float:
    """Returns the mean distance between landmarks, as a share of the larger face's size."""
    return float(np.linalg.norm(face.landmarks - other.landmarks, axis=1).mean() / max(face.size, other.size))
