"""Photographs as people have them, read into one form."""

import io
import math
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageOps

MIN_SIDE = 64  # pixels; a face in less has too little to fit and the detector no longer finds it
FILM_DIAGONAL = math.hypot(36.0, 24.0)  # mm
SIXTEEN_BIT = ("I", "I;16", "I;16L", "I;16B", "I;16N")  # Pillow before 11.3 opens a 16-bit grey PNG as "I"


def read_image(path: str | Path) -> np.ndarray:
    """Reads a photo of any format Pillow knows as it should be seen: uint8 [H, W, 3], sRGB.

    EXIF orientation is applied; an embedded colour profile is converted to sRGB; 16-bit grey is scaled to 8 bits;
    grey and palette images become RGB; transparency is composited on white, since the colours stored under it are
    arbitrary. Of an animation the first frame is read.

    Raises FileNotFoundError when there is no such file, and ValueError naming the file when it cannot be decoded in
    full, has a pixel format without a known range, or is smaller than 64 pixels on a side.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such image")
    if path.is_dir():
        raise ValueError(f"{path} is a folder; name the image files in it")
    try:
        with Image.open(path) as opened:
            opened.load()
            image = ImageOps.exif_transpose(opened)
    except Exception as error:  # decoders raise whatever they like on broken bytes
        raise ValueError(
            f"{path}: cannot be read as an image ({error}); is it truncated? save it as JPEG or PNG"
        ) from error
    return check_image(np.array(_to_rgb(image, path)), str(path))


def read_focal(path: str | Path) -> float | None:
    """The focal length of a photo in pixels, as its EXIF data tells it in equivalents of 36 x 24 mm film.

    Equivalents have the same angle over the diagonal (CIPA DCG-001); they hold for photos that nobody has cropped. None
    where nothing is told.
    """
    try:
        with Image.open(path) as opened:
            told = opened.getexif().get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.FocalLengthIn35mmFilm)
            diagonal = math.hypot(*opened.size)
    except Exception:  # decoders raise whatever they like on broken bytes, which tell nothing
        return None
    return told * diagonal / FILM_DIAGONAL if isinstance(told, int) and told > 0 else None  # 0 stands for unknown


def check_image(image: np.ndarray, name: str) -> np.ndarray:
    """Returns `image` if it is uint8 [H, W, 3] of at least 64 pixels a side, else raises ValueError."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(
            f"{name}: an image array must be uint8 [H, W, 3] in sRGB, got {image.dtype} {list(image.shape)}"
        )
    height, width = image.shape[:2]
    if min(height, width) < MIN_SIDE:
        raise ValueError(
            f"{name}: {width}x{height} pixels is too small; give an image of at least {MIN_SIDE}x{MIN_SIDE}"
        )
    return image


def _to_rgb(image: Image.Image, path: Path) -> Image.Image:
    if image.mode in SIXTEEN_BIT:
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError(f"{path}: 32-bit pixels have no known range; save it as 8-bit or 16-bit PNG")
        return Image.fromarray(((values + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ValueError(f"{path}: floating-point pixels have no known range; save it as 8-bit or 16-bit PNG")
    profile = image.info.get("icc_profile")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    elif image.mode not in ("L", "RGB", "CMYK"):
        image = image.convert("RGB")
    return _to_srgb(image, profile) if profile else image.convert("RGB")


def _to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """`image` in sRGB by its embedded profile; phones store Display P3, whose reds are wrong when taken as sRGB."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError):  # a broken or mismatched profile: the plain values are the best guess
        converted = None
    return converted or image.convert("RGB")
