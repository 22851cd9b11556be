"""Reads the images that a face is reconstructed from: photos, arrays, and selected frames of videos."""

import io
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageOps

from fmlfast.common.arguments import check_whole
from fmlfast.common.folders import files_in
from fmlfast.common.given_files import check_file
from fmlfast.common.pictures import open_picture
from fmlfast.data.face_detector import Face
from fmlfast.data.video.clips import Detector
from fmlfast.data.video.decode import VIDEO_SUFFIXES, Video
from fmlfast.data.video.tracking import rejection_reason

MIN_SIDE = 64  # pixels; a face in less has too little to fit and the detector no longer finds it
MOST_NAME = 200  # bytes; file systems allow 255, and names of files say more than whose they are
FILM_DIAGONAL = math.hypot(36.0, 24.0)  # mm
PROGRAM = "EPS"  # Pillow's name of PostScript, which it would have Ghostscript run
SIXTEEN_BIT = ("I", "I;16", "I;16L", "I;16B", "I;16N")  # Pillow before 11.3 opens a 16-bit grey PNG as "I"


def read_image(path: str | Path) -> np.ndarray:
    """Reads a photo of any format that Pillow supports, upright, as uint8 [H, W, 3] sRGB.

    EXIF orientation is applied; an embedded colour profile is converted to sRGB; 16-bit grey is scaled to 8 bits;
    grey and palette images become RGB; transparency is composited on white, since the colours stored under it are
    arbitrary. Of an animation the first frame is read.

    Raises FileNotFoundError when there is no such file, and ValueError naming the file when it cannot be decoded in
    full, has a pixel format without a known range, is smaller than 64 pixels on a side, or larger than Pillow allows:
    179 megapixels, or twice PIL.Image.MAX_IMAGE_PIXELS where that was set.
    """
    path = check_file(path)
    try:
        with open_picture(path) as opened:
            if opened.format == PROGRAM:
                raise ValueError("PostScript is a program, which is not run")
            _shorten_transparency(opened)
            opened.load()
            image = ImageOps.exif_transpose(opened)
    except Image.DecompressionBombError as error:
        raise ValueError(f"{path} is too large to read ({error}); save a smaller copy of it") from error
    except Exception as error:  # decoders raise whatever they like on broken bytes
        raise ValueError(
            f"{path}: cannot be read as an image ({error}); is it truncated? save it as JPEG or PNG"
        ) from error
    return check_image(np.array(_to_rgb(image, path)), str(path))


def read_focal(path: str | Path) -> float | None:
    """Computes the focal length of a photo in pixels from EXIF's 35 mm equivalent; None without one.

    Equivalents have the same angle of view over the diagonal of 36 x 24 mm film (CIPA DCG-001); they are wrong for
    cropped photos.
    """
    try:
        with open_picture(path) as opened:
            told = opened.getexif().get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.FocalLengthIn35mmFilm)
            diagonal = math.hypot(*opened.size)
    except Exception:  # decoders raise whatever they like on broken bytes, which tell nothing
        return None
    return told * diagonal / FILM_DIAGONAL if isinstance(told, int) and told > 0 else None  # 0 stands for unknown


def _shorten_transparency(opened: Image.Image) -> None:
    """Cuts the transparent colour of a 16-bit RGB PNG to 8 bits, as Pillow cuts the pixels when it loads them."""
    color = opened.info.get("transparency")
    if isinstance(color, tuple) and any("RGB;16" in str(tile) for tile in getattr(opened, "tile", ())):
        opened.info["transparency"] = tuple(value >> 8 for value in color)


def check_image(image: np.ndarray, name: str) -> np.ndarray:
    """Returns `image`, contiguous, if it is uint8 [H, W, 3] of at least 64 pixels a side, else raises ValueError."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(
            f"{name}: an image array must be uint8 [H, W, 3] in sRGB, got {image.dtype} {list(image.shape)}"
        )
    height, width = image.shape[:2]
    if min(height, width) < MIN_SIDE:
        raise ValueError(
            f"{name}: {width}x{height} pixels is too small; give an image of at least {MIN_SIDE}x{MIN_SIDE}"
        )
    return np.ascontiguousarray(image)


def _to_rgb(image: Image.Image, path: Path) -> Image.Image:
    if image.mode == "F":
        raise ValueError(f"{path}: floating-point pixels have no known range; save it as 8-bit or 16-bit PNG")
    profile = image.info.get("icc_profile")
    if image.mode in SIXTEEN_BIT:
        image = _eight_bits(image, path)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    elif image.mode not in ("L", "RGB", "CMYK"):
        image = image.convert("RGB")
    return _to_srgb(image, profile) if profile else image.convert("RGB")


def _eight_bits(image: Image.Image, path: Path) -> Image.Image:
    """Scales 16-bit grey to 8 bits; a transparent value becomes an alpha channel."""
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError(f"{path}: 32-bit pixels have no known range; save it as 8-bit or 16-bit PNG")
    grey, clear = Image.fromarray(((values + 128) // 257).astype(np.uint8)), image.info.get("transparency")
    if clear is not None:
        grey.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    return grey


def _to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """Converts `image` to sRGB by its embedded profile; phones store Display P3, whose reds are wrong as sRGB."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError):  # a broken or mismatched profile: the plain values are the best guess
        converted = None
    return converted or image.convert("RGB")


Picture = str | Path | np.ndarray
MIN_FACE = 80  # px; the encoder's input has 64 to 240
MIN_SHARPNESS, MAX_DOUBT = 0.05, 0.015  # as `fmlfast prepare` has them
LOOKS = 3  # frames searched for each one selected


