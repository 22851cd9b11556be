"""Detects faces and their 68 iBUG landmarks, averaged from MediaPipe's 478 points, with a confidence for each.

MediaPipe gives no confidence of its points, so its landmarker runs twice on every face: on a crop around it and on the
mirrored crop. The landmarks are the mean of both runs. Their disagreement measures the uncertainty: about 0.5% of the
face's size for a clear view, above 2% behind a hand. A face that either run misses is dropped. See `_confidence` for
the formula.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
from PIL import Image

from fmlfast.common.extras import require
from fmlfast.data.crop import Crop, crop_image, crop_to_source, face_crop, search_windows, shrunk_image
from fmlfast.data.detection import Detection
from fmlfast.data.detector_model import check_published, face_landmarker_file
from fmlfast.data.mediapipe478 import NUM_POINTS, TO_IBUG68
from fmlfast.ibug68 import INNER, JAW, MIRROR

NOT_A_FACE = 0.05  # mean disagreement of the inner points, share of the face's size; false alarms lie far above
_AGREEMENT = 0.02  # disagreement that halves a point's confidence, share of the face's size
_JAW_CONFIDENCE = 0.5  # the outline is the detector's weakest part (6% off where eyes are 2% off)
_LOOK_SCALE = 1.5  # side of the landmarker's crop around a face, relative to its face_crop
_LOOK_PIXELS = (192, 384)  # smallest and largest size of that crop
_SEEN_PIXELS = 256  # smallest size that crops are enlarged to
_MOST_PIXELS = 2048  # largest side of an image that is given a margin: MediaPipe crashes on gigabytes


@dataclass(frozen=True)
class Face:
    """One detected face: landmarks, their confidence, bounding box and head rotation."""

    landmarks: np.ndarray  # [68, 2] float32 pixels of the image, iBUG order, pixel centres at +0.5
    confidence: np.ndarray  # [68] float32 in 0..1
    box: tuple[float, float, float, float]  # x0, y0, x1, y1 pixels: forehead to chin, ear to ear
    detection: Detection  # of this one frame, pixels of the image: dense surface points and blendshape scores
    detector_disagreement: float  # mean disagreement of the inner points, share of the face's size

    @property
    def size(self) -> float:
        """The longer side of the box, pixels."""
        return max(self.box[2] - self.box[0], self.box[3] - self.box[1])

    @property
    def rotation(self) -> np.ndarray:
        """Rotation [3, 3] of the face to the camera (OpenCV axes); diag(1, -1, -1) for a frontal face."""
        return self.detection.rotation[0]

    def turned_over(self, width: int, height: int) -> "Face":
        """Turns the picture, of this size in px, by 180 degrees."""
        x0, y0, x1, y1 = self.box
        landmarks = np.array([width, height], np.float32) - self.landmarks
        box, detection = (width - x1, height - y1, width - x0, height - y0), self.detection.turned_over(width, height)
        return replace(self, landmarks=landmarks, box=box, detection=detection)


class _Look(NamedTuple):
    points: np.ndarray  # [478, 3] pixels of the landmarker's input; z grows away from the camera
    rotation: np.ndarray  # [3, 3]
    scores: np.ndarray  # [52]


@dataclass(frozen=True)
class Glimpse:
    """A face that `FaceDetector.follow` found again."""

    landmarks: np.ndarray  # [68, 2] px of the image, of the detector alone: where to look next
    detection: Callable[[], Detection]  # runs the landmark network; of one frame, px of the image


class FaceDetector:
    """Detects faces in single images with MediaPipe's face landmarker.

    Use as a context manager or call close(). Raises ValueError when the model file is missing or damaged, ImportError
    without the `video` extra.
    """

    def __init__(self, model: str | Path | None = None) -> None:
        self._mediapipe = require("mediapipe", "video")
        vision = require("mediapipe.tasks.python.vision", "video")
        base = require("mediapipe.tasks.python.core.base_options", "video")
        file = face_landmarker_file(model)
        check_published(file)
        options = vision.FaceLandmarkerOptions(
            base_options=base.BaseOptions(model_asset_path=str(file)),
            num_faces=16,
            output_facial_transformation_matrixes=True,
            output_face_blendshapes=True,
        )
        from fmlfast.data.landmark_network import LandmarkNetwork  # here: torch is slow to import

        self._network = LandmarkNetwork.load()
        with _quiet():
            self._landmarker = vision.FaceLandmarker.create_from_options(options)
            self._look(np.zeros((128, 128, 3), np.uint8))  # the first call prints, too

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Frees the model."""
        with _quiet():
            self._landmarker.close()

    def detect(self, image: np.ndarray, min_face: float = 0) -> list[Face]:
        """Detects all faces of an image, largest first.

        image: [H, W, 3] uint8 sRGB. min_face: faces smaller than this many pixels may be missed; the image is searched
        in overlapping tiles as far as that needs, at most down to a quarter of its size. Where no face is found, large
        ones that are upside down are looked for. Raises ValueError for another kind of array.
        """
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise ValueError(f"image must be uint8 [H, W, 3], got {image.dtype} {list(image.shape)}")
        found = self._find(image, min_face)
        if found:
            return found
        turned = np.ascontiguousarray(image[::-1, ::-1])
        return [face.turned_over(image.shape[1], image.shape[0]) for face in self._find(turned, np.inf)]

    def _find(self, image: np.ndarray, min_face: float) -> list[Face]:
        """Detects faces that are not upside down, largest first."""
        candidates: list[np.ndarray] = []
        for crop in search_windows(image.shape[1], image.shape[0], min_face, _LOOK_PIXELS[0]):
            candidates += _new([self._reduced(look, crop) for look in self._look(_cut(image, crop))], candidates)
        if not candidates:  # a face that fills the image is found once it has a margin
            small = shrunk_image(image, _MOST_PIXELS)
            margin, scale = max(small.shape[:2]) // 2, np.divide(image.shape[1::-1], small.shape[1::-1])
            padded = np.pad(small, ((margin, margin), (margin, margin), (0, 0)))
            shift = Crop(-margin, -margin, 0)
            candidates = _new([self._reduced(look, shift) * scale for look in self._look(padded)], [])
        faces = [face for points in candidates if (face := self._examine(image, points)) is not None]
        found: list[Face] = []
        for face in sorted(faces, key=lambda face: face.detector_disagreement):  # of duplicates, the most certain
            if _new([face.landmarks], [other.landmarks for other in found]):
                found.append(face)
        return sorted(found, key=lambda face: -face.size)

    def _look(self, image: np.ndarray) -> list[_Look]:
        height, width = image.shape[:2]
        picture = self._mediapipe.Image(self._mediapipe.ImageFormat.SRGB, np.ascontiguousarray(image))
        result: Any = self._landmarker.detect(picture)
        looks = []
        found = result.face_landmarks, result.facial_transformation_matrixes, result.face_blendshapes
        for landmarks, matrix, blendshapes in zip(*found, strict=True):
            points = np.array([(p.x * width, p.y * height, p.z * width) for p in landmarks])
            rotation = np.diag([1, -1, -1]) @ np.asarray(matrix)[:3, :3]  # from OpenGL's axes to OpenCV's
            scores = np.array([shape.score for shape in blendshapes])
            looks.append(_Look(points, rotation / np.linalg.norm(rotation, axis=0), scores))
        return looks

    def follow(self, image: np.ndarray, landmarks: np.ndarray) -> "Glimpse | None":
        """Finds the face again that was at `landmarks` [68, 2] px a moment ago; None where it is gone.

        image: [H, W, 3] uint8 sRGB. One look; the landmark network runs when `Glimpse.detection` is called, which the
        next frame need not wait for.
        """
        crop, size = _surroundings(landmarks)
        if (
            crop.x0 >= image.shape[1]
            or crop.y0 >= image.shape[0]
            or crop.x0 + crop.side <= 0
            or crop.y0 + crop.side <= 0
        ):
            return None
        picture = crop_image(image, crop, size)
        looks = self._look(picture)
        if not looks:
            return None
        look = min(looks, key=lambda look: np.abs(look.points[:, :2].mean(axis=0) - size / 2).max())
        transform = crop_to_source(crop, size)
        found = (TO_IBUG68 @ look.points)[:, :2] * transform[0, 0] + transform[:, 2]
        return Glimpse(
            found, lambda: self._detection(picture, look, 1.0).moved(float(transform[0, 0]), transform[:, 2])
        )

    def observe(self, image: np.ndarray) -> Detection:
        """Detects the face nearest to the middle of a crop, as a detection of one frame; the face may be missing.

        image: [S, S, 3] uint8 sRGB, such as a frame of a prepared clip. One look, a third of the time of `detect`.
        """
        size = image.shape[0]
        side = max(size, _SEEN_PIXELS)
        seen = image
        if side != size:
            seen = np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC))
        looks = self._look(seen)
        if not looks:
            return Detection.none(1)
        nearest = min(looks, key=lambda look: np.abs(look.points[:, :2].mean(axis=0) - side / 2).max())
        return self._detection(image, nearest, size / side)

    def _detection(self, image: np.ndarray, look: _Look, scale: float) -> Detection:
        """Corrects the points of a look, multiplied by `scale`, on an image."""
        import torch

        points = (look.points[None, :, :2] * scale).astype(np.float32)
        pixels = torch.from_numpy(image.astype(np.float32) / 255).permute(2, 0, 1)[None]
        found = self._network.correct(pixels, torch.from_numpy(points))
        surface, spread, features = (array.numpy() for array in found)
        one = np.ones(1, np.bool_)
        scores, rotation = look.scores[None].astype(np.float32), look.rotation[None].astype(np.float32)
        return Detection(one, points, surface, spread, scores, rotation, features)

    def _reduced(self, look: _Look, crop: Crop) -> np.ndarray:
        """Averages 478 points to 68 and shifts them from an unscaled crop to the image: [68, 2] px."""
        return (TO_IBUG68 @ look.points)[:, :2] + (crop.x0, crop.y0)

    def _examine(self, image: np.ndarray, candidate: np.ndarray) -> Face | None:
        """Runs the landmarker on a candidate's crop and on its mirror image; None when no face is confirmed."""
        crop, size = _surroundings(candidate)
        transform = crop_to_source(crop, size)
        picture = crop_image(image, crop, size)
        looks = []
        for mirrored in (False, True):
            view = []
            for look in self._look(picture[:, ::-1] if mirrored else picture):
                points = TO_IBUG68 @ look.points
                if mirrored:
                    points = points[list(MIRROR)] * (-1, 1, 1) + (size, 0, 0)
                view.append((np.abs(points[:, :2].mean(axis=0) - size / 2).max(), points, look))
            if not view:
                return None
            looks.append(min(view, key=lambda item: item[0]))  # the crop may show a neighbour, too
        (_, first, look), (_, second, _) = looks
        extent = np.ptp(first[:, :2], axis=0).max()
        disagreement = np.linalg.norm(first[:, :2] - second[:, :2], axis=1) / extent
        overall = float(disagreement[INNER].mean())
        if overall > NOT_A_FACE:
            return None
        points = (first + second) / 2
        detection = self._detection(picture, look, 1.0).moved(float(transform[0, 0]), transform[:, 2])
        (x0, y0), (x1, y1) = detection.points[0].min(axis=0), detection.points[0].max(axis=0)
        return Face(
            landmarks=detection.surface[0, NUM_POINTS:],
            confidence=_confidence(points, disagreement, look.rotation),
            box=(float(x0), float(y0), float(x1), float(y1)),
            detection=detection,
            detector_disagreement=overall,
        )


