"""Reads, writes and checks meta.json, which tells how a folder of clips was made."""

import json
from pathlib import Path
from typing import Any

from fmlfast.common.atomic import atomic_path
from fmlfast.common.text_files import read_json
from fmlfast.data.landmark_assets import landmarks_version
from fmlfast.data.tar_files import check


def write_meta(folder: str | Path, meta: dict[str, Any]) -> None:
    """Writes `meta.json` (generator, seed, version, settings, ...) into the folder, atomically."""
    with atomic_path(Path(folder) / "meta.json") as temporary:
        temporary.write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8")


def read_meta(folder: str | Path) -> dict[str, Any]:
    """Reads the folder's `meta.json`; ValueError when it is missing or not a JSON object."""
    path = Path(folder) / "meta.json"
    try:
        return read_json(path)
    except OSError as error:
        raise ValueError(f"{path}: not readable ({error}); is this a folder of prepared clips?") from error


def check_landmarks(folder: str | Path) -> None:
    """Raises ValueError for clips whose points and features are of another landmark network than the installed one."""
    if not (Path(folder) / "meta.json").is_file():
        return  # shards alone tell nothing
    made_with = read_meta(folder).get("landmarks", landmarks_version())
    check(
        made_with == landmarks_version(),
        f"{folder} was made with landmark network {made_with}, this version has {landmarks_version()}: make it "
        "anew with fmlfast prepare or synthesize",
    )
