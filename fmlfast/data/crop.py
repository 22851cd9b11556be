"""Crops squares around faces, by one rule for synthetic clips, prepared videos and photos.

All coordinates are in pixels with pixel centres at +0.5, so crop and source differ by a shift and a scale only.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image

LANDMARK_SPAN = 0.62  # share of the crop that the landmarks' bounding box spans
ASSUMED_FOCAL = 1.2  # times the longer side of the image: about 45 degrees across, a phone or a webcam


class Crop(NamedTuple):
    """A square of the source image: upper left corner and side, pixels."""

    x0: float
    y0: float
    side: float


def face_crop(landmarks: np.ndarray) -> Crop:
    """Computes the square crop centred on the mean landmark, the landmarks' box spanning 62% of its side.

    landmarks: [68, 2] pixels of the source image. The crop may reach beyond the image. Raises ValueError when the
    landmarks are not [68, 2] finite numbers or all coincide.
    """
    if landmarks.shape != (68, 2) or not np.isfinite(landmarks).all():
        raise ValueError(f"landmarks must be 68 finite points [68, 2], got {list(landmarks.shape)}")
    points = landmarks.astype(np.float64)
    side = float(np.ptp(points, axis=0).max()) / LANDMARK_SPAN
    if side <= 0:
        raise ValueError("all landmarks coincide: no crop around them")
    x, y = points.mean(axis=0)
    return Crop(float(x) - side / 2, float(y) - side / 2, side)


def crop_image(image: np.ndarray, crop: Crop, size: int) -> np.ndarray:
    """Resamples a crop to [size, size, 3] uint8, bicubic and antialiased, with mirror padding at the source's border.

    image: [H, W, 3] uint8. Raises ValueError when the crop does not touch the image.
    """
    height, width = image.shape[:2]
    x1, y1 = crop.x0 + crop.side, crop.y0 + crop.side
    if crop.x0 >= width or crop.y0 >= height or x1 <= 0 or y1 <= 0:
        raise ValueError(f"the crop {tuple(round(v, 1) for v in crop)} lies outside the {width} x {height} image")
    # A margin of the resampling filter's support, so that only pixels near the crop are copied and padded.
    margin = math.ceil(2 * crop.side / size) + 2
    left, top = math.floor(crop.x0) - margin, math.floor(crop.y0) - margin
    right, bottom = math.ceil(x1) + margin, math.ceil(y1) + margin
    if left >= 0 and top >= 0 and right <= width and bottom <= height:
        padded = image[top:bottom, left:right]
    else:
        rows, columns = _mirrored(np.arange(top, bottom), height), _mirrored(np.arange(left, right), width)
        padded = image.take(rows, 0).take(columns, 1)  # a fifth of the time of image[rows[:, None], columns]
    patch = Image.fromarray(np.ascontiguousarray(padded))
    box = (crop.x0 - left, crop.y0 - top, x1 - left, y1 - top)
    return np.asarray(patch.resize((size, size), Image.Resampling.BICUBIC, box=box))


def search_windows(width: int, height: int, min_face: float, smallest: int) -> Iterator[Crop]:
    """Yields the whole image, then overlapping square tiles of 1/2 and 1/4 of its longer side, for smaller faces.

    The detector sees 128 x 128 pixels, whatever the image, and misses faces below about a quarter of that. There are no
    tiles that faces of `min_face` pixels do not need, nor any of fewer than `smallest` pixels.
    """
    longer = max(width, height)
    yield Crop(0, 0, longer)
    for side in (longer // 2, longer // 4):
        if 4 * min_face > 2 * side or side < smallest:
            return
        for y0 in _starts(height, side):
            for x0 in _starts(width, side):
                yield Crop(x0, y0, side)


def _starts(length: int, side: int) -> list[int]:
    """Returns the starts of tiles of `side` pixels, so that neighbours overlap by half at least."""
    count = 1 if length <= side else 1 + -(-2 * (length - side) // side)
    return np.linspace(0, max(0, length - side), count).astype(int).tolist()


def _mirrored(index: np.ndarray, length: int) -> np.ndarray:
    """Maps indices beyond 0..length-1 back inside by mirror padding, so that skin continues as skin."""
    index = index % (2 * length)
    return np.minimum(index, 2 * length - 1 - index)


def crop_to_source(crop: Crop, size: int) -> np.ndarray:
    """Returns the affine map [2, 3] float32 from pixels of the crop, resampled to `size`, to source pixels."""
    scale = crop.side / size
    return np.array([[scale, 0, crop.x0], [0, scale, crop.y0]], np.float32)


def points_to_crop(points: np.ndarray, crop: Crop, size: int) -> np.ndarray:
    """Maps points [..., 2] in source pixels to float32 pixels of the crop resampled to `size`."""
    return ((points - (crop.x0, crop.y0)) * (size / crop.side)).astype(np.float32)


def K_to_crop(K: np.ndarray, crop: Crop, size: int) -> np.ndarray:
    """Converts intrinsics [3, 3] of the source image to float32 [3, 3] of the crop resampled to `size`."""
    scale = size / crop.side
    to_crop = np.array([[scale, 0, -crop.x0 * scale], [0, scale, -crop.y0 * scale], [0, 0, 1]])
    return (to_crop @ K).astype(np.float32)


def assumed_K(width: int, height: int) -> np.ndarray:
    """Guesses the intrinsics [3, 3] of an unknown camera: focal length 1.2 x the longer side, px, centred."""
    focal = ASSUMED_FOCAL * max(width, height)
    return np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])


def shrunk_image(image: np.ndarray, most: int) -> np.ndarray:
    """Reduces an image [H, W, 3] uint8 to at most `most` pixels a side; a smaller one is returned as it is."""
    height, width = image.shape[:2]
    share = most / max(height, width)
    if share >= 1:
        return image
    size = max(1, round(width * share)), max(1, round(height * share))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX))