@dataclass(frozen=True)
class Photo:
    """A photo or video frame and the face to reconstruct in it."""

    name: str
    """Unique name; from the file name."""
    image: np.ndarray
    """uint8 [H, W, 3] sRGB."""
    face: Face
    time: float | None = None
    """Seconds from the start of its video; None for photos."""
    focal: float | None = None
    """Focal length from EXIF data, pixels; None without it."""


def is_video(path: str | Path) -> bool:
    """Checks by its suffix whether a file is a video; an animated GIF is a photo, its first image."""
    return Path(path).suffix.lower() in VIDEO_SUFFIXES - {".gif"}


def expand_folders(images: Iterable[Picture]) -> list[Picture]:
    """Replaces folders by the photos in them, sorted by name; videos and hidden files there are left out.

    Raises ValueError for a folder without photos.
    """
    expanded: list[Picture] = []
    for image in images:
        if not isinstance(image, str | Path) or not Path(image).is_dir():
            expanded.append(image)
            continue
        found = files_in(Path(image), _photo_suffixes())
        if not found:
            raise ValueError(f"{image}: no photos in this folder; name one with photos of the person, or the files")
        expanded += found
    return expanded


@cache
def _photo_suffixes() -> set[str]:
    """Lists the suffixes of the photos that Pillow reads."""
    known = Image.registered_extensions().items()
    readable = {suffix for suffix, kind in known if kind in Image.OPEN and kind != PROGRAM}
    return readable - (VIDEO_SUFFIXES - {".gif"})


def read_everyone(image: Picture, detector: Detector) -> list[Photo]:
    """Reads one photo as often as it shows a face, one for each from left to right.

    Raises ValueError for a video, and where no face is found; FileNotFoundError for a missing file.
    """
    label = str(image) if isinstance(image, str | Path) else "image 0"
    picture = _read(image, label)
    if picture is None:
        raise ValueError(f"{label}: --face all takes a photo; choose a person of a video with --face N")
    faces = detector.detect(picture)
    name, focal = (_name(Path(image)), read_focal(image)) if isinstance(image, str | Path) else ("image-0", None)
    chosen = [choose_face(faces, label, number, alone=True) for number in range(max(1, len(faces)))]
    return [Photo(name, picture, face, focal=focal) for face in chosen]


def read_photos(images: Sequence[Picture], detector: Detector, face: int | None, frames: int) -> list[Photo]:
    """Reads photos, and at most `frames` frames of each video, and selects the face in each.

    Names are made unique. Raises ValueError where no face is found, or several and `face` selects none;
    FileNotFoundError for a missing file.
    """
    labels = [str(image) if isinstance(image, str | Path) else f"image {n}" for n, image in enumerate(images)]
    pictures = [_read(image, label) for image, label in zip(images, labels, strict=True)]  # before the slow detection
    found: list[Photo] = []
    for number, (image, label, picture) in enumerate(zip(images, labels, pictures, strict=True)):
        if picture is None:
            found += read_video(Path(label), detector, face, frames)
        else:
            array = isinstance(image, np.ndarray)
            name, focal = (f"image-{number}", None) if array else (_name(Path(image)), read_focal(image))
            chosen = choose_face(detector.detect(picture), label, face, len(images) == 1)
            found.append(Photo(name, picture, chosen, focal=focal))
    return list(_numbered(found))


def _read(image: Picture, label: str) -> np.ndarray | None:
    """Reads and checks an image; None for a video."""
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
    """Selects at most `frames` good frames of a video, the best one of each equal time interval.

    Their times are not even, since a good frame tells more than a punctual one.
    Three frames of an interval are searched. Those without a face, with several, or with a small, cut off, uncertain or
    blurred one are rejected; of the others the one with the smallest detector disagreement is selected. `face` selects
    among several faces, counted from the left; frames that show just one are then used only where the whole video never
    shows more. Raises ValueError for a file that is no video and where no frame is good enough.
    """
    check_whole("frames", frames, 1)
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
            reason = rejection_reason(image, found, MIN_FACE, MAX_DOUBT, MIN_SHARPNESS)[0]
            key = len(faces) > 1, looks[number]
            if reason:
                passed[f"with a face that is {reason}"] += 1
            elif key not in best or found.detector_disagreement < best[key].face.detector_disagreement:
                best[key] = Photo(_name(path), image, found, frame.time)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if not best:
        reasons = ", ".join(f"{number} {reason}" for reason, number in passed.most_common())
        raise ValueError(f"{path}: no good frame of {sum(passed.values())} looked at: {reasons or 'it is empty'}")
    chosen = max(several for several, _ in best)
    kept = [photo for (several, _), photo in sorted(best.items(), key=lambda item: item[0]) if several == chosen]
    return [replace(photo, name=f"{photo.name}-{number:02d}") for number, photo in enumerate(kept)]


def choose_face(faces: Sequence[Face], label: str, face: int | None, alone: bool) -> Face:
    """Selects face number `face` from the left; a single face needs no number.

    `alone`: there is one photo only; of several photos, `face` applies to those that show several people. Raises
    ValueError, naming `label`, for no face, a number that is not there, or several faces without a number.
    """
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


def _name(path: Path) -> str:
    """Names what is in a file after it, as names of a result's files and JSON can be: Unicode, and not too long."""
    stem = re.sub(r"[\ud800-\udfff]", "_", path.stem)  # bytes that are no UTF-8
    return stem.encode()[:MOST_NAME].decode(errors="ignore")


def _numbered(photos: Sequence[Photo]) -> Iterator[Photo]:
    """Appends numbers to names that would collide."""
    names: set[str] = set()
    for photo in photos:
        name, copy = photo.name, 1
        while name in names:
            copy += 1
            name = f"{photo.name}-{copy}"
        names.add(name)
        yield replace(photo, name=name)