def detect_faces(image: np.ndarray, model: str | Path | None = None) -> list[Face]:
    """Detects all faces in a still image, largest first, down to about 1/16 of the image's size.

    image: [H, W, 3] uint8 sRGB. model: the model file, when it is neither in FMLFAST_FACE_LANDMARKER nor to be
    downloaded. Raises ValueError for another kind of array or a missing model file, ImportError without the `video`
    extra.
    """
    with FaceDetector(model) as detector:
        return detector.detect(image)


def _confidence(points: np.ndarray, disagreement: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    """Computes the landmarks' confidence, [68] float32: agreement x visibility x (1/2 on the jaw line).

    points: [68, 3] pixels. disagreement d: [68] share of the face's size. agreement = 1 / (1 + (d / 0.02)^2).
    visibility falls from 1 to 0.1 as the point turns away from the camera, the head taken as a ball behind the face.
    """
    agreement = 1 / (1 + (disagreement / _AGREEMENT) ** 2)
    extent = np.ptp(points[:, :2], axis=0).max()
    centre = points.mean(axis=0) - 0.45 * extent * rotation[:, 2]  # column 2: out of the face, in camera axes
    outward = points - centre
    facing = -outward[:, 2] / np.linalg.norm(outward, axis=1)
    confidence = agreement * np.clip(2 * facing + 0.5, 0.1, 1)
    confidence[JAW] *= _JAW_CONFIDENCE
    return confidence.astype(np.float32)


def _surroundings(landmarks: np.ndarray) -> tuple[Crop, int]:
    """Returns the landmarker's crop around a face [68, 2] px, and the side to resample it to, px."""
    around = face_crop(landmarks)
    side = _LOOK_SCALE * around.side
    margin = (side - around.side) / 2
    return Crop(around.x0 - margin, around.y0 - margin, side), int(np.clip(side, *_LOOK_PIXELS))


def _cut(image: np.ndarray, crop: Crop) -> np.ndarray:
    x0, y0, side = (int(value) for value in crop)
    return image[y0 : y0 + side, x0 : x0 + side]


def _new(points: list[np.ndarray], known: list[np.ndarray]) -> list[np.ndarray]:
    """Removes duplicate detections (non-maximum suppression): faces [68, 2] close to a known or an earlier one."""
    kept: list[np.ndarray] = []
    for candidate in points:
        near = 0.25 * np.ptp(candidate, axis=0).max()
        distances = [np.linalg.norm(candidate - other, axis=1).mean() for other in (*known, *kept)]
        if min(distances, default=np.inf) > near > 0:
            kept.append(candidate)
    return kept


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences file descriptor 2 (stderr): MediaPipe's C++ log messages cannot be switched off."""
    saved, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)
