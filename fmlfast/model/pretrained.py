"""Finds the trained model that comes with the package."""

import filecmp
import shutil
from pathlib import Path

from fmlfast.common.atomic import atomic_path

FOLDER = Path(__file__).with_name("shipped")
FILES = ("config.json", "model.safetensors")


def default_checkpoint() -> Path:
    """Returns the folder of the shipped model; raises ValueError where it is missing.

    Its config.json holds the settings of its training.
    """
    missing = [name for name in FILES if not (FOLDER / name).is_file()]
    if missing:
        raise ValueError(
            f"this installation has no trained model ({FOLDER / missing[0]} is missing): install fmlfast anew, or "
            "train a model with train.py and name its run folder"
        )
    return FOLDER


def copy_default_checkpoint(folder: Path) -> Path:
    """Copies the shipped model into `folder`, to make it a run folder for results; other files there stay.

    Raises ValueError where the shipped model is missing or `folder` holds another one.
    """
    source = default_checkpoint()
    for name in FILES:
        target = folder / name
        if not target.exists():
            with atomic_path(target) as temporary:
                shutil.copyfile(source / name, temporary)
        elif not filecmp.cmp(source / name, target, shallow=False):
            raise ValueError(f"{folder} holds another model than the shipped one; choose another output")
    return folder
