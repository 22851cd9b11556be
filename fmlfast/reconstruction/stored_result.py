"""Reads and checks the files of a result folder that may be damaged or come from anybody."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from fmlfast.common.pictures import open_picture
from fmlfast.common.text_files import read_json
from fmlfast.common.version import __version__
from fmlfast.template.face_template import FaceTemplate

FORMAT = 1  # version of the result folder's layout
_LOOKUP = (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError)
DAMAGE = (*_LOOKUP, OSError)
_NUMBERS = {"K": (3, 3), "landmarks": (68, 2), "landmark_error": (), "landmark_error_before_refinement": ()}


def read_parameters(path: Path) -> dict[str, Any]:
    """Reads the parameters.json of a result folder, and checks that this version understands it."""
    if path.with_suffix(".npz").is_file():
        raise ValueError(f"{path.parent} is a person of a tracked video; name {path.parent / 'face'}")
    if not path.is_file():
        raise ValueError(f"{path.parent} is no result of `fmlfast reconstruct`: {path.name} is missing")
    try:
        stored = read_json(path)
        version, form, _ = stored["fmlfast"], stored.get("format", 0), stored["template"]["fingerprint"]
    except DAMAGE as error:
        raise ValueError(f"{path} is damaged ({error}); reconstruct it anew") from error
    if form != FORMAT:
        raise ValueError(
            f"{path.parent} was written by fmlfast {version} in format {form}, but this version ({__version__}) reads "
            f"format {FORMAT}; reconstruct it anew"
        )
    return stored


def check_photos(photos: Any) -> None:
    """Raises ValueError, or another error of DAMAGE, where `photos` of a parameters.json are not what was written.

    Names become names of files, in this folder and where the result is saved again: no other place may be in them.
    """
    names = [photo["name"] for photo in photos]
    if not names or len({*names}) < len(names) or not all(map(_is_plain, names)):
        raise ValueError("photos need names that are unique and can be parts of a file's name")
    for photo in photos:
        for key, shape in _NUMBERS.items():
            numbers = np.array(photo[key], np.float64)
            if numbers.shape != shape or not np.isfinite(numbers).all():
                raise ValueError(f"{key} of photo {photo['name']} must be finite numbers of shape {list(shape)}")
        time, source = photo["time"], photo["focal_source"]
        if not isinstance(source, str) or (time is not None and not math.isfinite(time)):
            raise ValueError(f"time or focal_source of photo {photo['name']} are of a wrong type")


def _is_plain(name: Any) -> bool:
    return isinstance(name, str) and Path(photo_file(name)).name == photo_file(name)


def photo_file(name: str) -> str:
    """Returns the name of a photo's file."""
    return f"photo-{name}.png"


def read_picture(path: Path) -> np.ndarray:
    """Reads a picture, [H, W, 3] uint8 sRGB; ValueError naming it where it is damaged."""
    try:
        with open_picture(path) as opened:
            return np.array(opened.convert("RGB"))
    except Exception as error:  # decoders raise whatever they like on broken bytes
        raise ValueError(f"{path.name} cannot be read as an image ({error})") from error


def load_named_template(path: Path, told: Any) -> FaceTemplate:
    """Loads the template that a parameters.json names, and checks that it is the same one."""
    try:
        source, name, level = told.get("folder"), told.get("name"), told.get("level", 0)
        fingerprint, missing = told["fingerprint"], bool(source) and not Path(source).is_dir()
    except _LOOKUP as error:
        raise ValueError(f"{path} is damaged ({error!r}); reconstruct it anew") from error
    if missing:
        raise ValueError(
            f"{path.parent} belongs to template {name}, whose folder {source} is missing; put it back there, or write "
            f'its new place as "folder" into {path}'
        )
    try:
        if source:
            template = FaceTemplate.from_folder(source, told.get("unit", "mm"), level)
        else:
            template = FaceTemplate.default(level)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: its template cannot be loaded: {error}") from error
    if template.fingerprint != fingerprint:
        raise ValueError(
            f"{path.parent} belongs to template {name} ({fingerprint}), but {source or 'this version'} holds "
            f"{template.name} ({template.fingerprint}); reconstruct it anew, or bring that template back"
        )
    return template
