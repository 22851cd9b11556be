"""How the tests prepare videos, and read what came out."""

from pathlib import Path
from typing import Any

from fmlfast.data.shards import Clip, list_clips, read_clip
from fmlfast.data.video.prepare import PrepareConfig


def configure(out: Path, *inputs: Path, **options: Any) -> PrepareConfig:
    """Settings for drawn videos, by one process."""
    settings: dict[str, Any] = {"min_face": 40, "size": 64, "min_sharpness": 0.01, "workers": 1}
    return PrepareConfig(inputs, out, **(settings | options))


def clips_of(out: Path) -> list[Clip]:
    """The clips of a prepared folder."""
    return [read_clip(ref) for ref in list_clips(out, "train")]
