"""Finds photos that are copies of another one: they are no evidence of their own, whatever their number."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from fmlfast.data.crop import crop_image, face_crop
from fmlfast.reconstruction.inputs import Photo
from fmlfast.reconstruction.result import Reconstruction

_SIDE = 32  # px that faces are compared at, where JPEG's errors are averaged
_ALIKE = 8  # of 255, largest difference between copies; a blink changes five times as much


def originals(photos: Sequence[Photo]) -> list[int]:
    """Finds for each photo the one whose copy it is: equal in size and, up to compression, in the face's pixels.

    That is the photo itself where it is no copy, and of copies the first one that tells a focal length, if any.
    """
    thumbnails = [crop_image(photo.image, face_crop(photo.face.landmarks), _SIDE).astype(np.int16) for photo in photos]
    places, kept = [0] * len(photos), list[int]()
    for index in sorted(range(len(photos)), key=lambda index: photos[index].focal is None):
        size, own = photos[index].image.shape, thumbnails[index]
        same = (k for k in kept if photos[k].image.shape == size and np.abs(thumbnails[k] - own).max() <= _ALIKE)
        places[index] = next(same, index)
        if places[index] == index:
            kept.append(index)
    return places


def with_copies(result: Reconstruction, photos: Sequence[Photo], places: Sequence[int]) -> Reconstruction:
    """Gives each photo what was found for number `places` of the result's: pose, expression, light and camera."""
    rows, names = list(places), ("rotation", "translation", "sh", "expression")
    frames = {name: getattr(result.codes, name)[:, rows] for name in names}
    return replace(
        result,
        names=tuple(photo.name for photo in photos),
        photos=tuple(photo.image for photo in photos),
        landmarks=result.landmarks[rows],
        times=tuple(photo.time for photo in photos),
        landmark_errors=result.landmark_errors[rows],
        network_landmark_errors=result.network_landmark_errors[rows],
        Ks=result.Ks[rows],
        focal_sources=tuple(result.focal_sources[place] for place in places),
        codes=replace(result.codes, **frames),
    )
