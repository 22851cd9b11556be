"""The pictures that a face is reconstructed from: photos, arrays, and good frames of videos."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fmlfast.data.landmarks import Face
from fmlfast.data.prepare_video import Detector
from fmlfast.data.tracking import flaw
from fmlfast.data.video import VIDEO_SUFFIXES, Video
from fmlfast.images import check_image, read_focal, read_image

Picture = str | Path | np.ndarray
MIN_FACE = 80  # px; the network sees 64 to 240
MIN_SHARPNESS, MAX_DOUBT = 0.05, 0.015  # as `fmlfast prepare` has them
LOOKS = 3  # frames looked at for each one taken


@dataclass(frozen=True)
class Photo:
    """A picture and the face to reconstruct in it."""

    name: str
    """Unique; from the file name."""
    image: np.ndarray
    """uint8 [H, W, 3] sRGB."""
    face: Face
    time: float | None = None
    """Seconds from the start of the video it is a frame of; None for photos."""
    focal: float | None = None
    """Focal length that its file tells, pixels."""


def is_video(path: str | Path) -> bool:
    """Whether a file is taken for a video, by its suffix; of an animated GIF the first picture is a photo."""
    return Path(path).suffix.lower() in VIDEO_SUFFIXES - {".gif"}


def read_photos(images: Sequence[Picture], detector: Detector, face: int | None, frames: int) -> list[Photo]:
    """The photos, and at most `frames` of each video, with the face to take in each; names are made unique.

    Raises ValueError where there is nothing to take, or several faces and `face` chooses none.
    """
    labels = [str(image) if isinstance(image, str | Path) else f"image {n}" for n, image in enumerate(images)]
    pictures = [_read(image, label) for image, label in zip(images, labels, strict=True)]  # before the slow detection
    found: list[Photo] = []
    for number, (image, label, picture) in enumerate(zip(images, labels, pictures, strict=True)):
        if picture is None:
            found += read_video(Path(label), detector, face, frames)
        else:
            array = isinstance(image, np.ndarray)
            name, focal = (f"image-{number}", None) if array else (Path(image).stem, read_focal(image))
            chosen = choose_face(detector.detect(picture), label, face, len(images) == 1)
            found.append(Photo(name, picture, chosen, focal=focal))
    return list(_numbered(found))


def _read(image: Picture, label: str) -> np.ndarray | None:
    """A picture, checked; None for a video."""
    if isinstance(image, np.ndarray):
        return check_image(image, label)
    if not isinstance(image, str | Path):
        raise ValueError(f"{label} must be a path or a uint8 array [H, W, 3], not {type(image).__name__}")
    if not is_video(image):
        return read_image(image)
    if not Path(image).is_file():
        raise FileNotFoundError(f"{image}: no such video")
    return None


def read_video(path: Path, detector: Detector, face: int | None, frames: int) -> list[Photo]:
    """At most `frames` good frames of a video, evenly spread: of each of so many equal stretches the surest one.

    Three frames of a stretch are looked at. Those without a face, with several, or with a small, cut off, doubtful or
    blurred one are passed over. `face` chooses among several, counted from the left; frames that show just one are
    then used only where the whole video never shows more. Raises ValueError for what is no video and where no frame
    is good enough.
    """
    if frames < 1:
        raise ValueError(f"frames must be at least 1, got {frames}")
    best: dict[tuple[bool, int], Photo] = {}  # by whether it was chosen among several, and stretch
    passed: Counter[str] = Counter()
    try:
        count = sum(1 for _ in Video(path).frames())
        looks = {int((i + 0.5) * count / (LOOKS * frames)): i // LOOKS for i in range(LOOKS * frames)}
        for number, frame in enumerate(Video(path).frames()):
            if number not in looks:
                continue
            image = frame.image()
            faces = sorted(detector.detect(image), key=lambda item: item.box[0])
            if not faces:
                passed["without a face"] += 1
                continue
            if len(faces) > 1 and (face is None or not 0 <= face < len(faces)):
                passed[f"with {len(faces)} faces, choose one with --face N"] += 1
                continue
            found = faces[face or 0] if len(faces) > 1 else faces[0]
            reason = flaw(image, found, MIN_FACE, MAX_DOUBT, MIN_SHARPNESS)[0]
            key = len(faces) > 1, looks[number]
            if reason:
                passed[f"with a face that is {reason}"] += 1
            elif key not in best or found.doubt < best[key].face.doubt:
                best[key] = Photo(path.stem, image, found, frame.time)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if not best:
        reasons = ", ".join(f"{number} {reason}" for reason, number in passed.most_common())
        raise ValueError(f"{path}: no good frame of {sum(passed.values())} looked at: {reasons or 'it is empty'}")
    chosen = max(several for several, _ in best)
    kept = [photo for (several, _), photo in sorted(best.items(), key=lambda item: item[0]) if several == chosen]
    return [replace(photo, name=f"{path.stem}-{number:02d}") for number, photo in enumerate(kept)]


def choose_face(faces: Sequence[Face], label: str, face: int | None, alone: bool) -> Face:
    """The face to take; among several photos `face` is meant for those that show several people."""
    if not faces:
        raise ValueError(f"{label}: no face found; give a photo with a larger, sharper or less turned face")
    faces = sorted(faces, key=lambda item: item.box[0])
    if len(faces) == 1 and (face is None or not alone):
        return faces[0]
    if face is not None and 0 <= face < len(faces):
        return faces[face]
    problem = f"{len(faces)} faces" if face is None else f"no face {face}"
    boxes = [
        "{} at x {:.0f}-{:.0f}, y {:.0f}-{:.0f}".format(i, *np.array(f.box)[[0, 2, 1, 3]]) for i, f in enumerate(faces)
    ]
    raise ValueError(f"{label}: {problem}; choose with --face N from left to right: {'; '.join(boxes)}")


def _numbered(photos: Sequence[Photo]) -> Iterator[Photo]:
    """With numbers behind names that would collide."""
    names: set[str] = set()
    for photo in photos:
        name, copy = photo.name, 1
        while name in names:
            copy += 1
            name = f"{photo.name}-{copy}"
        names.add(name)
        yield replace(photo, name=name)
